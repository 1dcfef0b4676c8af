import math

from common.baseline import score_linear_baseline
from common.losses import BinaryCrossEntropy, CrossEntropy

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value

FEATURES = Features(
    {"id": Value("string"), "text": Value("string"), "text_pair": Value("string"), "label_ids": List(Value("int64"))}
)
ENGLISH = [
    ("the food was good and I liked it", [1]),
    ("good service, really good", [1]),
    ("we liked the room", [1]),
    ("the food was bad and I hated it", [0]),
    ("bad service, really bad", [0]),
    ("we hated the room", [0]),
]
CHINESE = [
    ("这家饭店很好吃", [1]),
    ("服务好，房间好", [1]),
    ("我喜欢这个地方", [1]),
    ("这家饭店很难吃", [0]),
    ("服务差，房间差", [0]),
    ("我讨厌这个地方", [0]),
]


def make_split(rows: list[tuple]) -> Dataset:
    """Rows of (text or (text, text_pair), numbers of labels or None)."""
    texts = [text if isinstance(text, tuple) else (text, None) for text, _ in rows]
    return Dataset.from_list(
        [
            {"id": str(number), "text": text, "text_pair": pair, "label_ids": labels}
            for number, ((text, pair), (_, labels)) in enumerate(zip(texts, rows, strict=True))
        ],
        features=FEATURES,
    )


def score(train, test, names=("bad", "good"), is_multi_label=False, class_weight=None, loss=None):
    """The scores of the test rows."""
    splits = DatasetDict(train=make_split(train), test=make_split(test))
    loss = loss or (BinaryCrossEntropy() if is_multi_label else CrossEntropy())
    return score_linear_baseline(splits, names, is_multi_label, class_weight, loss)["test"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (ENGLISH, [("I liked the service", [1]), ("I hated the service", [0]), ("good room", [1]), ("bad room", [0])]),
        (CHINESE, [("房间很好", [1]), ("房间很差", [0]), ("我很喜欢饭店", [1]), ("我很讨厌饭店", [0])]),
    ],
)
def test_words_of_a_class_are_found_again_in_english_and_chinese(train, test):
    scores = score(train, test)
    assert scores["accuracy"] == scores["f1_macro"] == scores["roc_auc"] == 1
    assert 0 < scores["loss"] < math.log(2)  # better than not knowing
    reversed_labels = [(text, [1 - labels[0]]) for text, labels in test]
    assert score(train, reversed_labels)["accuracy"] == 0


def test_three_classes_are_told_apart():
    train = [*ENGLISH, ("it was neither here nor there", [2]), ("neither this nor that", [2])]
    test = [("neither cat nor dog", [2]), ("really liked it", [1]), ("really hated it", [0])]
    scores = score(train, test, ("bad", "good", "neutral"))
    assert scores["accuracy"] == 1 and 0 < scores["loss"] < math.log(3)


def test_every_split_but_train_is_scored_and_rows_without_label_are_not():
    splits = DatasetDict(
        train=make_split(ENGLISH), validation=make_split([("good", [1]), ("bad", [1])]), test=make_split([("x", None)])
    )
    scores = score_linear_baseline(splits, ["bad", "good"], False, None, CrossEntropy())
    assert scores.keys() == {"validation", "test"}
    assert scores["validation"]["accuracy"] == 0.5 and scores["test"] == {}


def test_without_training_rows_there_is_no_baseline():
    splits = DatasetDict(test=make_split(ENGLISH))
    assert score_linear_baseline(splits, ["bad", "good"], False, None, CrossEntropy()) == {}


def test_the_scores_are_the_same_again():
    test = [("a good room", [1]), ("the service", [0])]
    assert score(ENGLISH, test) == score(ENGLISH, test)


@pytest.mark.parametrize("numbers", [(0, 2), (1, 3)])
def test_a_class_that_training_lacks_is_never_given(numbers):
    train = [(text, [numbers[labels[0]]]) for text, labels in ENGLISH]
    test = [("I liked it", [numbers[1]]), ("I hated it", [numbers[0]])]
    assert score(train, test, ("a", "b", "c", "d"))["accuracy"] == 1
    missing = next(number for number in range(4) if number not in numbers)
    scores = score(train, [*test, ("neither", [missing])], ("a", "b", "c", "d"))
    assert scores["accuracy"] == pytest.approx(2 / 3) and scores["recall_" + "abcd"[missing]] == 0


