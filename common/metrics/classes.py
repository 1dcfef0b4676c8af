"""Scores of classified texts, single-label and multi-label: scikit-learn's, and the calibration error."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from sklearn import metrics

CALIBRATION_BINS = 15
ORDER = ("f1", "precision", "recall")


class ClassMetric(evaluate.Metric):
    """Scores of class probabilities against the numbers of the right classes.

    `compute(predictions=probabilities, references=lists of class numbers)`, both a list for each row, gives `accuracy`,
    `precision`, `recall` and `f1` with `_macro` (mean over the classes) and `_weighted` (by their frequency), the same
    three and `support` with `_<class>`, `mcc` (Matthews), `roc_auc` for two classes, and `ece`, the expected
    calibration error. With `thresholds`, one a class, rows may have any number of classes: `accuracy` is then that of
    whole rows, `_micro` is given too and `roc_auc` is the mean over the classes that have both kinds of rows.
    """

    # Whether the greater one is the better, None where neither is; * stands for each class.
    SCORES = {
        **{f"{score}_{mean}": True for score in ORDER for mean in ("macro", "weighted", "micro")},
        **{"accuracy": True, "mcc": True, "roc_auc": True, "ece": False},
        **{"f1_*": True, "precision_*": True, "recall_*": True, "support_*": None},
    }

    def __init__(self, label_names: Sequence[str], thresholds: Sequence[float] | None = None, **kwargs):
        # Kept in memory: files of this name in a shared cache would be locked against other runs and processes.
        super().__init__(keep_in_memory=True, **kwargs)
        self.label_names, self.thresholds = label_names, thresholds

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="@article{scikit-learn, title={Scikit-learn: Machine Learning in Python}, year={2011}}",
            inputs_description="predictions: class probabilities of each row; references: its class numbers",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions, references):
        probabilities = np.array(predictions)
        if self.thresholds is not None:
            return self._score_sets(probabilities, make_indicators(references, probabilities.shape[1]))
        gold, predicted = np.array(references)[:, 0], probabilities.argmax(1)
        scores = {"accuracy": float((gold == predicted).mean())}
        scores |= self._score_classes(gold, predicted, ("macro", "weighted"))
        scores["mcc"] = float(metrics.matthews_corrcoef(gold, predicted))
        if probabilities.shape[1] == 2 and len(set(gold.tolist())) == 2:
            scores["roc_auc"] = float(metrics.roc_auc_score(gold, probabilities[:, 1]))
        scores["ece"] = compute_calibration_error(probabilities.max(1), gold == predicted)
        return scores

    def _score_sets(self, probabilities: np.ndarray, gold: np.ndarray) -> dict[str, float]:
        predicted = (probabilities >= np.array(self.thresholds)).astype(int)
        scores = {"accuracy": float((gold == predicted).all(1).mean())}
        scores |= self._score_classes(gold, predicted, ("micro", "macro", "weighted"))
        scores["mcc"] = float(metrics.matthews_corrcoef(gold.ravel(), predicted.ravel()))
        mixed = [index for index in range(gold.shape[1]) if 0 < gold[:, index].sum() < len(gold)]
        if mixed:
            scores["roc_auc"] = float(np.mean([metrics.roc_auc_score(gold[:, n], probabilities[:, n]) for n in mixed]))
        scores["ece"] = compute_calibration_error(probabilities.ravel(), gold.ravel() == 1)
        return scores

    def _score_classes(self, gold, predicted, averages: Sequence[str]) -> dict[str, float]:
        numbers = range(len(self.label_names))
        if gold.ndim == 2 and gold.shape[1] == 1:
            # scikit-learn reads a single column as class numbers; with a second class, which no row has, as indicators.
            gold, predicted = (np.hstack([part, np.zeros_like(part)]) for part in (gold, predicted))
        scores = {}
        for average in averages:
            values = metrics.precision_recall_fscore_support(
                gold, predicted, labels=numbers, average=average, zero_division=0
            )
            scores |= {f"{name}_{average}": float(value) for name, value in zip(ORDER, _reorder(values), strict=True)}
        each = metrics.precision_recall_fscore_support(gold, predicted, labels=numbers, average=None, zero_division=0)
        for number, name in enumerate(self.label_names):
            name = f"class_{name}" if name in ("micro", "macro", "weighted") else name
            for score, values in zip(ORDER, _reorder(each), strict=True):
                scores[f"{score}_{name}"] = float(values[number])
            scores[f"support_{name}"] = int(each[3][number])
        return scores


def _reorder(values) -> tuple:
    precision, recall, f1 = values[:3]
    return f1, precision, recall


def make_indicators(references: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """1 where a row has the class, else 0: [rows, classes]."""
    indicators = np.zeros((len(references), num_classes), dtype=int)
    for row, classes in enumerate(references):
        indicators[row, list(classes)] = 1
    return indicators


def compute_calibration_error(confidences: np.ndarray, are_right: np.ndarray) -> float:
    """Expected calibration error with 15 bins of equal width: mean |accuracy - confidence| (Guo et al. 2017, eq. 3)."""
    bins = np.clip(np.ceil(confidences * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    gaps = np.bincount(bins, weights=are_right - confidences, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / counts.sum())
