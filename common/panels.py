"""What Weights & Biases shows of a finished run: tables, charts and pictures of what the evaluation left behind."""

import itertools
import json
from pathlib import Path

from common.lines import shorten
from common.result_files import read_predictions

import numpy as np
import wandb
from sklearn.metrics import precision_recall_curve

LONGEST_TEXT = 400  # characters of a text in a table
CURVE_POINTS = 101


def list_panels(outcome, output_dir: Path, most_rows: int) -> dict[str, object]:
    """By its name, everything of an Outcome that is more than a number, and the predictions that were written."""
    panels = {}
    for title, rows in outcome.tables.items():
        # A colon cannot be in the name of a file everywhere, and W&B keeps tables as files.
        panels |= {f"tables/{title.replace(':', '')}": make_table(rows)} if rows else {}
    for title, values in (outcome.bars | outcome.slices).items():
        panels |= {f"charts/{title}": draw_bars(title, values)} if values else {}
    for title, (labels, counts) in outcome.matrices.items():
        panels[f"charts/{title}"] = draw_confusions(title, labels, counts)
    for path in sorted(output_dir.glob("predictions_*.jsonl")):
        split = path.stem.removeprefix("predictions_")
        rows = read_predictions(output_dir, split)
        if most_rows:
            shown = itertools.chain.from_iterable(map(unfold, rows))
            panels[f"predictions/{split}"] = make_table(list(itertools.islice(shown, most_rows)))
        curves = draw_precision_recall(f"{split} precision and recall", rows)
        panels |= {f"charts/{split} precision and recall": curves} if curves else {}
    for path in sorted((output_dir / "plots").glob("*.png")):
        panels[f"plots/{path.stem}"] = wandb.Image(str(path))
    return panels


def unfold(row: dict) -> list[dict]:
    """A row for each part of a row that holds nothing but an id and parts, as each reply of a dialogue."""
    match [value for name, value in row.items() if name != "id"]:
        case [list(parts)] if all(isinstance(part, dict) for part in parts):
            return [{"id": row["id"], **part} for part in parts]
    return [row]


def make_table(rows: list[dict]) -> wandb.Table:
    """The rows as a table of all their keys; long texts are cut, lists and mappings written as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    # Where a column has numbers and texts, W&B would refuse the second kind.
    return wandb.Table(names, [[_show(row.get(name)) for name in names] for row in rows], allow_mixed_types=True)


def _show(value):
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, ensure_ascii=False)
    return shorten(value, LONGEST_TEXT) if isinstance(value, str) else value


def draw_bars(title: str, values: dict[str, float]):
    """A bar for each value."""
    table = wandb.Table(["label", "value"], [[label, float(value)] for label, value in values.items()])
    return wandb.plot.bar(table, "label", "value", title=title)


def draw_confusions(title: str, labels: list[str], counts: list[list[int]]):
    """How often each label was given each label, from the counts (gold down)."""
    columns = ["Actual", "Predicted", "nPredictions"]
    cells = [
        [gold, predicted, int(number)]
        for gold, row in zip(labels, counts, strict=True)
        for predicted, number in zip(labels, row, strict=True)
    ]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns, cells),
        fields=dict(zip(columns, columns, strict=True)),
        string_fields={"title": title},
    )


def draw_precision_recall(title: str, rows: list[dict]):
    """Precision over recall for each class of classified texts, from the probabilities in the rows; None without.

    Nothing is drawn where rows hold the best of many classes only: the others' probabilities would be missing.
    """
    gold, probabilities = [], []
    for row in rows:
        known = row.get("labels", [row["label"]] if "label" in row else None)
        if "scores" not in row or known is None:
            continue
        gold.append(set(known))
        probabilities.append(row["scores"])
    classes = sorted({name for scores in probabilities for name in scores})
    if not classes or any(len(scores) < len(classes) for scores in probabilities):
        return None
    points, recalls = [], np.linspace(0, 1, CURVE_POINTS)
    for name in classes:
        is_gold = np.array([name in known for known in gold])
        if is_gold.any():
            precision, recall, _ = precision_recall_curve(is_gold, [scores[name] for scores in probabilities])
            precision, recall = precision[:-1], recall[:-1]  # the last point is no threshold's: 1 at recall 0
            # The best precision that a threshold with this recall or more reaches; recall falls from 1 on.
            best = np.maximum.accumulate(precision)
            heights = best[len(recall) - 1 - np.searchsorted(recall[::-1], recalls)]
            points += [[name, float(x), float(y)] for x, y in zip(recalls, heights, strict=True)]
    return wandb.plot_table(
        vega_spec_name="wandb/area-under-curve/v0",
        data_table=wandb.Table(["class", "recall", "precision"], points),
        fields={"x": "recall", "y": "precision", "class": "class"},
        string_fields={"title": title, "x-axis-title": "recall", "y-axis-title": "precision"},
    )
