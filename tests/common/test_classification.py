import json
import math

from common.calibration import Calibration
from common.classification import (
    count_confusions,
    list_class_scores,
    list_labels,
    list_mistakes,
    list_reliabilities,
    make_labels,
    pool_windows,
    score_rows,
)
from common.losses import BinaryCrossEntropy, CrossEntropy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, List, Value

FEATURES = Features(
    {"id": Value("string"), "text": Value("string"), "text_pair": Value("string"), "label_ids": List(Value("int64"))}
)
NAMES = ["bad", "fine", "good"]
ONE_CLASS, SEVERAL = Calibration(), Calibration(thresholds=[0.5, 0.5, 0.5])


def make_rows(*label_ids: list[int] | None, pair: str | None = None) -> Dataset:
    return Dataset.from_list(
        [
            {"id": f"r{number}", "text": f"text {number}", "text_pair": pair, "label_ids": labels}
            for number, labels in enumerate(label_ids)
        ],
        features=FEATURES,
    )


def make_logits(*probabilities: tuple[float, ...], is_multi_label: bool = False) -> np.ndarray:
    """Logits whose softmax, or sigmoid, is these probabilities."""
    values = np.array(probabilities)
    return np.log(values / (1 - values)) if is_multi_label else np.log(values)


# Windows


def test_the_logits_of_a_row_are_the_mean_over_its_windows_wherever_they_stand():
    windows = Dataset.from_dict({"row": [0, 2, 1, 0, 0, 2]})
    logits = np.array([[1, 0], [5, 5], [7, -7], [2, 0], [6, 3], [-5, 1]], dtype=np.float32)
    assert pool_windows(logits, windows, 3).tolist() == [[3, 1], [7, -7], [0, 3]]


def test_rows_of_one_window_keep_their_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_array_equal(pool_windows(logits, Dataset.from_dict({"row": [*range(5)]}), 5), logits)


# Labels


@pytest.mark.parametrize(
    ("label_ids", "is_multi_label", "expected"),
    [
        ([[2], [0], None, [1]], False, [2, 0, -100, 1]),
        ([[2, 0], [], None, [1]], True, [[1, 0, 1], [0, 0, 0], [-100, -100, -100], [0, 1, 0]]),
        ([None, None], False, [-100, -100]),
    ],
)
def test_labels_become_numbers_and_rows_without_label_are_ignored(label_ids, is_multi_label, expected):
    labels = make_labels(make_rows(*label_ids), 3, is_multi_label)
    assert labels.tolist() == expected and labels.dtype == np.int64
    assert make_labels({"label_ids": label_ids}, 3, is_multi_label).tolist() == expected  # a batch, as map gives it


# Scores


def test_rows_with_a_label_are_scored_with_their_loss():
    logits = make_logits((0.7, 0.2, 0.1), (0.1, 0.1, 0.8), (0.5, 0.25, 0.25), (0.3, 0.4, 0.3))
    rows = make_rows([0], None, [1], [1])
    scores = score_rows(logits, rows, NAMES, ONE_CLASS, CrossEntropy())
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert scores["support_fine"] == 2
    assert scores["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.25) + math.log(0.4)) / 3)


def test_the_loss_has_the_weights_of_training_and_no_temperature():
    logits = make_logits((0.7, 0.2, 0.1), (0.2, 0.4, 0.4)).astype(np.float32)
    loss = CrossEntropy(class_weights=torch.tensor([3.0, 1.0, 0.5]))
    scores = score_rows(logits, make_rows([0], [2]), NAMES, Calibration(temperature=4.0), loss)
    assert scores["loss"] == pytest.approx(-(3 * math.log(0.7) + 0.5 * math.log(0.4)) / 2, rel=1e-5)


def test_rows_with_several_labels_are_scored_at_their_thresholds_with_their_loss():
    logits = make_logits((0.9, 0.3, 0.2), (0.6, 0.6, 0.6), (0.1, 0.2, 0.3), is_multi_label=True)
    calibration = Calibration(thresholds=[0.5, 0.25, 0.5])
    scores = score_rows(logits, make_rows([0, 1], None, []), NAMES, calibration, BinaryCrossEntropy())
    assert scores["accuracy"] == 1 and scores["f1_micro"] == 1
    gold = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(torch.tensor(logits[[0, 2]]), gold.double())
    assert scores["loss"] == pytest.approx(expected.item(), rel=1e-6)
    calibration.thresholds = [0.5, 0.5, 0.5]
    assert score_rows(logits, make_rows([0, 1], None, []), NAMES, calibration, BinaryCrossEntropy())["accuracy"] == 0.5


@pytest.mark.parametrize(("calibration", "loss"), [(ONE_CLASS, CrossEntropy()), (SEVERAL, BinaryCrossEntropy())])
def test_rows_without_any_label_have_no_scores(calibration, loss):
    assert score_rows(np.zeros((2, 3)), make_rows(None, None), NAMES, calibration, loss) == {}


def test_confusions_are_counted_gold_down_and_given_across():
    pairs = [("bad", "bad"), ("bad", "fine"), ("fine", "fine"), ("fine", "bad"), ("bad", "fine")]
    rows = [{"label": gold, "predicted_label": given} for gold, given in pairs]
    assert count_confusions(rows, ["bad", "fine", "good"]) == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]


