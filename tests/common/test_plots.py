import warnings
from pathlib import Path

import common.plots
from common.plots import (
    BLUE,
    GREEN,
    ORANGE,
    plot_bars,
    plot_confusions,
    plot_learning_curve,
    plot_outcome,
    plot_reliability,
    plot_spread,
)
from common.results import Outcome

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

TRAINING = [{"step": step, "loss": 2.0 / step, "learning_rate": 1e-4, "epoch": step / 10} for step in (10, 20, 30)]
EVALUATIONS = [{"step": step, "eval_loss": 1.0, "eval_f1": step / 40, "eval_accuracy": 0.9} for step in (15, 30)]


def read_picture(path: Path) -> np.ndarray:
    """[height, width, 3], from 0 to 255; PNG or nothing."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)


def count_pixels(picture: np.ndarray, color: str) -> int:
    return int((picture == [int(color[start : start + 2], 16) for start in (1, 3, 5)]).all(-1).sum())


def test_training_and_validation_are_drawn_each_in_its_color(tmp_path):
    path = tmp_path / "plots" / "learning.png"
    assert plot_learning_curve(TRAINING + EVALUATIONS, path) == [path]
    picture = read_picture(path)
    assert all(count_pixels(picture, color) > 50 for color in (BLUE, ORANGE, GREEN))
    assert picture.shape[1] > 2 * picture.shape[0]  # two panels


def test_without_scores_there_is_one_panel(tmp_path):
    log = [*TRAINING, {"step": 30, "eval_loss": 0.5}]
    picture = read_picture(plot_learning_curve(log, tmp_path / "a.png")[0])
    assert count_pixels(picture, BLUE) > 50 and count_pixels(picture, ORANGE) > 50 and count_pixels(picture, GREEN) == 0
    assert picture.shape[1] < 2 * picture.shape[0]


@pytest.mark.parametrize(
    ("scores", "drawn"),
    [
        (["accuracy"], [GREEN]),
        (["accuracy", "f1"], [GREEN, BLUE]),
        (["mcc", "f1", "accuracy", "f1"], [GREEN, BLUE]),  # mcc was not logged; the first two of the others
        (["mcc"], []),
        ([], []),
    ],
)
def test_the_first_two_named_scores_that_were_logged_are_drawn(tmp_path, scores, drawn):
    picture = read_picture(plot_learning_curve(EVALUATIONS, tmp_path / "a.png", scores)[0])
    for color in (GREEN, BLUE):
        assert (count_pixels(picture, color) > 50) == (color in drawn)
    assert (picture.shape[1] > 2 * picture.shape[0]) == bool(drawn)


def test_a_named_score_is_drawn_at_its_height(tmp_path):
    """Accuracy stays at 0.9 near the top, F1 begins below the middle."""
    tops = []
    for name in ("accuracy", "f1"):
        picture = read_picture(plot_learning_curve(EVALUATIONS, tmp_path / f"{name}.png", [name])[0])
        green = (picture == [int(GREEN[start : start + 2], 16) for start in (1, 3, 5)]).all(-1)
        left = np.flatnonzero(green.any(0))[:8]  # the first point
        tops.append(np.flatnonzero(green[:, left].any(1))[0] / picture.shape[0])
    assert tops[0] < 0.3 < 0.45 < tops[1]


@pytest.mark.parametrize(("log", "drawn", "absent"), [(TRAINING, BLUE, ORANGE), (EVALUATIONS[:1], ORANGE, None)])
def test_either_of_training_and_validation_may_be_missing(tmp_path, log, drawn, absent):
    picture = read_picture(plot_learning_curve(log, tmp_path / "a.png")[0])
    assert count_pixels(picture, drawn) > 50
    assert absent is None or count_pixels(picture, absent) == 0


def test_a_single_training_step_is_seen(tmp_path):
    """A line of one point has no length: only the legend would be blue."""
    one, none = (
        count_pixels(read_picture(plot_learning_curve(log, tmp_path / name)[0]), BLUE)
        for name, log in (("one.png", [{"step": 5, "loss": 1.0}]), ("none.png", [{"step": 5, "loss": float("nan")}]))
    )
    assert one > none + 10


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_spoils_neither_picture_nor_run(tmp_path, loss):
    log = [*TRAINING, {"step": 40, "loss": loss}, {"step": 40, "eval_loss": loss, "eval_f1": 0.0}]
    picture = read_picture(plot_learning_curve(log, tmp_path / "a.png")[0])
    assert count_pixels(picture, BLUE) > 50


@pytest.mark.parametrize("log", [[], [{"step": 30, "train_runtime": 1.0, "train_loss": 0.5}]])
def test_nothing_logged_gives_no_picture(tmp_path, log):
    assert plot_learning_curve(log, tmp_path / "plots" / "a.png") == []
    assert list(tmp_path.iterdir()) == []


def measure_bars(picture: np.ndarray) -> list[int]:
    """The width of each bar in pixels, from top to bottom."""
    rows = (picture == [int(BLUE[start : start + 2], 16) for start in (1, 3, 5)]).all(-1).sum(axis=1)
    return [int(rows[top]) for top in np.flatnonzero((rows[1:] > 0) & (rows[:-1] == 0)) + 2]


def test_bars_are_drawn_the_highest_on_top(tmp_path):
    path = tmp_path / "plots" / "bars.png"
    assert plot_bars("F1 by entity type", {"PER": 0.25, "LOC": 1.0, "ORG": 0.5}, path) == [path]
    widths = measure_bars(read_picture(path))
    assert len(widths) == 3
    assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.02)
    assert widths[2] / widths[0] == pytest.approx(0.25, abs=0.02)


def test_bars_in_order_begin_with_the_first(tmp_path):
    values = {"1-4 characters": 0.25, "5-8 characters": 1.0, "9-12 characters": 0.5}
    widths = measure_bars(read_picture(plot_bars("by length", values, tmp_path / "a.png", in_order=True)[0]))
    assert [width / widths[1] for width in widths] == pytest.approx([0.25, 1, 0.5], abs=0.02)


def test_percentages_fill_as_much_as_shares(tmp_path):
    shares, percentages = (
        measure_bars(read_picture(plot_bars("score", {"a": whole, "b": whole / 2}, tmp_path / f"{whole}.png")[0]))
        for whole in (1, 100)
    )
    assert percentages == pytest.approx(shares, rel=0.02)


def test_percentages_are_drawn_inside_the_learning_curve(tmp_path):
    log = [{"step": step, "eval_loss": 1.0, "eval_bleu": bleu} for step, bleu in ((10, 20.0), (20, 90.0))]
    picture = read_picture(plot_learning_curve(log, tmp_path / "a.png", ["bleu"])[0])
    green = (picture == [int(GREEN[start : start + 2], 16) for start in (1, 3, 5)]).all(-1)
    rows = np.flatnonzero(green[:, picture.shape[1] // 2 :].any(1)) / picture.shape[0]
    assert rows[0] < 0.25 and np.any((rows > 0.55) & (rows < 0.75)), "90 near the top, 20 far below, both drawn"


def test_more_bars_make_a_higher_picture(tmp_path):
    few = read_picture(plot_bars("few", {"a": 0.5}, tmp_path / "few.png")[0])
    many = read_picture(plot_bars("many", {str(number): 0.5 for number in range(20)}, tmp_path / "many.png")[0])
    assert many.shape[0] > 3 * few.shape[0] and many.shape[1] == few.shape[1]


def test_bars_of_zero_are_drawn_too(tmp_path):
    picture = read_picture(plot_bars("zero", {"a": 0.0, "b": 0.0}, tmp_path / "a.png")[0])
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1


def test_no_values_give_no_picture(tmp_path):
    assert plot_bars("nothing", {}, tmp_path / "plots" / "a.png") == []
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_script_and_sign_are_drawn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that no installed font has is drawn as a box
        path = plot_bars(
            "F1 of 我们 $", {"地名": 0.5, "a_b^c": 0.75, "$x$ $": 0.25, "{\\frac": 0.1}, tmp_path / "a.png"
        )
    assert count_pixels(read_picture(path[0]), BLUE) > 50


# Confusions


def find_shades(picture: np.ndarray) -> set[tuple[int, ...]]:
    """The colors that cover more than a thousandth of the picture: cells and paper, not letters."""
    colors, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(color) for color in colors[counts > counts.sum() / 1000].tolist()}


def test_confusions_are_shaded_by_their_share_of_the_row(tmp_path):
    path = tmp_path / "plots" / "confusions.png"
    # Rows of 400 and of 4: equal shares have equal shades.
    assert plot_confusions("test", ["a", "b"], [[300, 100], [1, 3]], path) == [path]
    few = find_shades(read_picture(path))
    other = read_picture(plot_confusions("test", ["a", "b"], [[4, 0], [2, 2]], tmp_path / "b.png")[0])
    shades = plt.get_cmap("Blues")([0.25, 0.75], bytes=True)[:, :3].tolist()
    assert {tuple(shade) for shade in shades} <= few
    assert not {tuple(shade) for shade in shades} & find_shades(other)


def test_confusions_are_gold_down_and_predicted_across(tmp_path):
    """All rows of a label were given the other one: the cells at the top right and the bottom left are dark."""
    picture = read_picture(plot_confusions("", ["a", "b"], [[0, 9], [9, 0]], tmp_path / "a.png")[0])
    dark = (picture == plt.get_cmap("Blues")(1.0, bytes=True)[:3]).all(-1)
    rows, columns = np.nonzero(dark)
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    on_top = rows < middle[0] - 2
    assert (columns[on_top] > middle[1] - 2).all() and (columns[rows > middle[0] + 2] < middle[1] + 2).all()
    assert on_top.sum() > 1000


@pytest.mark.parametrize(("labels", "most", "is_drawn"), [(1, 20, True), (3, 3, True), (4, 3, False), (21, 20, False)])
def test_confusions_of_more_than_thirty_labels_are_not_drawn(tmp_path, monkeypatch, labels, most, is_drawn):
    if most != common.plots.MOST_CONFUSED:  # twenty labels take a second to draw
        monkeypatch.setattr(common.plots, "MOST_CONFUSED", most)
    names = [f"label {number}" for number in range(labels)]
    path = tmp_path / "plots" / "a.png"
    assert plot_confusions("many", names, np.eye(labels, dtype=int).tolist(), path) == ([path] if is_drawn else [])
    assert path.exists() == is_drawn
    if is_drawn:
        assert len(find_shades(read_picture(path))) > 1  # not blank


def test_a_label_without_rows_is_drawn_and_divides_by_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = plot_confusions("empty", ["a", "$b$"], [[0, 0], [1, 1]], tmp_path / "a.png")[0]
    assert len(find_shades(read_picture(path))) > 1


# Spread and reliability


def find_color(picture: np.ndarray, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a color, as shares of height and width."""
    rows, columns = np.nonzero((picture == [int(color[start : start + 2], 16) for start in (1, 3, 5)]).all(-1))
    return rows / picture.shape[0], columns / picture.shape[1]


