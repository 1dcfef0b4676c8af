"""Pictures of a run, as PNG files."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.console import say

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no screen
import matplotlib.pyplot as plt

# Names of labels and texts may be Chinese: the first of these that is installed draws them.
plt.rcParams["font.sans-serif"] = [
    "Noto Sans CJK SC", "Noto Sans SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "SimHei", "Microsoft YaHei",
    "PingFang SC", "PingFang HK", "Hiragino Sans GB", "DejaVu Sans",
]  # fmt: skip
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
matplotlib.set_loglevel("error")  # one warning for each font of the list that is not installed
MOST_CONFUSED = 20  # labels that a confusion matrix has room for
SPREAD_BINS, RELIABILITY_BINS = 20, 10
BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f9b61"


def plot_outcome(outcome, folder: Path) -> list[Path]:
    """Every picture of an Outcome but the learning curve, each in a file that its title names."""
    plots = []
    for title, values in outcome.bars.items():
        plots += plot_bars(title, values, name_plot(folder, title))
    for title, values in outcome.slices.items():
        plots += plot_bars(title, values, name_plot(folder, title), in_order=True)
    for title, values in outcome.spreads.items():
        plots += plot_spread(title, values, name_plot(folder, title))
    for title, (probabilities, are_right) in outcome.reliabilities.items():
        plots += plot_reliability(title, probabilities, are_right, name_plot(folder, title))
    for title, (labels, counts) in outcome.matrices.items():
        plots += plot_confusions(title, labels, counts, name_plot(folder, title))
    return plots


def name_plot(folder: Path, title: str) -> Path:
    """The file of the picture with this title."""
    return folder / f"{title.lower().replace(' ', '_')}.png"


def plot_learning_curve(log_history: list[dict], path: Path, scores: Sequence[str] = ("f1",)) -> list[Path]:
    """Training and validation loss over the steps, the first two `scores` beside them; [] when nothing was logged."""
    train = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    evaluations = [entry for entry in log_history if "eval_loss" in entry]
    if not train and not evaluations:
        return []
    scores = [f"eval_{name}" for name in scores if evaluations and f"eval_{name}" in evaluations[0]][:2]
    figure, axes = plt.subplots(1, 2 if scores else 1, figsize=(10 if scores else 5.5, 3.6), squeeze=False)
    if train:
        axes[0, 0].plot(*zip(*train, strict=True), "o-" if len(train) == 1 else "-", color=BLUE, label="training")
    if evaluations:
        steps = [entry["step"] for entry in evaluations]
        axes[0, 0].plot(steps, [entry["eval_loss"] for entry in evaluations], "o-", color=ORANGE, label="validation")
    axes[0, 0].set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes[0, 0].legend(frameon=False)
    whole = _choose_whole(entry[name] for entry in evaluations for name in scores)
    for name, color in zip(scores, (GREEN, BLUE), strict=False):
        label = name.removeprefix("eval_")
        axes[0, 1].plot(steps, [entry[name] for entry in evaluations], "o-", color=color, label=label)
        axes[0, 1].set(xlabel="step", ylabel="validation score", ylim=(0, 1.02 * whole))
        axes[0, 1].legend(frameon=False, loc="lower right")
    return _save(figure, path)


def plot_bars(title: str, values: dict[str, float], path: Path, in_order: bool = False) -> list[Path]:
    """One horizontal bar for each share or percentage, the highest on top or all in their order; [] without any."""
    if not values:
        return []
    ordered = [*values.items()][::-1] if in_order else sorted(values.items(), key=lambda item: item[1])
    whole = _choose_whole(values.values())
    figure, axis = plt.subplots(figsize=(6.5, 1.2 + 0.32 * len(ordered)))
    bars = axis.barh([name for name, _ in ordered], [value for _, value in ordered], color=BLUE)
    axis.bar_label(bars, fmt="%.3f" if whole == 1 else "%.1f", padding=3)
    axis.set(title=title, xlabel="score", xlim=(0, 1.12 * whole))
    axis.grid(axis="y", visible=False)
    return _save(figure, path)


def plot_confusions(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]], path: Path) -> list[Path]:
    """How often each label (down) was given each label (across), shaded by its share of the row; [] beyond 20."""
    if len(labels) > MOST_CONFUSED:
        return []
    numbers = np.array(counts)
    shares = numbers / np.maximum(numbers.sum(1, keepdims=True), 1)
    size = 2.6 + 0.5 * len(labels)
    figure, axis = plt.subplots(figsize=(size, size))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(numbers):
        axis.text(
            column, row, number, ha="center", va="center", color="white" if shares[row, column] > 0.6 else "black"
        )
    axis.set(title=title, xlabel="predicted", ylabel="gold")
    axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.grid(visible=False)
    return _save(figure, path)


def plot_spread(title: str, values: Sequence[float], path: Path) -> list[Path]:
    """How many rows have which score, a share or percentage, and where the mean is; [] without any."""
    if not values:
        return []
    whole = _choose_whole(values)
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    axis.hist(values, bins=np.linspace(0, whole, SPREAD_BINS + 1), color=BLUE, edgecolor="white")
    mean = float(np.mean(values))
    axis.axvline(mean, color=ORANGE, label=f"mean {mean:.{1 if whole > 1 else 3}f}")
    axis.set(title=title, xlabel="score", ylabel="rows", xlim=(0, whole))
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="x", visible=False)
    axis.legend(frameon=False)
    return _save(figure, path)


def plot_reliability(title: str, probabilities: Sequence[float], are_right: Sequence[bool], path: Path) -> list[Path]:
    """How often predictions of each probability are right, above how many there are; [] without any.

    On the diagonal the probabilities are true (Guo et al. 2017, figure 1).
    """
    if not probabilities:
        return []
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    bins = np.clip(np.digitize(probabilities, edges, right=True) - 1, 0, RELIABILITY_BINS - 1)
    counts = np.bincount(bins, minlength=RELIABILITY_BINS)
    filled = counts > 0
    rights, means = (
        np.bincount(bins, weights=values, minlength=RELIABILITY_BINS)[filled] / counts[filled]
        for values in (are_right, probabilities)
    )
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(4.8, 5.4), sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), "--", color="gray", linewidth=1, label="as probable as right")
    upper.plot(means, rights, "o", color=BLUE, label="these predictions", clip_on=False)
    upper.set(title=title, ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    upper.legend(frameon=False, loc="upper left")
    bars = lower.bar(edges[:-1], counts, width=1 / RELIABILITY_BINS, align="edge", color=BLUE, edgecolor="white")
    lower.bar_label(bars, [str(count) if count else "" for count in counts], fontsize=8)
    lower.set(xlabel="probability of the prediction", ylabel="predictions", ylim=(0, 1.25 * counts.max()))
    lower.yaxis.get_major_locator().set_params(integer=True)
    return _save(figure, path)


def _choose_whole(values: Iterable[float]) -> int:
    """1 for shares, 100 where a value above 1 shows that they are percentages, as BLEU and ROUGE are."""
    return 100 if any(value > 1 for value in values) else 1


def _save(figure, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:  # one for each character that no font has
        warnings.simplefilter("always")
        figure.tight_layout()
        figure.savefig(path, dpi=130)
    if any("missing from font" in str(warning.message) for warning in caught):
        # matplotlib lists the fonts once, and does not see those that are installed later.
        cache = matplotlib.get_cachedir()
        say(f"{path.name}: no known font has all its characters; install Noto Sans CJK and delete {cache}/fontlist*.")
    plt.close(figure)
    return [path]
