import json

from common.class_weights import choose_class_weights
from common.errors import UserError

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sklearn.utils.class_weight import compute_class_weight

NAMES = ["bad", "fine", "good"]


def make_features(*rows) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict({"labels": list(rows)})})


def user_error_of(*args) -> str:
    with pytest.raises(UserError) as caught:
        choose_class_weights(*args)
    return str(caught.value)


# By the frequency in training


def test_weights_by_frequency_are_those_of_sklearn_and_average_1_over_the_labels():
    rows = [[-100, 0, 0, 0, 1, -100], [0, 2, 0, -100], [0, 0, 1]]
    kept = np.array([0, 0, 0, 1, 0, 2, 0, 0, 0, 1])
    weights = choose_class_weights(["auto"], make_features(*rows), NAMES)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=kept)
    assert weights.tolist() == pytest.approx(expected.tolist())
    assert weights.tolist() == pytest.approx([10 / 21, 10 / 6, 10 / 3])  # labels / (classes x labels of the class)
    assert weights[kept].mean().item() == pytest.approx(1)
    assert weights.dtype == torch.float32


def test_a_class_without_labels_weighs_1():
    weights = choose_class_weights(["auto"], make_features([0, 0, 0, 2]), [*NAMES, "best"])
    assert weights.tolist() == pytest.approx([4 / 6, 1, 4 / 2, 1])


def test_one_label_a_row_is_weighed_too():
    weights = choose_class_weights(["auto"], make_features(1, 0, 0, 0), NAMES[:2])
    assert weights.tolist() == pytest.approx([4 / 6, 4 / 2])


def test_with_several_labels_a_row_the_weight_is_that_of_the_rows_that_have_the_class():
    """Rows without the class by rows with it: 4/1, 1/4, and 1 for the class that no row has."""
    rows = [[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]]
    weights = choose_class_weights(["auto"], make_features(*rows), NAMES, True)
    assert weights.tolist() == pytest.approx([4, 1 / 4, 1])
    assert weights.dtype == torch.float32


def test_a_class_that_every_row_has_still_weighs_something():
    weights = choose_class_weights(["auto"], make_features([1, 0], [1, 1]), NAMES[:2], True)
    assert 0 < weights[0].item() < 0.01 and weights[1].item() == 1


@pytest.mark.parametrize("choice", [None, ["none"]])
def test_there_are_no_weights_unless_they_are_asked_for(choice):
    assert choose_class_weights(choice, make_features(0, 1), NAMES[:2]) is None


@pytest.mark.parametrize("choice", [["auto"], ["1", "2"]])
def test_there_are_no_weights_without_training_rows(choice):
    splits = DatasetDict({"validation": Dataset.from_dict({"labels": [[0]]})})
    assert choose_class_weights(choice, splits, NAMES[:2]) is None


# Numbers


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_numbers_are_the_weights_of_the_labels_in_their_order(is_multi_label):
    features = make_features([0, 1, 0]) if is_multi_label else make_features(0, 1)
    weights = choose_class_weights(["1", "2.5", "0"], features, NAMES, is_multi_label)
    assert weights.tolist() == [1, 2.5, 0] and weights.dtype == torch.float32


def test_another_number_of_weights_than_of_labels_is_refused():
    message = user_error_of(["1", "2"], make_features(0, 1), NAMES)
    assert message == "class_weights has 2 numbers for 3 labels (bad, fine, good)."
    many = [f"l{number}" for number in range(8)]
    assert "for 8 labels (l0, l1, l2, l3, l4, l5, ...)" in user_error_of(["1"], make_features(0, 1), many)


@pytest.mark.parametrize("choice", [["-1", "1"], ["nan", "1"], ["inf", "1"], ["0", "0"]])
def test_weights_that_are_no_weights_are_refused(choice):
    assert "weights are numbers from 0 up, not all of them 0" in user_error_of(choice, make_features(0, 1), NAMES[:2])


@pytest.mark.parametrize("choice", [["balanced"], ["auto", "1"], ["none", "none"], ["1", "two"]])
def test_other_words_are_refused_with_what_can_be_given(choice):
    message = user_error_of(choice, make_features(0, 1), NAMES[:2])
    assert message == f"class_weights {' '.join(choice)}: give none, auto, 2 numbers, or a .json file."


# A file


def test_a_file_gives_each_label_its_weight_by_name(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"好": 0.5, "bad": 2, "fine": 1.0}, ensure_ascii=False), encoding="utf-8")
    weights = choose_class_weights([str(path)], make_features(0, 1), ["bad", "fine", "好"])
    assert weights.tolist() == [2, 1, 0.5]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "not valid JSON"),
        ("[1, 2, 3]", "not valid JSON (the row is a list)"),
        ('{"bad": 1, "bad": 2}', 'the key "bad" is there twice'),
        ('{"bad": 1, "fine": "2", "good": 3}', "write an object with a number for each label"),
        ('{"bad": 1, "fine": true, "good": 3}', "write an object with a number for each label"),
        ('{"bad": 1, "fine": null, "good": 3}', "write an object with a number for each label"),
        ('{"bad": 1, "fine": 2}', "'good' is there or in the labels only; name each label once"),
        ('{"bad": 1, "fine": 2, "good": 3, "best": 4}', "'best' is there or in the labels only; name each label once"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_path(content, fault, tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(content, encoding="utf-8")
    message = user_error_of([str(path)], make_features(0, 1), NAMES)
    assert message.startswith(f"class_weights {path}: ") and fault in message


def test_the_numbers_of_a_file_are_checked_as_others_are(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text('{"bad": 1, "fine": -2, "good": 3}', encoding="utf-8")
    assert "weights are numbers from 0 up" in user_error_of([str(path)], make_features(0, 1), NAMES)


def test_a_file_that_is_not_there_is_named():
    message = user_error_of(["/nowhere/weights.json"], make_features(0, 1), NAMES)
    assert message == "class_weights /nowhere/weights.json: cannot be read (No such file or directory); check the path."
