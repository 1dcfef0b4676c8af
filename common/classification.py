"""Classified texts: scores of windows pooled to rows, and what is written and shown of them."""

from collections.abc import Sequence

from common.calibration import Calibration
from common.lines import shorten
from common.losses import IGNORED, BinaryCrossEntropy, CrossEntropy
from common.metrics.classes import ClassMetric, make_indicators

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import confusion_matrix

MOST_CLASSES = 10  # probabilities that a prediction row names
WORST = 20  # rows of the report


def pool_windows(logits: np.ndarray, windows: Dataset, num_rows: int) -> np.ndarray:
    """Logits of each row, [rows, classes]: the mean over its windows."""
    rows = np.asarray(windows.with_format("numpy", columns=["row"])[:]["row"])
    sums = np.zeros((num_rows, logits.shape[1]))
    np.add.at(sums, rows, logits)
    return sums / np.bincount(rows, minlength=num_rows)[:, None]


def make_labels(rows: Dataset, num_classes: int, is_multi_label: bool) -> np.ndarray:
    """Class numbers [rows], or 0/1 [rows, classes] of a multi-label task; -100 for rows without label."""
    ids = rows["label_ids"]
    if not is_multi_label:
        return np.array([IGNORED if labels is None else labels[0] for labels in ids])
    indicators = make_indicators([labels or [] for labels in ids], num_classes)
    indicators[[labels is None for labels in ids]] = IGNORED
    return indicators


def score_rows(
    logits: np.ndarray,
    rows: Dataset,
    label_names: Sequence[str],
    calibration: Calibration,
    loss: CrossEntropy | BinaryCrossEntropy,
) -> dict[str, float]:
    """Scores of the rows that have labels and their mean loss; {} where none has. `logits` are [rows, classes]."""
    references = rows["label_ids"]
    labelled = [index for index, labels in enumerate(references) if labels is not None]
    if not labelled:
        return {}
    probabilities = calibration.compute_probabilities(logits[labelled])
    scores = ClassMetric(label_names, calibration.thresholds).compute(
        predictions=probabilities.tolist(), references=[references[index] for index in labelled]
    )
    labels = torch.from_numpy(make_labels(rows, len(label_names), calibration.thresholds is not None))
    losses = loss.per_item(torch.from_numpy(logits), labels)
    return scores | {"loss": float(losses.sum() / (labels != IGNORED).sum())}


def count_confusions(rows: list[dict], label_names: Sequence[str]) -> list[list[int]]:
    """How many rows of each label (down) were given each label (across), from rows that `list_labels` made."""
    gold, predicted = ([row[name] for row in rows] for name in ("label", "predicted_label"))
    return confusion_matrix(gold, predicted, labels=label_names).tolist()


def list_labels(logits: np.ndarray, rows: Dataset, label_names: Sequence[str], calibration: Calibration) -> list[dict]:
    """A row a text, in their order: id, text, gold label if any, predicted label with its probability, the best ten."""
    listed = []
    for row, probabilities in zip(rows, calibration.compute_probabilities(logits), strict=True):
        order = np.argsort(-probabilities, kind="stable")
        best = {label_names[index]: round(float(probabilities[index]), 4) for index in order[:MOST_CLASSES]}
        entry = {"id": row["id"], "text": row["text"]}
        if row["text_pair"] is not None:
            entry["text_pair"] = row["text_pair"]
        gold = None if row["label_ids"] is None else [label_names[index] for index in row["label_ids"]]
        if calibration.thresholds is None:
            entry |= {} if gold is None else {"label": gold[0]}
            entry |= {"predicted_label": label_names[order[0]], "score": best[label_names[order[0]]]}
        else:
            given = np.flatnonzero(probabilities >= np.array(calibration.thresholds))
            entry |= {} if gold is None else {"labels": gold}
            entry |= {"predicted_labels": [label_names[index] for index in given]}
        listed.append(entry | {"scores": best})
    return listed


def list_mistakes(rows: list[dict]) -> list[dict]:
    """The wrong predictions of which the model is most certain, for the report; some of them are wrong labels."""
    mistakes = []
    for row in rows:
        text = " / ".join(part for part in (row["text"], row.get("text_pair")) if part)
        text = shorten(text)
        if "label" in row and row["label"] != row["predicted_label"]:
            mistakes.append(
                {"score": row["score"], "text": text, "label": row["label"], "predicted": row["predicted_label"]}
            )
        elif "labels" in row and set(row["labels"]) != set(row["predicted_labels"]):
            wrong = set(row["labels"]) ^ set(row["predicted_labels"])
            mistakes.append(
                {"wrong": len(wrong), "text": text, "labels": ", ".join(row["labels"]) or "(none)",
                 "predicted": ", ".join(row["predicted_labels"]) or "(none)"}
            )  # fmt: skip
    return sorted(mistakes, key=lambda mistake: -next(iter(mistake.values())))[:WORST]


def list_reliabilities(rows: list[dict], label_names: Sequence[str]) -> tuple[list[float], list[bool]]:
    """Probabilities of predictions, and whether each is right: of single labels those given, of several all.

    Nothing of several labels of which a row names only the best.
    """
    single = [(row["score"], row["label"] == row["predicted_label"]) for row in rows if "label" in row]
    several = [
        (probability, name in row["labels"])
        for row in rows
        if "labels" in row and len(label_names) <= MOST_CLASSES
        for name, probability in row["scores"].items()
    ]
    probabilities, are_right = zip(*(single or several), strict=True) if single or several else ((), ())
    return list(probabilities), list(are_right)


def list_class_scores(metrics: dict[str, float], split: str, label_names: Sequence[str]) -> list[dict]:
    """A row for each class, for the report; [] where the split was not scored."""
    rows = []
    for name in label_names:
        key = f"class_{name}" if f"{split}_support_{name}" not in metrics else name
        if f"{split}_support_{key}" in metrics:
            scores = {score: metrics[f"{split}_{score}_{key}"] for score in ("precision", "recall", "f1", "support")}
            rows.append({"class": name, **scores})
    return rows


def report_classes(outcome, split: str, rows: list[dict], label_names: Sequence[str]) -> None:
    """Put scores by class, the surest mistakes, reliability and the confusion matrix of single labels into the report.

    A label that the model is sure is another may be wrong itself: there is no better sign of it among the predictions.
    """
    classes = list_class_scores(outcome.metrics, split, label_names)
    outcome.bars[f"{split} F1 by class"] = {row["class"]: row["f1"] for row in classes}
    outcome.tables[f"{split}: classes"] = classes
    outcome.tables[f"{split}: surest mistakes, of the model or of the labels"] = list_mistakes(rows)
    outcome.reliabilities[f"{split} reliability"] = list_reliabilities(rows, label_names)
    labelled = [row for row in rows if "label" in row]
    if labelled:
        outcome.add_confusions(split, label_names, count_confusions(labelled, label_names))


def show_window(row: dict[str, list], tokenizer) -> str:
    """The pieces of a text as the model gets them, and its label or labels by their numbers."""
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    return " ".join(piece for piece in pieces if piece != tokenizer.pad_token) + f" -> {row['labels']}"
