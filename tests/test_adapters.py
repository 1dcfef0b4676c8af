"""Every recipe with every adapter: it learns, is resumed or put back exactly, and its result directory predicts alike.

What comes out is the table in README.md, which `python -m tests.tables` writes.
"""

import json
import re
from functools import partial
from pathlib import Path

from common.arguments import PROMPT_METHODS
from common.errors import UserError
from recipes.dialogue import run as dialogue
from recipes.ner import run as ner
from recipes.qa import run as qa
from recipes.sentiment import run as sentiment
from recipes.summarization import run as summarization
from recipes.translation import run as translation
from tests import tables
from tests.conftest import (
    list_sample_flags,
    read_history,
    read_jsonl,
    run_generating_recipe,
    run_in_process,
    save_encoder_decoder,
)
from tests.tables import ADAPTERS

import pytest
from safetensors.torch import load_file

RECIPES = {
    "sentiment": (partial(run_in_process, sentiment, sentiment.SentimentArguments), []),
    "ner": (partial(run_in_process, ner, ner.NerArguments), []),
    "translation": (
        partial(run_generating_recipe, translation, translation.TranslationArguments),
        ["--source_lang", "en", "--target_lang", "de", "--max_new_tokens", "8"],
    ),
    "summarization": (
        partial(run_generating_recipe, summarization, summarization.SummarizationArguments),
        ["--max_source_length", "64", "--max_target_length", "16", "--max_new_tokens", "8"],
    ),
    "qa": (partial(run_in_process, qa, qa.QaArguments), ["--max_seq_length", "96", "--doc_stride", "32"]),
    "dialogue": (
        partial(run_generating_recipe, dialogue, dialogue.DialogueArguments),
        ["--max_seq_length", "128", "--max_new_tokens", "8"],
    ),
}
# What virtual tokens and the method need to move these small, untrained models.
METHODS = {
    "lora": ["--learning_rate", "1e-2"],
    "rslora": ["--use_rslora", "--learning_rate", "1e-2"],
    "dora": ["--use_dora", "--learning_rate", "1e-2"],
    "pissa": ["--init_lora_weights", "pissa", "--learning_rate", "1e-2"],
    "all-linear": ["--target_modules", "all-linear", "--learning_rate", "1e-2"],
    "dora, all-linear": ["--use_dora", "--target_modules", "all-linear", "--learning_rate", "1e-2"],
    "pissa, all-linear": ["--init_lora_weights", "pissa", "--target_modules", "all-linear", "--learning_rate", "1e-2"],
    "adalora": ["--peft_method", "adalora", "--learning_rate", "2e-2"],
    "prefix": ["--peft_method", "prefix", "--learning_rate", "5e-2"],
    "prompt": ["--peft_method", "prompt", "--learning_rate", "1e-1"],
    "p_tuning": ["--peft_method", "p_tuning", "--learning_rate", "1e-2"],
    "ia3": ["--peft_method", "ia3", "--learning_rate", "1e-1"],
    "vera": ["--peft_method", "vera", "--learning_rate", "1e-1"],
    "oft": ["--peft_method", "oft", "--learning_rate", "2e-2"],
    "boft": ["--peft_method", "boft", "--learning_rate", "2e-2"],
    "ln_tuning": ["--peft_method", "ln_tuning", "--learning_rate", "2e-2"],
    "lora, 8 bits": ["--load_in_8bit", "--learning_rate", "1e-2"],
    "lora, 4 bits": ["--load_in_4bit", "--learning_rate", "1e-2"],
}
REFUSED = {
    ("qa", "prefix"): "PEFT hides from it which pieces are the question",
    ("qa", "prompt"): "its tokens would shift every position",
    ("qa", "p_tuning"): "its tokens would shift every position",
}
QUICK = {
    ("sentiment", "adalora"), ("ner", "p_tuning"), ("translation", "prefix"), ("sentiment", "lora, 4 bits"),
    ("summarization", "ia3"),
    ("qa", "ln_tuning"), ("dialogue", "prompt"),
}  # fmt: skip
CASES = [
    pytest.param(recipe, method, marks=[] if (recipe, method) in QUICK else pytest.mark.slow)
    for recipe in RECIPES
    for method in METHODS
    if (recipe, method) not in REFUSED
]


@pytest.fixture(scope="session")
def bases(encoder, encoder_decoder, decoder, tmp_path_factory) -> dict[str, Path]:
    """A small model for each recipe: BERT, T5, BART, Llama."""
    rows = read_jsonl(Path(list_sample_flags("summarization", "train")[1]))[:200]
    texts = [text for row in rows for text in row.values()]
    bart = save_encoder_decoder(tmp_path_factory.mktemp("bart"), "bart", texts, vocab_size=800)
    encoders = dict.fromkeys(("sentiment", "ner", "qa"), encoder)
    return encoders | {"translation": encoder_decoder, "summarization": bart, "dialogue": decoder}


