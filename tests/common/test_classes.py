from common.metrics.classes import ClassMetric, compute_calibration_error, make_indicators

import numpy as np
import pytest
from sklearn import metrics

PARTS = {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score}


def score(names, probabilities, references, thresholds=None) -> dict[str, float]:
    return ClassMetric(names, thresholds).compute(predictions=probabilities, references=references)


def draw_probabilities(seed: int, rows: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows)


# One class a row


def test_scores_of_one_class_a_row_by_hand():
    """Right: a, a, b; a given as b; b given as a; c given as a."""
    probabilities = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.4, 0.5, 0.1], [0.9, 0.1, 0], [0.5, 0.1, 0.4]]
    scores = score(["a", "b", "c"], probabilities, [[0], [0], [1], [0], [1], [2]])
    expected = {
        "accuracy": 3 / 6,
        "precision_a": 2 / 4, "recall_a": 2 / 3, "f1_a": 4 / 7, "support_a": 3,
        "precision_b": 1 / 2, "recall_b": 1 / 2, "f1_b": 1 / 2, "support_b": 2,
        "precision_c": 0, "recall_c": 0, "f1_c": 0, "support_c": 1,
        "precision_macro": 1 / 3, "recall_macro": 7 / 18, "f1_macro": (4 / 7 + 1 / 2) / 3,
        "precision_weighted": (3 / 2 + 1) / 6, "recall_weighted": 1 / 2, "f1_weighted": (12 / 7 + 1) / 6,
        # (right x rows - sum of gold x given) / the root of (rows^2 - sum gold^2)(rows^2 - sum given^2)
        "mcc": (3 * 6 - (3 * 4 + 2 * 2)) / ((36 - 14) * (36 - 20)) ** 0.5,
        # bins of 1/15 of the highest: 0.8 | 0.6 | 0.7 | 0.5 0.5 | 0.9; all other bins are empty
        "ece": (0.2 + 0.4 + 0.3 + abs(0 - 1.0) + 0.9) / 6,
    }  # fmt: skip
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_of_one_class_a_row_are_those_of_sklearn(classes):
    probabilities = draw_probabilities(classes, 80, classes)
    gold = np.random.default_rng(1).integers(0, classes, 80)
    scores = score([f"c{number}" for number in range(classes)], probabilities.tolist(), gold[:, None].tolist())
    predicted = probabilities.argmax(1)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert scores["mcc"] == pytest.approx(metrics.matthews_corrcoef(gold, predicted))
    for name, function in PARTS.items():
        for average in ("macro", "weighted"):
            assert scores[f"{name}_{average}"] == pytest.approx(function(gold, predicted, average=average))
        each = function(gold, predicted, average=None)
        assert [scores[f"{name}_c{number}"] for number in range(classes)] == pytest.approx(each.tolist())
    if classes == 2:
        assert scores["roc_auc"] == pytest.approx(metrics.roc_auc_score(gold, probabilities[:, 1]))
    assert ("roc_auc" in scores) == (classes == 2)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    second = [0.9, 0.4, 0.6, 0.1, 0.6]
    gold = [1, 1, 0, 0, 1]
    rows = list(zip(second, gold, strict=True))
    pairs = [(a > b) + (a == b) / 2 for a, x in rows for b, y in rows if x > y]
    scores = score(["no", "yes"], [[1 - value, value] for value in second], [[label] for label in gold])
    assert scores["roc_auc"] == pytest.approx(sum(pairs) / 6)


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_rows_of_one_class_alone_have_no_area_under_the_curve():
    scores = score(["no", "yes"], [[0.9, 0.1], [0.2, 0.8]], [[0], [0]])
    assert "roc_auc" not in scores
    assert scores["accuracy"] == 0.5 and scores["mcc"] == 0


