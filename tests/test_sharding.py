"""DDP, ZeRO and FSDP on two processes of a CPU give the losses and the weights of one: the files that we ship."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from common.launching import LONGEST_BUILD
from tests.conftest import ROOT, launch, list_sample_flags, read_history, read_jsonl, read_scores, stop_at
from tests.tables import LAUNCHERS as TABLE
from tests.tables import RECIPES, SHARDED

import pytest
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
FLAGS = {
    "sentiment": [],
    "ner": [],
    "qa": ["--max_seq_length", "128", "--doc_stride", "32"],
    "translation": ["--source_lang", "en", "--target_lang", "de", "--num_beams", "1", "--max_target_length", "12"],
    "summarization": ["--num_beams", "1", "--max_target_length", "12", "--max_source_length", "64"],
    "dialogue": ["--max_new_tokens", "8", "--max_seq_length", "128"],
}
MODEL_CLASSES = {
    "sentiment": AutoModelForSequenceClassification,
    "ner": AutoModelForTokenClassification,
    "qa": AutoModelForQuestionAnswering,
    "translation": AutoModelForSeq2SeqLM,
    "summarization": AutoModelForSeq2SeqLM,
    "dialogue": AutoModelForCausalLM,
}


def list_command(
    config: str, recipe: str, model: Path, output: Path, rows: int, flags: list, launch_flags: tuple = ()
) -> list[str]:
    """The launch of 20 steps of 8 rows, of which a process has `rows` in each micro-batch."""
    script = ROOT / "recipes" / recipe / "run.py"
    if flags == IN_PARTS:  # a loss that is the better the greater it is: no recipe of ours takes that
        copied = output.with_name(f"{output.name}-{recipe}") / "run.py"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(script.read_text().replace("\n\n\ndef ", '\nSCORES["loss"] = True\n\n\ndef ', 1))
        script = copied
    command = [
        ACCELERATE, "launch", "--config_file", ROOT / "accelerate_configs" / f"{config}.yaml", *launch_flags,
        *([ROOT / "tests" / "fsdp_on_cpu.py"] if config == "fsdp2" else []),
        script, "--model_name_or_path", model, *FLAGS[recipe],
        *list_sample_flags(recipe, "train", "validation"), "--do_train", "--do_eval", "--dtype", "float32",
        "--learning_rate", "5e-3", "--per_device_train_batch_size", rows, "--max_steps", "20", "--logging_steps", "1",
        "--max_train_samples", "160", "--max_eval_samples", "13", "--output_dir", output, *flags,
    ]  # fmt: skip
    return [str(word) for word in command]


def count_processes(launcher: str) -> int:
    return 1 if launcher in ("cpu", "single_gpu") else 2


def train(command: list[str]) -> tuple[str, list, dict, dict]:
    """What a run says, its losses, scores and weights."""
    # Building DeepSpeed's operations takes minutes once: kept where the next test finds them.
    run = launch(command, timeout=1200, TORCH_EXTENSIONS_DIR=os.environ["TORCH_EXTENSIONS_DIR"])
    assert run.returncode == 0, run.stdout[-1500:] + run.stderr[-3000:]
    processes = {1: "1 process", 2: "2 processes"}[count_processes(Path(command[3]).stem)]
    assert f"device     cpu, {processes}" in run.stdout, "the launch did something else than asked"
    output = Path(command[command.index("--output_dir") + 1])
    losses = [row["loss"] for row in read_history(output, "loss")]
    assert len(losses) == 20 and len(read_jsonl(output / "predictions_validation.jsonl")) == 13
    return run.stdout, losses, read_scores(output), load_file(output / "model.safetensors")


def assert_weights_are_close(found: dict, expected: dict) -> None:
    """The same names, and the same weights to 1e-4."""
    assert found.keys() == expected.keys()
    # A softmax does not see what is added to all of its inputs: the gradient of such a bias is 0 but for rounding, and
    # Adam makes steps of that.
    unseen = ["key.bias"]
    if "qa_outputs.bias" in expected:
        unseen += ["qa_outputs.bias", "layer.1.output.LayerNorm.bias"]
    compared = [name for name in expected if not name.endswith(tuple(unseen))]
    difference = sum((found[name] - expected[name]).square().sum() for name in compared).sqrt()
    assert difference <= 1e-4 * sum(expected[name].square().sum() for name in compared).sqrt()


@pytest.fixture(scope="session")
def extensions(tmp_path_factory):
    """Where DeepSpeed builds its operations, kept over runs; the lock of a build that was killed would stop them."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler, which DeepSpeed needs")
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trainer-recipes" / "extensions"
    directory = Path(os.environ.get("TORCH_EXTENSIONS_DIR", kept))
    for lock in directory.rglob("lock"):
        if time.time() - lock.stat().st_mtime > LONGEST_BUILD:  # a younger one may be of a build that goes on
            lock.unlink()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(directory)
    return directory


