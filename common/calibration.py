"""Probabilities that can be believed: temperature and thresholds, tuned on validation rows and kept with the model."""

from dataclasses import asdict, dataclass

from common.losses import IGNORED

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.metrics import precision_recall_curve

TEMPERATURES = (0.05, 20.0)


@dataclass
class Calibration:
    """How logits become probabilities, and from which probability on a class of a multi-label model is given."""

    temperature: float = 1.0
    thresholds: list[float] | None = None  # one a class; None where each row has exactly one class

    def compute_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of logits [rows, classes]: softmax, or a sigmoid for each class of a multi-label model."""
        scaled = torch.from_numpy(np.asarray(logits, dtype=np.float64)) / self.temperature
        return (scaled.softmax(-1) if self.thresholds is None else scaled.sigmoid()).numpy()


def make_default_calibration(num_classes: int, is_multi_label: bool) -> Calibration:
    """Temperature 1 and, for a multi-label model, thresholds of 0.5."""
    return Calibration(thresholds=[0.5] * num_classes if is_multi_label else None)


def read_calibration(config, num_classes: int, is_multi_label: bool, do_train: bool = False) -> Calibration:
    """What the model was saved with; without that, and for a model that is trained on, the default."""
    saved = None if do_train else getattr(config, "calibration", None)
    if saved is not None and len(saved["thresholds"] or ()) == (num_classes if is_multi_label else 0):
        return Calibration(**saved)
    return make_default_calibration(num_classes, is_multi_label)


def save_calibration(calibration: Calibration, config) -> None:
    """Keep it in config.json, where `read_calibration` finds it."""
    config.calibration = asdict(calibration)


def tune_calibration(logits: np.ndarray, labels: np.ndarray, is_multi_label: bool) -> Calibration:
    """The temperature with the least cross entropy on these rows (Guo et al. 2017, 4.2), and the thresholds of best F1.

    `logits` are [rows, classes]; `labels` are class numbers [rows] or 0/1 [rows, classes]; rows with -100 do not count.
    """
    labelled = labels != IGNORED if labels.ndim == 1 else labels[:, 0] != IGNORED
    scores, gold = torch.from_numpy(logits[labelled]).double(), torch.from_numpy(labels[labelled])
    calibration = make_default_calibration(logits.shape[1], is_multi_label)
    if len(gold) == 0:
        return calibration

    def measure(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        if is_multi_label:
            return F.binary_cross_entropy_with_logits(scaled, gold.double()).item()
        return F.cross_entropy(scaled, gold.long()).item()

    found = minimize_scalar(measure, bounds=np.log(TEMPERATURES), method="bounded")
    calibration.temperature = float(np.exp(found.x))
    if is_multi_label:
        probabilities = calibration.compute_probabilities(logits[labelled])
        columns = zip(probabilities.T, labels[labelled].T, strict=True)
        calibration.thresholds = [_find_threshold(column, classes) for column, classes in columns]
    return calibration


def _find_threshold(probabilities: np.ndarray, gold: np.ndarray) -> float:
    """The threshold of the best F1, half-way between two probabilities; 0.5 where no row has the class."""
    if not gold.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(gold, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    below = thresholds[best - 1] if best else 0.0
    return float((thresholds[best] + below) / 2)