def test_a_spread_has_a_bar_where_there_are_rows_and_a_line_at_the_mean(tmp_path):
    path = tmp_path / "plots" / "spread.png"
    assert plot_spread("chrf of single texts", [0.0] * 30 + [100.0] * 10, path) == [path]
    picture = read_picture(path)
    tops, columns = find_color(picture, BLUE)
    left, right = tops[columns < 0.4].min(), tops[columns > 0.6].min()
    assert left < right, "three times as many rows on the left"
    assert not np.any((columns > 0.3) & (columns < 0.85))
    middle = find_color(picture, ORANGE)[1]
    middle = np.median(middle[middle < 0.6])  # but for the legend
    assert middle == pytest.approx(columns.min() + 0.25 * (columns.max() - columns.min()), abs=0.02)


def test_shares_and_percentages_are_spread_alike_and_nothing_gives_no_picture(tmp_path):
    shares, percentages = (
        find_color(read_picture(plot_spread("s", [0.5 * whole, whole], tmp_path / f"{whole}.png")[0]), BLUE)[1]
        for whole in (1, 100)
    )
    assert shares.max() == pytest.approx(percentages.max(), abs=0.03)
    assert plot_spread("nothing", [], tmp_path / "plots" / "a.png") == []
    assert plot_reliability("nothing", [], [], tmp_path / "plots" / "a.png") == []
    assert not (tmp_path / "plots").exists()


