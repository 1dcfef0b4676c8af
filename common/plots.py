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
BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f9b61"


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
    axis.set(title=title, xlim=(0, 1.12 * whole))
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
