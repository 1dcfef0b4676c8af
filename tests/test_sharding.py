"""DDP and DeepSpeed ZeRO on two processes of a CPU give the losses and the weights of one: the files that we ship."""

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
from tests.conftest import ROOT, launch, list_sample_flags, read_history, read_jsonl

import pytest
from safetensors.torch import load_file

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
RECIPES = {
    "ner": [],
    "summarization": ["--num_beams", "1", "--max_target_length", "12", "--max_source_length", "64"],
    "dialogue": ["--max_new_tokens", "8", "--max_seq_length", "128"],
}


def list_command(config: str, launch_flags: list, recipe: str, model: Path, output: Path, rows: int) -> list[str]:
    """The launch of 20 steps of 8 rows, of which one process has `rows` in each."""
    command = [
        ACCELERATE, "launch", "--config_file", ROOT / "accelerate_configs" / config, "--mixed_precision", "no",
        *launch_flags, ROOT / "recipes" / recipe / "run.py", "--model_name_or_path", model, *RECIPES[recipe],
        *list_sample_flags(recipe, "train", "validation"), "--do_train", "--do_eval", "--dtype", "float32",
        "--learning_rate", "5e-3", "--per_device_train_batch_size", rows, "--max_steps", "20", "--logging_steps", "1",
        "--save_strategy", "no", "--max_train_samples", "160", "--max_eval_samples", "13", "--output_dir", output,
    ]  # fmt: skip
    return [str(word) for word in command]


def train(recipe: str, model: Path, output: Path, config: str, rows: int) -> tuple[list, dict, dict]:
    """Losses, scores and weights of a run."""
    command = list_command(config, [], recipe, model, output, rows)
    # Building DeepSpeed's operations takes minutes once: kept where the next test finds them.
    run = launch(command, timeout=1200, TORCH_EXTENSIONS_DIR=os.environ["TORCH_EXTENSIONS_DIR"])
    assert run.returncode == 0, run.stdout[-1500:] + run.stderr[-3000:]
    processes = 1 if config == "cpu.yaml" else 2
    assert f"device     cpu, {processes} process" in run.stdout, "the launch did something else than asked"
    losses = [row["loss"] for row in read_history(output, "loss")]
    assert len(losses) == 20 and len(read_jsonl(output / "predictions_validation.jsonl")) == 13
    return losses, json.loads((output / "metrics.json").read_text()), load_file(output / "model.safetensors")


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
    return {"ner": encoder, "summarization": encoder_decoder, "dialogue": decoder}


@pytest.fixture(scope="session")
def train_alone(models, extensions, tmp_path_factory) -> Callable[[str], tuple[list, dict, dict]]:
    """What one process gives for a recipe; it is trained when it is first asked for."""
    root = tmp_path_factory.mktemp("alone")
    return cache(lambda recipe: train(recipe, models[recipe], root / recipe, "cpu.yaml", 8))


QUICK = {("deepspeed_zero2", "ner"), ("deepspeed_zero3", "dialogue")}
CONFIGS = ("multi_gpu", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
CASES = [
    pytest.param(config, recipe, marks=[] if (config, recipe) in QUICK else pytest.mark.slow)
    for config in CONFIGS
    for recipe in RECIPES
]


@pytest.mark.parametrize(("config", "recipe"), CASES)
def test_two_processes_train_the_model_of_one(config, recipe, models, train_alone, tmp_path):
    losses, metrics, weights = train_alone(recipe)
    found, found_metrics, found_weights = train(recipe, models[recipe], tmp_path / "out", f"{config}.yaml", 4)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-3)
    assert found_weights.keys() == weights.keys()
    # Of all weights together: the gradient of a key's bias is 0 but for rounding, and Adam makes steps of that.
    difference = sum((found_weights[name] - values).square().sum() for name, values in weights.items()).sqrt()
    assert difference <= 1e-4 * sum(values.square().sum() for values in weights.values()).sqrt()


@pytest.mark.slow
def test_two_machines_train_the_model_of_one(models, train_alone, tmp_path):
    """Two launchers on this machine, one process each, that find each other as two machines do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    losses, _, weights = train_alone("ner")
    flags = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank"]
    commands = [
        list_command("multi_node.yaml", [*flags, rank], "ner", models["ner"], tmp_path / "out", 4) for rank in (0, 1)
    ]
    with ThreadPoolExecutor(2) as machines:
        runs = list(machines.map(launch, commands))
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-2000:] + runs[1].stderr[-2000:]
    assert "device     cpu, 2 processes" in runs[0].stdout
    assert [row["loss"] for row in read_history(tmp_path / "out", "loss")] == pytest.approx(losses, rel=1e-4)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights.keys()
