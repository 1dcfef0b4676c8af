"""In upstream's order of the rows each recipe takes the very steps of Hugging Face's Trainer, and ends at its weights.

What scores better or worse than upstream's scripts on the same data is then chance, or what is named here: the order
(random, where the recipes group by length), and padding of questions that may not be an answer.
"""

import importlib
import json
from pathlib import Path

from benchmarks.contestants import TASKS, prepare_model, prepare_rows
from benchmarks.plain import SCRIPTS, parse_flags
from tests.conftest import list_file_flags, read_jsonl, run_generating_recipe, run_in_process

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

SHARED = ("--num_train_epochs", "1", "--learning_rate", "1e-3", "--per_device_train_batch_size", "4", "--seed", "42")
PADDED_TO = {"sentiment": "128", "qa": "384"}  # by upstream's defaults


# TRL's training learns what users say as well, as this project's dialogues do not.
@pytest.mark.parametrize("name", [name for name in TASKS if name != "dialogue"])
def test_a_recipe_in_random_order_ends_at_the_weights_of_plain_trainer(name, tmp_path, monkeypatch):
    task = TASKS[name]
    prepare_rows(task, None, tmp_path, (18, 4))
    model = prepare_model(task, None, tmp_path)
    switch_dropout_off(Path(model))
    flags = ["--model_name_or_path", model, *list_file_flags(tmp_path, "train", "validation"), *SHARED]
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    set_seed(42)
    SCRIPTS[name](parse_flags(["--task", name, *flags, "--use_cpu", "true", "--output_dir", str(plain)]))

    recipe = importlib.import_module(f"recipes.{name}.run")
    if name == "qa":  # where upstream takes padded pieces for possible answers
        monkeypatch.setattr(recipe, "hide_padding", lambda model: None)
    if name == "ner":  # upstream's are in alphabetical order
        rows = [row for split in ("train", "validation") for row in read_jsonl(tmp_path / f"{split}.jsonl")]
        flags += ["--tag_names", *sorted({tag for row in rows for tag in row["tags"]})]
    if name in PADDED_TO:  # what is computed there is hidden, but rounds otherwise
        flags += ["--pad_to_multiple_of", PADDED_TO[name]]
    flags += [*task.flags, "--train_sampling_strategy", "random", "--dtype", "float32", "--use_cpu", "true"]
    flags += ["--do_train", "--save_strategy", "no", "--eval_strategy", "no", "--report_to", "none"]
    run = run_generating_recipe if task.preset == "encoder_decoder_small" else run_in_process
    run(recipe, getattr(recipe, f"{name.capitalize()}Arguments"), *flags, "--output_dir", ours)

    theirs, found = load_file(plain / "model.safetensors"), load_file(ours / "model.safetensors")
    begun = load_file(f"{model}/model.safetensors")
    moved = [(theirs[key] - begun[bare]).abs().max() for key in theirs if (bare := key.removeprefix("bert.")) in begun]
    assert max(moved) > 1e-3
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-6)


def switch_dropout_off(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {key: 0.0 for key in config if "dropout" in key}))