@pytest.fixture(scope="session")
def models(encoder, encoder_decoder, decoder) -> dict[str, Path]:
    kinds = dict.fromkeys(("sentiment", "ner", "qa"), encoder)
    return kinds | dict.fromkeys(("translation", "summarization"), encoder_decoder) | {"dialogue": decoder}


WHOLE = ["--save_strategy", "no"]
# Checkpoints, and a best model that is not the last: the loss falls, and the greatest counts as the best.
IN_PARTS = [
    "--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps", "--save_steps", "5",
    "--load_best_model_at_end", "--metric_for_best_model", "loss", "--greater_is_better", "true",
]  # fmt: skip


@pytest.fixture(scope="session")
def train_alone(models, extensions, tmp_path_factory) -> Callable[[str, str], tuple[Path, list, dict, dict]]:
    """What one process gives for a recipe, and where; it is trained when it is first asked for."""
    root = tmp_path_factory.mktemp("alone")

    @cache
    def train_once(recipe: str, kind: str) -> tuple[Path, list, dict, dict]:
        output = root / recipe / kind
        flags = {"whole": WHOLE, "in parts": IN_PARTS}[kind]
        return output, *train(list_command("cpu", recipe, models[recipe], output, 8, flags))[1:]

    return train_once


QUICK = {("deepspeed_zero3", "dialogue"), ("fsdp2", "dialogue")}
CASES = [
    pytest.param(launcher, recipe, marks=[] if (launcher, recipe) in QUICK else pytest.mark.slow)
    for launcher in SHARDED
    for recipe in RECIPES
]


def assert_same_training(launcher, recipe, accumulation, models, train_alone, output) -> None:
    """Losses, scores and weights of one process on a CPU, at `accumulation` micro-batches a step."""
    _, losses, metrics, weights = train_alone(recipe, "whole")
    flags = [*WHOLE, "--gradient_accumulation_steps", accumulation]
    rows = 8 // count_processes(launcher) // accumulation
    command = list_command(launcher, recipe, models[recipe], output, rows, flags)
    _, found, found_metrics, found_weights = train(command)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-3)
    assert_weights_are_close(found_weights, weights)


