from common.losses import CrossEntropy
from common.sentences import (
    list_mistakes,
    list_predictions,
    list_suspects,
    list_type_scores,
    reduce_logits,
    tag_sentences,
)

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
OUT, B_PER, I_PER, B_LOC, I_LOC = range(5)
FEATURES = Features({"id": Value("string"), "tokens": List(Value("string")), "tags": List(Value("string"))})

# The first sentence is read in two windows, which share "Paris": the first window owns words 0 to 2, the second 3 to 4.
# Each window begins with a special token; "Lovelace" is two pieces.
SENTENCES = [
    {"id": "a", "tokens": "Ada Lovelace saw Paris burn".split(), "tags": "B-PER I-PER O B-LOC O".split()},
    {"id": "b", "tokens": ["北", "京", "。"], "tags": None},
]
WINDOWS = [
    {"row": 0, "first_word": 0, "positions": [1, 2, 4]},
    {"row": 0, "first_word": 3, "positions": [2, 3]},
    {"row": 1, "first_word": 0, "positions": [1, 2, 3]},
]
# -100 is what Trainer pads with; 9 is a prediction that must not be looked at: it would be no label.
TAG_IDS = np.array(
    [
        [9, B_PER, I_PER, 9, OUT, 9, 9],
        [9, 9, B_LOC, OUT, 9, -100, -100],
        [9, I_LOC, I_LOC, OUT, 9, -100, -100],
    ]
)
PROBABILITIES = np.array(
    [
        [0.0, 0.9, 0.5, 0.0, 0.8, 0.0, 0.0],
        [0.0, 0.0, 0.625, 0.7, 0.0, -100, -100],
        [0.0, 0.5, 0.25, 0.99, 0.0, -100, -100],
    ],
    dtype=np.float32,
)
PREDICTIONS = (TAG_IDS, PROBABILITIES, np.zeros(3, dtype=np.float32))


@pytest.fixture
def sentences() -> Dataset:
    return Dataset.from_list(SENTENCES, features=FEATURES)


@pytest.fixture
def windows() -> Dataset:
    return Dataset.from_list([window | {"input_ids": [0], "labels": [0]} for window in WINDOWS])


def make_row(words: str, gold: str | None, predicted: str) -> dict:
    row = {"id": "0", "tokens": words.split(), "predicted_tags": predicted.split(), "entities": []}
    return row if gold is None else row | {"tags": gold.split()}


# Tagging


def test_each_word_gets_the_tag_of_its_first_piece_from_the_window_that_owns_it(windows, sentences):
    first, second = tag_sentences(PREDICTIONS, windows, sentences, LABELS)
    assert first["tags"] == "B-PER I-PER O B-LOC O".split()
    assert first["scores"] == pytest.approx([0.9, 0.5, 0.8, 0.625, 0.7])
    assert second["scores"] == pytest.approx([0.5, 0.25, 0.99])


def test_predicted_tags_are_made_valid_over_the_whole_sentence(windows, sentences):
    _, second = tag_sentences(PREDICTIONS, windows, sentences, LABELS)
    assert second["tags"] == ["B-LOC", "I-LOC", "O"]
    across = TAG_IDS.copy()
    across[0, 4], across[1, 2] = B_LOC, I_LOC  # an entity that goes on from one window into the next
    first, _ = tag_sentences((across, PROBABILITIES), windows, sentences, LABELS)
    assert first["tags"] == "B-PER I-PER B-LOC I-LOC O".split()


def test_the_order_of_the_windows_does_not_matter(windows, sentences):
    order = [2, 1, 0]
    turned = tag_sentences((TAG_IDS[order], PROBABILITIES[order]), windows.select(order), sentences, LABELS)
    assert turned == tag_sentences(PREDICTIONS, windows, sentences, LABELS)


# Rows


def test_a_row_holds_the_words_the_tags_and_the_entities_of_a_sentence(windows, sentences):
    assert list_predictions(PREDICTIONS, windows, sentences, LABELS) == [
        {
            "id": "a",
            "tokens": ["Ada", "Lovelace", "saw", "Paris", "burn"],
            "tags": ["B-PER", "I-PER", "O", "B-LOC", "O"],
            "predicted_tags": ["B-PER", "I-PER", "O", "B-LOC", "O"],
            "entities": [
                {"type": "PER", "start": 0, "end": 2, "text": "Ada Lovelace", "score": 0.7},
                {"type": "LOC", "start": 3, "end": 4, "text": "Paris", "score": 0.625},
            ],
        },
        {
            "id": "b",
            "tokens": ["北", "京", "。"],
            "predicted_tags": ["B-LOC", "I-LOC", "O"],
            "entities": [{"type": "LOC", "start": 0, "end": 2, "text": "北京", "score": 0.375}],
        },
    ]


# Mistakes


