"""common/ranges.py: every name is an argument, every default is allowed, and intervals end where they say."""

from dataclasses import MISSING, fields

from common.arguments import DataArguments, GenerationArguments, ModelArguments, Seq2SeqTrainingArguments
from common.ranges import RANGES, find_fault
from recipes.dialogue.run import DialogueArguments
from recipes.ner.run import NerArguments
from recipes.qa.run import QaArguments
from recipes.sentiment.run import SentimentArguments
from recipes.summarization.run import SummarizationArguments
from recipes.translation.run import TranslationArguments

import pytest

TYPES = (
    DataArguments, GenerationArguments, ModelArguments, Seq2SeqTrainingArguments, DialogueArguments, NerArguments,
    QaArguments, SentimentArguments, SummarizationArguments, TranslationArguments,
)  # fmt: skip


def test_every_range_is_of_an_argument_whose_default_it_allows():
    defaults = {field.name: field.default for owner in TYPES for field in fields(owner)}
    assert len(RANGES) > 40 and RANGES.keys() <= defaults.keys()
    faults = {name: find_fault(name, default) for name, default in defaults.items() if default is not MISSING}
    assert not any(faults.values())


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("per_device_train_batch_size", [0, -4], [1, 64]),
        ("num_train_epochs", [0, -1, float("nan")], [0.1, 3]),
        ("max_steps", [0, -2], [-1, 1]),
        ("learning_rate", [-1e-9, 1.01, 5e5, float("inf"), float("nan")], [0, 1e-5, 1]),
        ("label_smoothing_factor", [-0.1, 1, 5], [0, 0.99]),
        ("layerwise_lr_decay", [0, -0.5, 1.01, float("nan")], [0.01, 1]),
        ("max_grad_norm", [-1], [0, float("inf")]),
        ("max_seq_length", [0], [1]),
    ],
)
def test_the_ends_of_an_interval_are_as_it_says(name, wrong, right):
    assert all(find_fault(name, value).startswith("is ") for value in wrong)
    assert not any(find_fault(name, value) for value in right)


def test_a_fault_says_what_the_number_must_be():
    assert find_fault("learning_rate", 50) == "is 50: it must be at least 0 and at most 1"
    assert find_fault("max_steps", 0) == "is 0: it must be at least 1, or -1 (num_train_epochs decides)"
    assert find_fault("layerwise_lr_decay", 0) == "is 0: it must be above 0 and at most 1"


def test_only_numbers_have_a_range():
    assert find_fault("learning_rate", None) is None and find_fault("seed", True) is None
    assert find_fault("output_dir", -1) is None