def test_reliability_has_a_point_where_the_probability_is_and_a_bar_below(tmp_path):
    """Predictions of 0.95 that are right four times in five, and of 0.55 that never are."""
    path = tmp_path / "plots" / "reliability.png"
    values = [0.95] * 10 + [0.55] * 5, [True] * 8 + [False] * 7
    assert plot_reliability("test", *values, path) == [path]
    rows, columns = find_color(read_picture(path), BLUE)
    lower = rows > 0.68
    # The axis is 1 wide; the last bar ends where it does.
    left, right = 0.19, columns[lower].max()
    places = left + (right - left) * np.array([0.5, 0.6, 0.9])
    bars = np.unique(columns[lower].round(2))
    assert all(places[0] - 0.05 < bar < places[1] + 0.05 or bar > places[2] - 0.05 for bar in bars)
    high = rows[~lower & (columns > places[2])]
    assert 0.1 < np.median(high) < 0.3, "0.8 of the height"
    assert np.any(np.abs(rows[~lower & (columns < places[2])] - 0.65) < 0.05), "on the ground, and not cut off"


def test_every_picture_of_an_outcome_has_a_file_of_its_title(tmp_path):
    outcome = Outcome("text-classification", ["accuracy"])
    outcome.bars["test F1 by class"] = {"a": 0.5}
    outcome.slices["test F1 by length"] = {"1-4 characters": 0.5}
    outcome.spreads["test chrf of single texts"] = [1.0, 50.0]
    outcome.reliabilities["test reliability"] = ([0.9], [True])
    outcome.add_confusions("test", ["a", "b"], [[1, 0], [0, 1]])
    names = ["f1_by_class", "f1_by_length", "chrf_of_single_texts", "reliability", "confusion_matrix"]
    assert plot_outcome(outcome, tmp_path) == [tmp_path / f"test_{name}.png" for name in names]
    assert all(len(find_shades(read_picture(tmp_path / f"test_{name}.png"))) > 1 for name in names)


def test_no_figure_stays_open(tmp_path):
    plot_spread("s", [0.5], tmp_path / "e.png")
    plot_reliability("r", [0.5], [True], tmp_path / "f.png")
    plot_learning_curve(TRAINING + EVALUATIONS, tmp_path / "a.png")
    plot_confusions("test", ["a", "b"], [[1, 0], [0, 1]], tmp_path / "c.png")
    plot_confusions("test", ["a"] * 31, np.eye(31).tolist(), tmp_path / "d.png")
    plot_bars("F1", {"PER": 0.5}, tmp_path / "b.png")
    assert plt.get_fignums() == []