def test_training_rows_of_one_class_alone_give_no_baseline(capsys):
    train = make_split([(text, [1]) for text, _ in ENGLISH])
    splits = DatasetDict(train=train, test=make_split([("good", [1]), ("bad", [0])]))
    assert score_linear_baseline(splits, ("bad", "good"), False, None, CrossEntropy()) == {}
    assert capsys.readouterr().out == "No linear baseline: the training rows have one class only.\n"


def test_second_texts_are_read_too():
    train = [(("the same", text), labels) for text, labels in ENGLISH]
    assert score(train, [(("same", "I liked it"), [1]), (("same", "I hated it"), [0])])["accuracy"] == 1


def test_balanced_weights_give_a_rare_class_more_often():
    train = [("good " + filler, [1]) for filler in "one two three four five six seven eight nine".split()]
    train = [*train, ("meal", [0]), ("good meal", [1])]
    test = [("good meal", [0]), ("meal", [0]), ("one meal", [0])]
    recalls = [score(train, test, class_weight=weight)["recall_bad"] for weight in (None, "balanced")]
    assert recalls[1] > recalls[0]


def test_the_loss_is_the_one_of_the_model():
    """Weights of 3 for both classes make it three times as large."""
    test = [("good room", [1]), ("hated", [0])]
    weighted = score(ENGLISH, test, loss=CrossEntropy(class_weights=torch.tensor([3.0, 3.0])))
    assert weighted["loss"] == pytest.approx(3 * score(ENGLISH, test)["loss"])


# Several labels a row

TOPICS = [
    ("cheap food", [0, 1]),
    ("a cheap room", [0]),
    ("tasty food", [1]),
    ("old room", []),
    ("food and a cheap drink", [0, 1]),
    ("the old door", []),
    ("food", [1]),
    ("cheap", [0]),
    ("a room", []),
    ("the door", []),
]


def test_several_labels_a_row_are_found():
    test = [("the cheap food", [0, 1]), ("a cheap door", [0]), ("the food", [1]), ("an old door", [])]
    scores = score(TOPICS, test, ("price", "food"), True)
    assert scores["accuracy"] == scores["f1_micro"] == 1 and 0 < scores["loss"] < math.log(2)


@pytest.mark.filterwarnings("ignore:Label")
def test_a_label_that_training_lacks_is_never_given_to_rows_with_several():
    scores = score(TOPICS, [("the cheap food", [0, 1]), ("an old door", [])], ("price", "food", "noise"), True)
    assert scores["accuracy"] == 1


@pytest.mark.filterwarnings("ignore:Label")
def test_a_label_that_every_training_row_has_is_always_given():
    train = [(text, [*labels, 2]) for text, labels in TOPICS]
    scores = score(train, [("the cheap food", [0, 1, 2]), ("an old door", [2])], ("price", "food", "place"), True)
    assert scores["accuracy"] == 1


# Texts without words that are found again


@pytest.mark.parametrize(("positive", "negative"), [("好", "坏"), ("👍", "👎")])
def test_texts_of_one_character_have_a_baseline_too(positive, negative):
    train = [(positive, [1]), (negative, [0])] * 2
    assert score(train, [(positive, [1]), (negative, [0])])["accuracy"] == 1


def test_a_thousand_texts_without_spaces_that_share_no_words_have_a_baseline_too():
    """A Chinese text is one word for scikit-learn; of more than a thousand rows, words that come once are left out."""
    texts = [f"{chr(0x4E00 + number)}{chr(0x6E00 + number)}很{'差好'[number % 2]}" for number in range(1001)]
    train = [(text, [number % 2]) for number, text in enumerate(texts)]
    assert score(train, [("真好", [1]), ("真差", [0])])["accuracy"] == 1