@pytest.mark.parametrize(("launcher", "recipe"), CASES)
def test_two_processes_train_the_model_of_one(launcher, recipe, models, train_alone, tmp_path):
    with TABLE.record(launcher, recipe, "trains"):
        assert_same_training(launcher, recipe, 1, models, train_alone, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_launch_on_one_gpu_trains_the_model_of_a_cpu(recipe, models, train_alone, tmp_path):
    with TABLE.record("single_gpu", recipe, "trains"):
        assert_same_training("single_gpu", recipe, 1, models, train_alone, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ner", "summarization", "dialogue"])
@pytest.mark.parametrize("launcher", SHARDED)
def test_accumulation_in_two_processes_trains_the_model_of_one(launcher, recipe, models, train_alone, tmp_path):
    with TABLE.record(launcher, recipe, "accumulates"):
        assert_same_training(launcher, recipe, 4, models, train_alone, tmp_path / "out")


RESUMED = [
    ("multi_gpu", "dialogue", ()),
    ("deepspeed_zero1", "qa", ()),
    ("deepspeed_zero2", "translation", ()),
    ("deepspeed_zero3", "summarization", ()),
    ("deepspeed_zero2_offload", "ner", ()),
    ("deepspeed_zero3_offload", "dialogue", ()),
    ("fsdp2", "summarization", ()),
    ("fsdp2", "dialogue", ("--fsdp_state_dict_type", "FULL_STATE_DICT")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "recipe", "launch_flags"), RESUMED)
def test_a_run_goes_on_from_its_checkpoint_to_the_same_best_model(
    launcher, recipe, launch_flags, models, train_alone, tmp_path
):
    with TABLE.record(launcher, recipe, "resumes"):
        output = tmp_path / "out"
        command = list_command(launcher, recipe, models[recipe], output, 4, IN_PARTS, launch_flags)
        _, losses, metrics, weights = train(command)
        forget_all_after_step_10(output)
        said, resumed_losses, resumed_metrics, resumed_weights = train(command)
        assert f"Resuming from {output}/checkpoint-10." in said
        assert resumed_losses == losses and resumed_metrics == metrics
        assert all(resumed_weights[name].equal(values) for name, values in weights.items())
        scores = [row["eval_loss"] for row in read_history(output, "eval_loss")]
        assert len(scores) == 4 and scores[0] == max(scores) > min(scores)
        assert metrics["validation_loss"] == pytest.approx(scores[0], rel=1e-5), "this is not the best model"
        # The same as without launcher, also where the last batch of 13 rows is filled up.
        alone, losses_alone, metrics_alone, weights_alone = train_alone(recipe, "in parts")
        assert losses == pytest.approx(losses_alone, rel=1e-4)
        assert metrics == pytest.approx(metrics_alone, rel=1e-3, abs=1e-3)
        assert_weights_are_close(resumed_weights, weights_alone)
        texts = [(path / "predictions_validation.jsonl").read_text() for path in (alone, output)]
        assert strip_probabilities(texts[1]) == strip_probabilities(texts[0])
        _, report = MODEL_CLASSES[recipe].from_pretrained(output, output_loading_info=True)
        assert not any(report.values()), report


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "recipe"), [("multi_gpu", "ner"), ("deepspeed_zero3", "dialogue")])
def test_a_launch_that_is_stopped_saves_and_goes_on_to_the_same_model(launcher, recipe, models, train_alone, tmp_path):
    """The signal goes to the launcher, as from SLURM or Ctrl-C; it hands it on to its processes."""
    output = tmp_path / "out"
    command = list_command(launcher, recipe, models[recipe], output, 4, IN_PARTS)
    code, said = stop_at("step 7/20", command, TORCH_EXTENSIONS_DIR=os.environ["TORCH_EXTENSIONS_DIR"])
    assert code != 0 and "Stopped by SIGTERM at step " in said, said
    assert not (output / "metrics.json").exists()
    said, losses, _, weights = train(command)
    assert f"Resuming from {output}/checkpoint-" in said
    _, losses_alone, _, weights_alone = train_alone(recipe, "in parts")
    assert losses == pytest.approx(losses_alone, rel=1e-4)
    assert_weights_are_close(weights, weights_alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "recipe"), [("deepspeed_zero3", "dialogue"), ("fsdp2", "ner"), ("fsdp2", "summarization")]
)
def test_a_trained_model_is_evaluated_without_training(launcher, recipe, train_alone, tmp_path):
    """Accelerate divides no model with FSDP that has no optimizer."""
    alone, _, metrics, _ = train_alone(recipe, "whole")
    command = list_command(launcher, recipe, alone, tmp_path / "out", 4, [])
    command.remove("--do_train")
    run = launch(command, timeout=1200, TORCH_EXTENSIONS_DIR=os.environ["TORCH_EXTENSIONS_DIR"])
    assert run.returncode == 0, run.stdout[-1500:] + run.stderr[-3000:]
    found = read_scores(tmp_path / "out")
    assert found == pytest.approx(metrics, rel=1e-3, abs=1e-3)
    texts = [(path / "predictions_validation.jsonl").read_text() for path in (alone, tmp_path / "out")]
    assert strip_probabilities(texts[1]) == strip_probabilities(texts[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "recipe"), [("multi_gpu", "ner"), ("deepspeed_zero3", "dialogue"), ("fsdp2", "summarization")]
)
def test_a_dry_run_in_two_processes_saves_and_reloads_once(launcher, recipe, models, extensions, tmp_path):
    """Each process has a temporary directory of its own, and one of them saves."""
    command = list_command(launcher, recipe, models[recipe], tmp_path / "out", 4, ["--dry_run"])
    run = launch(command, timeout=1200, TORCH_EXTENSIONS_DIR=os.environ["TORCH_EXTENSIONS_DIR"])
    assert run.returncode == 0, run.stdout[-1500:] + run.stderr[-3000:]
    assert "a save and a reload worked" in run.stdout and not (tmp_path / "out").exists()


def forget_all_after_step_10(output: Path) -> None:
    """Leave what a run of 20 steps has written until then, as if it had been killed behind its second checkpoint."""
    for path in output.iterdir():
        if path.name not in ("config.yaml", "checkpoint-5", "checkpoint-10"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def strip_probabilities(text: str) -> list[dict]:
    """The lines of predictions with their numbers rounded: the last digits are not those of one process."""
    return json.loads(f"[{','.join(text.splitlines())}]", parse_float=lambda digits: round(float(digits), 3))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_machines_train_the_model_of_one(recipe, models, train_alone, tmp_path):
    """Two launchers on this machine, one process each, that find each other as two machines do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, losses, _, weights = train_alone(recipe, "whole")
    flags = ("--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank")
    output = tmp_path / "out"
    commands = [list_command("multi_node", recipe, models[recipe], output, 4, WHOLE, (*flags, rank)) for rank in (0, 1)]
    with TABLE.record("multi_node", recipe, "trains"):
        with ThreadPoolExecutor(2) as machines:
            runs = list(machines.map(launch, commands))
        assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-2000:] + runs[1].stderr[-2000:]
        assert "device     cpu, 2 processes" in runs[0].stdout
        assert [row["loss"] for row in read_history(output, "loss")] == pytest.approx(losses, rel=1e-4)
        assert_weights_are_close(load_file(output / "model.safetensors"), weights)


def test_the_table_names_every_launcher_and_recipe_of_the_matrix():
    TABLE.check_names()
    files = {path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    assert {*TABLE.rows, "cpu", "multi_cpu"} == files
    assert {path.parent.name for path in (ROOT / "recipes").glob("*/run.py")} == set(RECIPES)
