"""common/intervals.py, against scipy, against every outcome counted, and by hand."""

from itertools import product

import common.intervals
from common.intervals import Tally, compare_tallies, find_intervals, format_interval

import numpy as np
import pytest
import scipy.stats


def make_mean(values) -> Tally:
    return Tally(
        np.stack([np.asarray(values, float), np.ones(len(values))], axis=1), lambda sums: sums[:, 0] / sums[:, 1]
    )


def make_ratio(numerators, denominators) -> Tally:
    return Tally(np.stack([numerators, denominators], axis=1).astype(float), lambda sums: sums[:, 0] / sums[:, 1])


def draw_values(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=rows)


# Scores and intervals


def test_a_score_is_that_of_the_sum_over_all_rows_or_some():
    tally = make_ratio([1, 0, 3], [1, 2, 5])
    assert tally.compute() == 0.5
    assert tally.compute([1, 2]) == pytest.approx(3 / 7)
    assert tally.compute_each().tolist() == [1.0, 0.0, 0.6]


def test_of_two_rows_each_half_is_drawn_too_often_to_be_left_out():
    """0, 1/2 and 1 are drawn with 1/4, 1/2 and 1/4: the middle 95 % reach from 0 to 1."""
    assert find_intervals({"mean": make_mean([0, 1])}) == {"mean": [0.0, 1.0]}


def test_rows_that_are_all_alike_have_no_spread_and_one_row_has_no_interval():
    assert find_intervals({"mean": make_mean([0.25] * 9)}) == {"mean": [0.25, 0.25]}
    assert find_intervals({"mean": make_mean([0.25])}) == {} == find_intervals({})


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = draw_values(150)
    reference = scipy.stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=2)
    spread = reference.standard_error
    low, high = find_intervals({"mean": make_mean(values)})["mean"]
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.15 * spread)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.15 * spread)


def test_the_interval_of_a_ratio_is_that_of_a_plain_loop():
    """A ratio of sums, as precision is, not a mean of ratios: rows with more in them weigh more."""
    generator = np.random.default_rng(3)
    denominators = generator.integers(1, 9, 80)
    numerators = generator.binomial(denominators, 0.6)
    scores = []
    for _ in range(10000):
        rows = generator.integers(80, size=80)
        scores.append(numerators[rows].sum() / denominators[rows].sum())
    low, high = find_intervals({"ratio": make_ratio(numerators, denominators)})["ratio"]
    assert [low, high] == pytest.approx(np.quantile(scores, [0.025, 0.975]).tolist(), abs=0.15 * np.std(scores))


def test_an_interval_of_95_percent_holds_the_truth_95_times_in_100():
    """200 samples of 100 rows that are right with 0.8; 3 standard deviations of a binomial are 4.6 %."""
    generator = np.random.default_rng(4)
    intervals = [find_intervals({"s": make_mean(generator.random(100) < 0.8)})["s"] for _ in range(200)]
    assert np.mean([low <= 0.8 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.046)


def test_the_same_predictions_have_the_same_interval_alone_and_beside_others():
    first, second = make_mean(draw_values(40)), make_mean(draw_values(40, seed=5))
    both = find_intervals({"a": first, "b": second})
    assert both == {**find_intervals({"a": first}), **find_intervals({"b": second})}


def test_many_rows_are_drawn_part_by_part(monkeypatch):
    tally = {"mean": make_mean(draw_values(60))}
    whole = find_intervals(tally)["mean"]
    monkeypatch.setattr(common.intervals, "MOST_DRAWN", 60 * 7)
    assert find_intervals(tally)["mean"] == pytest.approx(whole, abs=0.1)
    assert sum(common.intervals._cut(2000, 60)) == 2000 and max(common.intervals._cut(2000, 60)) == 7


def test_rows_of_one_group_are_drawn_together():
    """Two groups, one all right and one all wrong, have the interval of two rows however many they hold."""
    tally = make_mean([1] * 50 + [0] * 50)
    low, high = find_intervals({"s": tally})["s"]
    assert 0.35 < low < high < 0.65
    grouped = tally.group(np.array([7] * 50 + [3] * 50))
    assert grouped.counts.tolist() == [[0, 50], [50, 50]]
    assert find_intervals({"s": grouped})["s"] == [0.0, 1.0]


def test_an_interval_stands_in_brackets_behind_its_score():
    assert format_interval([0.5, 0.75]) == " [0.5000, 0.7500]" and format_interval(None) == ""


# Differences


def test_the_interval_of_a_difference_is_that_of_scipys_paired_bootstrap():
    first = draw_values(120)
    second = first + np.random.default_rng(6).normal(0.1, 0.3, size=120)
    reference = scipy.stats.bootstrap(
        (first, second), lambda a, b, axis: b.mean(axis) - a.mean(axis), n_resamples=20000, method="percentile",
        paired=True, rng=7,
    )  # fmt: skip
    found = compare_tallies({"mean": make_mean(first)}, {"mean": make_mean(second)})["mean"]
    assert found.value == pytest.approx((second - first).mean())
    bounds = reference.confidence_interval
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), abs=0.15 * reference.standard_error)
    low, high = find_intervals({"mean": make_mean(first)})["mean"]
    assert found.high - found.low < 0.7 * (high - low), "what both have in common does not count"


def test_p_is_the_share_of_all_exchanges_with_a_difference_as_large():
    first, second = (
        np.array([0.1, 0.5, 0.4, 0.9, 0.3, 0.2, 0.6, 0.7]),
        np.array([0.4, 0.4, 0.7, 0.9, 0.8, 0.1, 0.9, 1.0]),
    )
    change = second - first
    exact = np.mean([abs(np.dot(signs, change)) >= abs(change.sum()) - 1e-12 for signs in product((1, -1), repeat=8)])
    found = compare_tallies({"mean": make_mean(first)}, {"mean": make_mean(second)})["mean"]
    assert found.p_value == pytest.approx(exact, abs=0.01) and 0.02 < exact < 0.2


def test_p_of_a_ratio_is_that_of_a_plain_loop():
    generator = np.random.default_rng(8)
    parts = [generator.integers(1, 9, size=(2, 40)) for _ in range(2)]
    first, second = (np.stack([np.minimum(top, below), below], axis=1) for top, below in parts)

    def difference(one, other):
        return other[:, 0].sum() / other[:, 1].sum() - one[:, 0].sum() / one[:, 1].sum()

    observed, as_large = difference(first, second), 0
    for _ in range(5000):
        lots = generator.integers(2, size=(40, 1)).astype(bool)
        by_chance = difference(np.where(lots, second, first), np.where(lots, first, second))
        as_large += abs(by_chance) >= abs(observed)
    found = compare_tallies({"r": make_ratio(*first.T)}, {"r": make_ratio(*second.T)})["r"]
    assert found.p_value == pytest.approx(as_large / 5000, abs=0.03)


def test_two_alike_differ_by_nothing_and_chance_explains_all():
    tally = {"mean": make_mean(draw_values(30))}
    found = compare_tallies(tally, tally)["mean"]
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_ten_of_ten_the_better_cannot_be_chance():
    """Only the exchange of all rows or of none differs as much: 2 of 1024."""
    found = compare_tallies({"s": make_mean([0] * 10)}, {"s": make_mean([1] * 10)})["s"]
    assert found.p_value == pytest.approx(2 / 1024, abs=0.0015) and (found.low, found.high) == (1.0, 1.0)
    turned = compare_tallies({"s": make_mean([1] * 10)}, {"s": make_mean([0] * 10)})["s"]
    assert turned.value == -1.0 and turned.p_value == found.p_value