def test_the_scores_of_each_class_make_a_table_also_of_a_class_called_macro():
    names = ["macro", "good"]
    logits = make_logits((0.8, 0.2), (0.6, 0.4), (0.3, 0.7))
    scores = score_rows(logits, make_rows([0], [1], [1]), names, ONE_CLASS, CrossEntropy())
    metrics = {f"test_{name}": value for name, value in scores.items()}
    assert list_class_scores(metrics, "test", names) == [
        {"class": "macro", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"class": "good", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
    ]
    assert list_class_scores(metrics, "validation", names) == []


# Predictions


def test_predictions_have_a_label_with_its_probability_and_those_of_the_others_best_first():
    logits = make_logits((0.7, 0.1, 0.2), (0.25, 0.5, 0.25))
    listed = list_labels(logits, make_rows([1], None), NAMES, ONE_CLASS)
    assert listed == [
        {
            "id": "r0", "text": "text 0", "label": "fine", "predicted_label": "bad", "score": 0.7,
            "scores": {"bad": 0.7, "good": 0.2, "fine": 0.1},
        },
        {
            "id": "r1", "text": "text 1", "predicted_label": "fine", "score": 0.5,
            "scores": {"fine": 0.5, "bad": 0.25, "good": 0.25},
        },
    ]  # fmt: skip
    assert list(listed[0]["scores"]) == ["bad", "good", "fine"]
    assert json.loads(json.dumps(listed)) == listed


def test_probabilities_of_predictions_are_calibrated_and_have_four_digits():
    logits = make_logits((0.9, 0.1))
    listed = list_labels(logits, make_rows([0]), NAMES[:2], Calibration(temperature=2.0))
    assert listed[0]["scores"] == {"bad": 0.75, "fine": 0.25}  # the odds of 9 become 3
    listed = list_labels(make_logits((1 / 3, 2 / 3)), make_rows([0]), NAMES[:2], ONE_CLASS)
    assert listed[0]["scores"] == {"fine": 0.6667, "bad": 0.3333}


def test_predictions_of_several_labels_are_all_that_reach_their_thresholds():
    logits = make_logits((0.9, 0.2, 0.45), (0.1, 0.2, 0.3), is_multi_label=True)
    listed = list_labels(logits, make_rows([2, 1], []), NAMES, Calibration(thresholds=[0.5, 0.5, 0.4]))
    assert listed[0]["labels"] == ["good", "fine"] and listed[0]["predicted_labels"] == ["bad", "good"]
    assert listed[0]["scores"] == {"bad": 0.9, "good": 0.45, "fine": 0.2}
    assert listed[1]["labels"] == listed[1]["predicted_labels"] == []
    assert "labels" not in list_labels(logits, make_rows(None, None), NAMES, SEVERAL)[0]


def test_second_texts_are_listed_where_there_are_any():
    listed = list_labels(np.eye(3), make_rows([0], [1], [2], pair="and this"), NAMES, ONE_CLASS)
    assert [row["text_pair"] for row in listed] == ["and this"] * 3
    assert "text_pair" not in list_labels(np.eye(3), make_rows([0], [1], [2]), NAMES, ONE_CLASS)[0]


def test_of_many_classes_the_ten_best_are_listed():
    names = [f"c{number}" for number in range(12)]
    listed = list_labels(np.arange(12.0)[None], make_rows([0]), names, ONE_CLASS)
    assert list(listed[0]["scores"]) == [f"c{number}" for number in range(11, 1, -1)]


# Mistakes


def test_mistakes_are_listed_the_surest_first():
    logits = make_logits((0.6, 0.2, 0.2), (0.05, 0.05, 0.9), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1))
    mistakes = list_mistakes(list_labels(logits, make_rows([1], [0], [0], None), NAMES, ONE_CLASS))
    assert mistakes == [
        {"score": 0.9, "text": "text 1", "label": "bad", "predicted": "good"},
        {"score": 0.6, "text": "text 0", "label": "fine", "predicted": "bad"},
    ]


def test_mistakes_of_several_labels_are_listed_by_how_many_are_wrong():
    logits = make_logits((0.9, 0.1, 0.1), (0.1, 0.1, 0.1), (0.9, 0.1, 0.9), (0.9, 0.1, 0.9), is_multi_label=True)
    mistakes = list_mistakes(list_labels(logits, make_rows([0, 1], [2, 1], [2, 0], [1]), NAMES, SEVERAL))
    assert mistakes == [
        {"wrong": 3, "text": "text 3", "labels": "fine", "predicted": "bad, good"},
        {"wrong": 2, "text": "text 1", "labels": "good, fine", "predicted": "(none)"},
        {"wrong": 1, "text": "text 0", "labels": "bad, fine", "predicted": "bad"},
    ]


def test_twenty_mistakes_are_listed_and_long_texts_are_cut():
    rows = [
        {"text": "x" * 400, "text_pair": "y", "label": "a", "predicted_label": "b", "score": number / 100}
        for number in range(25)
    ]
    mistakes = list_mistakes(rows)
    assert [mistake["score"] for mistake in mistakes] == [number / 100 for number in range(24, 4, -1)]
    assert mistakes[0]["text"] == "x" * 300 + " ..."
    assert list_mistakes([rows[0] | {"text": "short"}])[0]["text"] == "short / y"
    assert list_mistakes([]) == []


def test_reliability_is_of_the_labels_given_or_of_all_pairs_of_row_and_label():
    logits = make_logits((0.7, 0.2, 0.1), (0.3, 0.3, 0.4), (0.1, 0.8, 0.1))
    rows = list_labels(logits, make_rows([0], [1], None), NAMES, ONE_CLASS)
    assert list_reliabilities(rows, NAMES) == ([0.7, 0.4], [True, False])
    logits = make_logits((0.9, 0.2, 0.6), is_multi_label=True)
    rows = list_labels(logits, make_rows([0, 1]), NAMES, SEVERAL)
    assert list_reliabilities(rows, NAMES) == ([0.9, 0.6, 0.2], [True, False, True])
    assert list_reliabilities(rows, [str(n) for n in range(11)]) == ([], []), "a row names the ten best only"
    assert list_reliabilities([], NAMES) == ([], [])
