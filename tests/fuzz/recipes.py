"""What each recipe asks of its data, asked of the recipe itself: main() is run up to the place where it reads them."""

import copy
import tempfile
from functools import cache
from types import ModuleType

from common.arguments import (
    DataArguments,
    GenerationArguments,
    ModelArguments,
    Seq2SeqTrainingArguments,
    TrainingArguments,
)
from common.command_line import parse_arguments
from common.data import load_splits
from recipes.dialogue import run as dialogue
from recipes.ner import run as ner
from recipes.qa import run as qa
from recipes.sentiment import run as sentiment
from recipes.summarization import run as summarization
from recipes.translation import run as translation

import pytest
from datasets import Dataset

GENERATION = (GenerationArguments, Seq2SeqTrainingArguments)
RECIPES: dict[str, tuple[ModuleType, tuple[type, ...]]] = {
    "sentiment": (sentiment, (ModelArguments, DataArguments, sentiment.SentimentArguments, TrainingArguments)),
    "ner": (ner, (ModelArguments, DataArguments, ner.NerArguments, TrainingArguments)),
    "translation": (translation, (ModelArguments, DataArguments, translation.TranslationArguments, *GENERATION)),
    "summarization": (
        summarization, (ModelArguments, DataArguments, summarization.SummarizationArguments, *GENERATION)
    ),
    "qa": (qa, (ModelArguments, DataArguments, qa.QaArguments, TrainingArguments)),
    "dialogue": (dialogue, (ModelArguments, DataArguments, dialogue.DialogueArguments, *GENERATION)),
}  # fmt: skip
NEEDED = {
    "translation": ["--from_scratch", "encoder_decoder_tiny", "--source_lang", "en", "--target_lang", "de"],
    "summarization": ["--from_scratch", "encoder_decoder_tiny"],
    "dialogue": ["--from_scratch", "decoder_tiny"],
}


class _Recorded(Exception):
    """Ends a main() that has come to its data."""


@cache
def record_wishes(recipe: str, *flags: str) -> tuple[tuple, dict]:
    """The arguments that the recipe's main() calls load_splits with."""
    module, types = RECIPES[recipe]
    recorded = []

    def record(*args, **kwargs):
        recorded.append((args, kwargs))
        raise _Recorded

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_splits", record)
        patch.setattr(module, "prepare_run", lambda *arguments: None)
        needed = NEEDED.get(recipe, ["--from_scratch", "encoder_tiny"])
        wanted = ["--train_file", "rows.jsonl", "--do_train", "--output_dir", folder, "--report_to", "none"]
        with pytest.raises(_Recorded):
            module.main(*parse_arguments(*types, args=[*needed, *wanted, *flags]))
    return recorded[0]


def read_split(recipe: str, split: str, paths: list[str], *flags: str) -> tuple[Dataset, object]:
    """The rows of the files as the recipe reads them, and what it read them with."""
    args, kwargs = copy.deepcopy(record_wishes(recipe, *flags))  # a reader of labels remembers what it has seen
    names = ("data_args", "columns", "features", "read_row", "labels", "splits", "seed", "unfold", "parallel")
    wishes = dict(zip(names, args, strict=False)) | kwargs
    wishes["data_args"] = DataArguments(**{f"{split}_file": paths})
    wishes["splits"] = [split]
    return load_splits(**wishes)[split], wishes["read_row"]