def test_a_class_that_no_row_has_counts_0_in_the_macro_mean():
    scores = score(["a", "b", "c"], [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [[0], [1]])
    assert [scores[f"{name}_c"] for name in ("precision", "recall", "f1", "support")] == [0, 0, 0, 0]
    assert scores["f1_macro"] == pytest.approx(2 / 3) and scores["f1_weighted"] == 1 and scores["accuracy"] == 1


@pytest.mark.parametrize("name", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("thresholds", [None, [0.5, 0.5]])
def test_a_class_with_the_name_of_a_mean_does_not_overwrite_it(name, thresholds):
    scores = score([name, "b"], [[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], [[0], [1], [1]], thresholds)
    # given: the class, the class, b
    assert scores["precision_b"] == 1 and scores["support_b"] == 2
    assert scores[f"precision_class_{name}"] == 0.5 and scores[f"support_class_{name}"] == 1
    assert scores["precision_macro"] == 0.75 and scores["precision_weighted"] == pytest.approx((0.5 + 2) / 3)
    assert f"support_{name}" not in scores


def test_supports_are_whole_numbers_and_all_scores_can_be_written_as_json():
    scores = score(["a", "b"], [[0.8, 0.2], [0.6, 0.4]], [[0], [1]])
    assert scores["support_a"] == 1
    assert {type(value) for value in scores.values()} == {int, float}


# Several classes a row


def test_scores_of_several_classes_a_row_by_hand():
    probabilities = [[0.9, 0.2, 0.4], [0.7, 0.6, 0.1], [0.2, 0.8, 0.1], [0.1, 0.1, 0.1]]
    references = [[0, 2], [0], [1], []]
    scores = score(["a", "b", "c"], probabilities, references, thresholds=[0.5, 0.5, 0.35])
    # given: a c | a b | b | none: the second row is wrong
    expected = {
        "accuracy": 3 / 4,
        "precision_a": 1, "recall_a": 1, "f1_a": 1, "support_a": 2,
        "precision_b": 1 / 2, "recall_b": 1, "f1_b": 2 / 3, "support_b": 1,
        "precision_c": 1, "recall_c": 1, "f1_c": 1, "support_c": 1,
        "precision_micro": 4 / 5, "recall_micro": 1, "f1_micro": 8 / 9,
        "precision_macro": 5 / 6, "recall_macro": 1, "f1_macro": 8 / 9,
        "precision_weighted": 3.5 / 4, "recall_weighted": 1, "f1_weighted": (2 + 2 / 3 + 1) / 4,
        "mcc": (4 * 7 - 1 * 0) / (5 * 4 * 8 * 7) ** 0.5,
        "roc_auc": 1.0,
        # bins of 1/15 with their sums: 0.9 | 0.2 0.2 | 0.4 | 0.7 | 0.6 | 0.1 five times | 0.8
        "ece": (0.1 + 0.4 + 0.6 + 0.3 + 0.6 + 0.5 + 0.2) / 12,
    }  # fmt: skip
    assert scores == pytest.approx(expected)


def test_scores_of_several_classes_a_row_are_those_of_sklearn():
    generator = np.random.default_rng(4)
    probabilities, gold = generator.random((70, 4)), generator.integers(0, 2, (70, 4))
    gold[:, 3] = 0
    thresholds = [0.5, 0.3, 0.7, 0.9]
    references = [np.flatnonzero(row).tolist() for row in gold]
    scores = score(list("abcd"), probabilities.tolist(), references, thresholds)
    predicted = (probabilities >= thresholds).astype(int)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert scores["mcc"] == pytest.approx(metrics.matthews_corrcoef(gold.ravel(), predicted.ravel()))
    for name, function in PARTS.items():
        for average in ("micro", "macro", "weighted"):
            expected = function(gold, predicted, average=average, zero_division=0)
            assert scores[f"{name}_{average}"] == pytest.approx(expected)
    areas = [metrics.roc_auc_score(gold[:, column], probabilities[:, column]) for column in range(3)]
    assert scores["roc_auc"] == pytest.approx(np.mean(areas))  # no row has the fourth class


def test_a_single_class_that_rows_have_or_not_is_scored_as_that_class():
    scores = score(["toxic"], [[0.9], [0.8], [0.7], [0.1]], [[0], [0], [], []], thresholds=[0.5])
    assert scores["support_toxic"] == 2
    assert scores["precision_toxic"] == pytest.approx(2 / 3) and scores["recall_toxic"] == 1
    assert scores["f1_micro"] == scores["f1_macro"] == pytest.approx(0.8)


def test_a_probability_at_the_threshold_gives_the_class():
    assert score(["a", "b"], [[0.5, 0.4]], [[0]], thresholds=[0.5, 0.5])["accuracy"] == 1


def test_without_a_class_of_both_kinds_of_rows_there_is_no_area_under_the_curve():
    assert "roc_auc" not in score(["a", "b"], [[0.9, 0.1], [0.8, 0.2]], [[0], [0]], thresholds=[0.5, 0.5])


def test_classes_of_rows_become_0_and_1():
    assert make_indicators([[2, 0], [], [1]], 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert make_indicators([], 3).shape == (0, 3)


# Calibration error


@pytest.mark.parametrize(
    ("confidences", "are_right", "expected"),
    [
        ([0.9, 0.92], [True, False], abs(1 - 1.82) / 2),  # one bin: accuracy 1/2, confidence 0.91
        ([0.9, 0.2], [True, False], (0.1 + 0.2) / 2),
        ([1.0, 1.0, 0.0], [True, True, False], 0.0),
        ([0.4, 0.41], [True, False], (0.6 + 0.41) / 2),  # 0.4 is 6/15: it belongs to the sixth bin, not the seventh
        ([0.35, 0.4], [True, False], abs(1 - 0.75) / 2),
    ],
)
def test_the_calibration_error_by_hand(confidences, are_right, expected):
    assert compute_calibration_error(np.array(confidences), np.array(are_right)) == pytest.approx(expected)


def test_the_calibration_error_is_the_weighted_mean_over_fifteen_bins():
    generator = np.random.default_rng(0)
    confidences, are_right = generator.random(500), generator.random(500) < 0.6
    expected = 0.0
    for number in range(15):
        inside = (confidences > number / 15) & (confidences <= (number + 1) / 15)
        expected += inside.mean() * abs(are_right[inside].mean() - confidences[inside].mean())
    assert compute_calibration_error(confidences, are_right) == pytest.approx(expected)