def train(recipe: str, method: str, base: Path, output: Path, *flags: object) -> dict[str, float]:
    """Scores of 24 steps with an adapter, evaluated and saved after each 8; the best of them is kept."""
    run, own = RECIPES[recipe]
    dropout = ["--lora_dropout", "0"] if "peft_method" not in " ".join(METHODS[method]) else []
    return run(
        "--model_name_or_path", base, *list_sample_flags(recipe, "train", "validation"), *own, "--do_train",
        "--do_eval", "--use_peft", *METHODS[method], *dropout, "--dtype", "float32", "--max_train_samples", "128",
        "--max_eval_samples", "9", "--max_steps", "24", "--per_device_train_batch_size", "8", "--logging_steps", "1",
        "--eval_on_start", "--eval_strategy", "steps", "--eval_steps", "8", "--save_strategy", "steps",
        "--save_steps", "8", "--load_best_model_at_end", "--report_to", "none", "--output_dir", output, *flags,
    )  # fmt: skip


def leave_out_floats(value):
    """Without scores, which differ in their last digits."""
    if isinstance(value, dict):
        return {key: leave_out_floats(entry) for key, entry in value.items() if not isinstance(entry, float)}
    return [leave_out_floats(entry) for entry in value] if isinstance(value, list) else value


def predict(recipe: str, model: Path, output: Path) -> dict[str, float]:
    """Scores of a result directory on the rows that it was evaluated on."""
    run, own = RECIPES[recipe]
    _, path = list_sample_flags(recipe, "validation")
    return run(
        "--model_name_or_path", model, "--test_file", path, *own, "--do_predict", "--max_predict_samples", "9",
        "--dtype", "float32", "--report_to", "none", "--output_dir", output,
    )  # fmt: skip


@pytest.mark.parametrize(("recipe", "method"), CASES)
def test_a_recipe_trains_an_adapter_and_predicts_from_its_result(recipe, method, bases, tmp_path):
    with ADAPTERS.record(method, recipe, "works"):
        result = tmp_path / "out"
        scores = train(recipe, method, bases[recipe], result)
        first, *_ = read_history(result, "eval_loss")
        assert scores["validation_loss"] < first["eval_loss"]
        is_prompt = METHODS[method][1] in PROMPT_METHODS
        assert (result / "model.safetensors").exists() != is_prompt, "virtual tokens cannot be merged, all else is"
        assert (result / "adapter" / "adapter_model.safetensors").exists()
        repeated = predict(recipe, result, tmp_path / "again")
        # 4 and 8 bits are merged into the weights as they were before they were rounded.
        bound = 0.05 if "bits" in method else 1e-4
        assert repeated["test_loss"] == pytest.approx(scores["validation_loss"], rel=bound)
        if "bits" not in method:
            there, here = (tmp_path / "again" / "predictions_test.jsonl", result / "predictions_validation.jsonl")
            assert leave_out_floats(read_jsonl(there)) == leave_out_floats(read_jsonl(here))


@pytest.mark.parametrize(("recipe", "method"), REFUSED)
def test_an_adapter_that_does_not_serve_a_recipe_is_refused(recipe, method, bases, tmp_path):
    with ADAPTERS.record(method, recipe, "refused"):
        with pytest.raises(UserError, match=re.escape(REFUSED[recipe, method])):
            train(recipe, method, bases[recipe], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_the_table_names_every_adapter_and_recipe_of_the_matrix():
    ADAPTERS.check_names()
    assert tuple(METHODS) == ADAPTERS.rows and set(RECIPES) == set(tables.RECIPES)


@pytest.mark.parametrize("method", ["adalora", "p_tuning"])
def test_a_resumed_training_of_what_peft_saves_in_part_is_the_uninterrupted_one(method, bases, tmp_path):
    whole = train("ner", method, bases["ner"], tmp_path / "whole")
    losses = {row["step"]: row["loss"] for row in read_history(tmp_path / "whole", "loss")}
    # As it is after a crash in step 17: the checkpoints, and no results.
    (tmp_path / "resumed").mkdir()
    for name in ("checkpoint-8", "checkpoint-16", "config.yaml"):
        (tmp_path / "whole" / name).rename(tmp_path / "resumed" / name)
    resumed = train("ner", method, bases["ner"], tmp_path / "resumed")
    again = {row["step"]: row["loss"] for row in read_history(tmp_path / "resumed", "loss")}
    assert again == losses
    assert resumed == whole
    before, after = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "resumed")
    )
    assert before.keys() == after.keys() and all((before[key] == after[key]).all() for key in before)


def test_adalora_keeps_the_ranks_of_its_budget(bases, tmp_path):
    train(
        "sentiment",
        "adalora",
        bases["sentiment"],
        tmp_path / "out",
        "--lora_r",
        "4",
        "--load_best_model_at_end",
        "false",
    )
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    kept = config["rank_pattern"]
    assert len(kept) == 4 and {len(ranks) for ranks in kept.values()} == {6}, "two layers, query and value"
    assert sum(sum(ranks) for ranks in kept.values()) == 16
    assert (config["tinit"], config["tfinal"], config["total_step"]) == (2, 7, 24)


def test_a_result_with_virtual_tokens_says_how_it_is_loaded_and_is_not_trained_further(bases, tmp_path):
    train("ner", "prompt", bases["ner"], tmp_path / "out")
    usage = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    said = {}
    exec(usage, said)
    batch = said["tokenizer"]("Ada lives in Paris.", return_tensors="pt")
    pieces = batch["input_ids"].size(1)
    logits = said["model"](**batch).logits
    assert logits.shape == (1, 20 + pieces, len(said["config"].id2label)) and said["config"].id2label[0] == "O"
    with pytest.raises(
        UserError, match="holds an adapter that cannot be merged, for prediction: to train, give the model"
    ):
        train("ner", "lora", tmp_path / "out", tmp_path / "more")