def test_mistakes_are_sorted_by_how_many_entities_are_wrong():
    rows = [
        make_row("Ada saw Paris", "B-PER O B-LOC", "B-PER O B-LOC"),  # right
        make_row("Ada saw Rome", "B-PER O B-LOC", "B-PER O O"),
        make_row("saw it", None, "B-PER O"),  # nobody knows
        make_row("Ada Lovelace saw Rome", "B-PER I-PER O B-LOC", "B-PER B-PER O B-PER"),
        make_row("we saw it", "O O O", "B-PER O O"),
    ]
    assert list_mistakes(rows) == [
        {
            "wrong": 5,
            "text": "Ada Lovelace saw Rome",
            "missed": "Rome (LOC), Ada Lovelace (PER)",
            "invented": "Ada (PER), Lovelace (PER), Rome (PER)",
        },
        {"wrong": 1, "text": "Ada saw Rome", "missed": "Rome (LOC)", "invented": ""},
        {"wrong": 1, "text": "we saw it", "missed": "", "invented": "we (PER)"},
    ]


def test_an_entity_of_the_wrong_type_is_missed_and_invented():
    (mistake,) = list_mistakes([make_row("北 京 。", "B-LOC I-LOC O", "B-PER I-PER O")])
    assert mistake == {"wrong": 2, "text": "北京。", "missed": "北京 (LOC)", "invented": "北京 (PER)"}


def test_sure_entities_that_are_tagged_otherwise_are_suspects():
    """The probable ones first; what is tagged at their words is named, what is tagged beside them is not."""
    rows = [
        make_row("Ada saw Paris", "B-PER O B-LOC", "B-PER O B-LOC"),
        make_row("New York saw it", "B-LOC I-LOC O O", "O B-LOC O O"),
        make_row("saw Ada", None, "O B-PER"),  # nobody knows
        make_row("we met Ada", "B-PER O O", "B-PER O B-PER"),
    ]
    for row, scores in zip(rows, ([0.9, 0.9], [0.6], [0.99], [0.97, 0.8]), strict=True):
        words = [place for place, tag in enumerate(row["predicted_tags"]) if tag != "O"]
        row["entities"] = [
            {"type": row["predicted_tags"][place][2:], "start": place, "end": place + 1, "text": row["tokens"][place],
             "score": score} for place, score in zip(words, scores, strict=True)
        ]  # fmt: skip
    assert list_suspects(rows) == [
        {"score": 0.8, "found": "Ada (PER)", "tagged": "(none)", "text": "we met Ada"},
        {"score": 0.6, "found": "York (LOC)", "tagged": "New York (LOC)", "text": "New York saw it"},
    ]
    assert list_suspects(rows, most=1) == list_suspects(rows)[:1]


def test_no_more_mistakes_are_listed_than_asked_for():
    rows = [make_row("Ada", "B-PER", "O") for _ in range(25)] + [make_row("Ada", "B-PER", "B-LOC")]
    assert len(list_mistakes(rows)) == 20
    (worst,) = list_mistakes(rows, most=1)
    assert worst["wrong"] == 2
    assert list_mistakes([]) == []


# Numbers


def test_logits_are_reduced_to_tag_probability_and_the_loss_of_each_window():
    probabilities = torch.tensor([[[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]], [[0.1, 0.1, 0.8], [0.6, 0.3, 0.1]]])
    labels = torch.tensor([[0, 2], [1, -100]])
    tag_ids, best, losses = reduce_logits(probabilities.log(), labels, CrossEntropy())
    assert tag_ids.tolist() == [[0, 1], [2, 0]]
    assert best.flatten().tolist() == pytest.approx([0.7, 0.5, 0.8, 0.6])
    assert best.shape == (2, 2) and losses.shape == (2,)
    assert losses.tolist() == pytest.approx([-np.log(0.7) - np.log(0.25), -np.log(0.1)])


def test_logits_without_labels_have_no_loss():
    logits = torch.randn(3, 5, 4).bfloat16()
    tag_ids, best, losses = reduce_logits(logits, None, CrossEntropy())
    assert tag_ids.shape == best.shape == (3, 5)
    assert losses.tolist() == [0, 0, 0]
    assert best.dtype == losses.dtype == torch.float32  # numpy has no bfloat16


def test_the_scores_of_each_type_become_a_row():
    metrics = {
        "test_f1": 0.5, "test_f1_macro": 0.6, "test_loss": 0.1,
        "test_precision_PER": 0.1, "test_recall_PER": 0.2, "test_f1_PER": 0.3, "test_support_PER": 4,
        "test_precision_creative-work": 0.5, "test_recall_creative-work": 0.6, "test_f1_creative-work": 0.7,
        "test_support_creative-work": 8, "validation_support_LOC": 9,
    }  # fmt: skip
    assert list_type_scores(metrics, "test") == [
        {"type": "PER", "precision": 0.1, "recall": 0.2, "f1": 0.3, "support": 4},
        {"type": "creative-work", "precision": 0.5, "recall": 0.6, "f1": 0.7, "support": 8},
    ]
    assert list_type_scores({"test_f1": 0.5}, "test") == []
