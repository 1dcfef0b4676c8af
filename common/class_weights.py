"""Weights of classes in the loss: from the frequencies in training, from numbers, or from a file."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.json_rows import parse_line
from common.lines import name_some
from common.losses import IGNORED

import numpy as np
import torch
from datasets import DatasetDict


def choose_class_weights(
    choice: list[str] | None, features: DatasetDict, label_names: Sequence[str], is_multi_label: bool = False
) -> torch.Tensor | None:
    """One weight a class, or None without a `choice` or without training rows.

    auto: inverse to the frequency in training, on average 1 over the training labels; a class without labels weighs 1.
    In a multi-label task the weight is that of the rows that have the class (rows without it / rows with it), the
    others weigh 1. Otherwise as many numbers as there are labels, or a JSON file {label: weight}.
    """
    if choice is None or choice == ["none"] or "train" not in features:
        return None
    if choice == ["auto"]:
        labels = features["train"]["labels"]
        return _count_positives(labels) if is_multi_label else _balance(labels, len(label_names))
    if len(choice) == 1 and choice[0].endswith(".json"):
        weights = _read_weights(Path(choice[0]), label_names)
    else:
        try:
            weights = [float(weight) for weight in choice]
        except ValueError:
            raise UserError(
                f"class_weights {' '.join(choice)}: give none, auto, {len(label_names)} numbers, or a .json file."
            ) from None
    if len(weights) != len(label_names):
        raise UserError(
            f"class_weights has {len(weights)} numbers for {len(label_names)} labels ({name_some(label_names)})."
        )
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise UserError(f"class_weights {weights}: weights are numbers from 0 up, not all of them 0.")
    return torch.tensor(weights, dtype=torch.float32)


def _balance(rows, num_classes: int) -> torch.Tensor:
    from sklearn.utils.class_weight import compute_class_weight  # here: it takes two seconds to import

    labels = np.concatenate([np.ravel(row) for row in rows])
    labels = labels[labels != IGNORED]
    present = np.unique(labels)
    weights = torch.ones(num_classes)
    weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=weights.dtype)
    return weights


def _count_positives(rows) -> torch.Tensor:
    labels = np.array(rows, dtype=np.float32)
    positives = labels.sum(0)
    weights = np.where(positives > 0, (len(labels) - positives) / np.maximum(positives, 1), 1.0)
    return torch.tensor(np.maximum(weights, 1e-3), dtype=torch.float32)


def _read_weights(path: Path, label_names: Sequence[str]) -> list[float]:
    try:
        content, fault = parse_line(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"class_weights {path}: cannot be read ({error.strerror}); check the path.") from None
    except UnicodeDecodeError:
        raise UserError(f"class_weights {path}: not UTF-8; save the file as UTF-8.") from None
    if fault is not None:
        raise UserError(f"class_weights {path}: not valid JSON ({fault.text.split(';')[0]}); write {{label: weight}}.")
    if not isinstance(content, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in content.values()
    ):
        raise UserError(f"class_weights {path}: write an object with a number for each label.")
    differing = sorted(content.keys() ^ set(label_names))
    if differing:
        raise UserError(f"class_weights {path}: {differing[0]!r} is there or in the labels only; name each label once.")
    return [content[name] for name in label_names]
