"""Pictures of a run, as PNG files."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen
import matplotlib.pyplot as plt

# Names of labels and texts may be Chinese: the first of these that is installed draws them.
plt.rcParams["font.sans-serif"] = ["Noto Sans CJK SC", "WenQuanYi Zen Hei", "SimHei", "PingFang SC", "DejaVu Sans"]
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
matplotlib.set_loglevel("error")  # one warning for each font of the list that is not installed
BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f9b61"


def plot_learning_curve(log_history: list[dict], path: Path) -> list[Path]:
    """Training and validation loss over the steps, the validation scores beside them; [] when nothing was logged."""
    train = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    evaluations = [entry for entry in log_history if "eval_loss" in entry]
    if not train and not evaluations:
        return []
    scores = [name for name in ("eval_f1", "eval_accuracy") if evaluations and name in evaluations[0]]
    figure, axes = plt.subplots(1, 2 if scores else 1, figsize=(10 if scores else 5.5, 3.6), squeeze=False)
    if train:
        axes[0, 0].plot(*zip(*train, strict=True), "o-" if len(train) == 1 else "-", color=BLUE, label="training")
    if evaluations:
        steps = [entry["step"] for entry in evaluations]
        axes[0, 0].plot(steps, [entry["eval_loss"] for entry in evaluations], "o-", color=ORANGE, label="validation")
    axes[0, 0].set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes[0, 0].legend(frameon=False)
    for name, color in zip(scores, (GREEN, BLUE), strict=False):
        label = name.removeprefix("eval_")
        axes[0, 1].plot(steps, [entry[name] for entry in evaluations], "o-", color=color, label=label)
        axes[0, 1].set(xlabel="step", ylabel="validation score", ylim=(0, 1.02))
        axes[0, 1].legend(frameon=False, loc="lower right")
    return _save(figure, path)


def plot_bars(title: str, values: dict[str, float], path: Path) -> list[Path]:
    """One horizontal bar for each value between 0 and 1, the highest on top; [] when there are none."""
    if not values:
        return []
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure, axis = plt.subplots(figsize=(6.5, 1.2 + 0.32 * len(ordered)))
    bars = axis.barh([name for name, _ in ordered], [value for _, value in ordered], color=BLUE)
    axis.bar_label(bars, fmt="%.3f", padding=3)
    axis.set(title=title, xlim=(0, 1.12))
    axis.grid(axis="y", visible=False)
    return _save(figure, path)


def _save(figure, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return [path]
