"""How sure a score is: bootstrap intervals over rows, and how likely chance alone tells two models apart.

Whatever score is computed from a sum over the rows (of right answers, of n-grams in common, of found entities) is
computed anew from sums over rows that are drawn with replacement: nothing is predicted or tokenized again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000  # of the bootstrap; of approximate randomisation 9999, so that p is at least 0.0001
SHUFFLES = 9999
SEED = 0  # not the run's: the same predictions have the same interval
BOUNDS = (0.025, 0.975)
MOST_DRAWN = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True)
class Tally:
    """What each row adds to a score, and the score of a sum.

    `counts` is [rows, numbers]; `score` turns sums, [sums, numbers], into scores, [sums].
    """

    counts: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    def compute(self, rows=slice(None)) -> float:
        """The score of all rows, or of these."""
        return float(self.score(self.counts[rows].sum(0, keepdims=True))[0])

    def compute_each(self) -> np.ndarray:
        """The score of each row by itself."""
        return self.score(self.counts)

    def group(self, groups: np.ndarray) -> "Tally":
        """The same with a row for each group, as replies of one dialogue, which are not drawn independently."""
        counts = np.zeros((len(np.unique(groups)), self.counts.shape[1]))
        np.add.at(counts, np.unique(groups, return_inverse=True)[1], self.counts)
        return Tally(counts, self.score)


@dataclass(frozen=True)
class Difference:
    """The scores of two models on the same rows, second minus first with its interval, and the p value of it."""

    first: float
    second: float
    low: float
    high: float
    p_value: float

    @property
    def value(self) -> float:
        return self.second - self.first


def find_intervals(tallies: dict[str, Tally]) -> dict[str, list[float]]:
    """[low, high] of each score: 95 % percentile intervals of the bootstrap (Efron 1979), {} of fewer than two rows.

    All tallies are of the same rows, which are the unit that is drawn.
    """
    if not tallies or _count_rows(tallies) < 2:
        return {}
    sums = _split(np.vstack(list(_draw_sums(_join(tallies)))), tallies)
    return {name: _find_bounds(tally.score(sums[name])) for name, tally in tallies.items()}


def format_interval(interval: Sequence[float] | None) -> str:
    """An interval as it stands behind its score: " [0.8012, 0.8645]", or "" where there is none."""
    return "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"


def compare_tallies(first: dict[str, Tally], second: dict[str, Tally]) -> dict[str, Difference]:
    """The difference in each score of two models on the same rows, in the same order.

    Its interval is that of the paired bootstrap (Koehn 2004): the same rows are drawn for both. The p value is that of
    approximate randomisation (Noreen 1989), two-sided: how often a difference as large comes about where each row's
    outcomes are the first's or the second's by chance.
    """
    joined = [_join(tallies) for tallies in (first, second)]
    drawn = np.vstack(list(_draw_sums(np.hstack(joined))))
    width = joined[0].shape[1]
    sums = [_split(part, first) for part in (drawn[:, :width], drawn[:, width:])]
    shuffled = [_split(part, first) for part in _shuffle_sums(*joined)]
    differences = {}
    for name, tally in first.items():
        scores = [part[name].compute() for part in (first, second)]
        resampled, by_chance = (tally.score(parts[1][name]) - tally.score(parts[0][name]) for parts in (sums, shuffled))
        observed = abs(scores[1] - scores[0])
        # A sum in another order differs in the last digit.
        as_large = np.count_nonzero(np.abs(by_chance) >= observed - 1e-9 * max(observed, 1))
        p_value = float(as_large + 1) / (len(by_chance) + 1)
        differences[name] = Difference(*scores, *_find_bounds(resampled), p_value)
    return differences


def _draw_sums(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Sums of as many rows as there are, drawn with replacement; the same rows at each call."""
    number = len(counts)
    generator = np.random.default_rng(SEED)
    for size in _cut(RESAMPLES, number):
        drawn = generator.integers(number, size=(size, number)) + number * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number)
        yield times.astype(np.float64) @ counts  # of whole numbers numpy has no fast product


def _shuffle_sums(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of both where each row's two outcomes are exchanged or not, by lots."""
    change = second - first
    change = change[change.any(1)]  # of a row that is the same in both there is nothing to exchange
    generator = np.random.default_rng(SEED)
    parts = _cut(SHUFFLES, len(change))
    exchanged = np.vstack([generator.integers(2, size=(size, len(change))).astype(float) @ change for size in parts])
    return first.sum(0) + exchanged, second.sum(0) - exchanged


def _cut(draws: int, rows: int) -> list[int]:
    """How many draws at a time."""
    most = max(MOST_DRAWN // max(rows, 1), 1)
    return [min(most, draws - done) for done in range(0, draws, most)]


def _join(tallies: dict[str, Tally]) -> np.ndarray:
    return np.hstack([tally.counts for tally in tallies.values()]).astype(np.float64)


def _split(sums: np.ndarray, tallies: dict[str, Tally]) -> dict[str, np.ndarray]:
    ends = np.cumsum([tally.counts.shape[1] for tally in tallies.values()])
    return dict(zip(tallies, np.split(sums, ends[:-1], axis=1), strict=True))


def _count_rows(tallies: dict[str, Tally]) -> int:
    return len(next(iter(tallies.values())).counts)


def _find_bounds(scores: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.quantile(scores, BOUNDS)]
