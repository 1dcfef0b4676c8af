"""Short runs of the six recipes that can be interrupted at known steps, and what must be equal when they were."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

from tests.conftest import list_sample_flags
from tests.faults.fault import NEEDED_FLAGS

CHECKPOINT_FILES = ("model.safetensors", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
RESULT_FILES = (
    "model.safetensors", "adapter/adapter_model.safetensors", "predictions_validation.jsonl", "metrics.json",
)  # fmt: skip
ROWS, BATCH = 22, 4  # the last batch of an epoch has two rows
FEW_PIECES = {recipe: ["--max_new_tokens", "6"] for recipe in ("translation", "summarization", "dialogue")}


def list_short_flags(recipe: str, model: list[object], output: Path, *flags: object) -> list[object]:
    """A run of two and a half epochs of six steps, evaluated and saved every third one, that keeps the best model."""
    return [
        *model, *NEEDED_FLAGS[recipe][2:], *list_sample_flags(recipe, "train", "validation"), "--output_dir", output,
        "--do_train", "--do_eval", "--load_best_model_at_end", "--metric_for_best_model", "loss", "--dtype", "float32",
        "--max_train_samples", ROWS, "--max_eval_samples", "6", "--per_device_train_batch_size", BATCH, "--max_steps",
        "15", "--eval_strategy", "steps", "--eval_steps", "3", "--save_steps", "3", "--logging_steps", "1",
        "--learning_rate", "1e-3", *FEW_PIECES.get(recipe, []), *flags,
    ]  # fmt: skip


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def list_steps(output: Path) -> list[int]:
    """The steps of the checkpoints that a run has left."""
    ends = (path.name.removeprefix("checkpoint-") for path in output.glob("checkpoint-*"))
    return sorted(int(end) for end in ends if end.isdigit())  # those set aside end with .corrupt


def read_losses(output: Path, step: int) -> list[dict[str, str]]:
    """What history.csv holds of the steps after `step`, without what depends on the clock or on the last start."""
    left_out = ("runtime", "per_second", "train_loss", "flos")
    with (output / "history.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if int(line["step"]) > step and not line["train_runtime"]]
    return [{name: value for name, value in line.items() if not name.endswith(left_out)} for line in lines]


def describe_result(output: Path, step: int = 0) -> dict[str, object]:
    """What a run made of its data after `step`: two runs that agree in it are the same to the last bit."""
    described = {name: hash_file(output / name) for name in RESULT_FILES if (output / name).exists()}
    for number in list_steps(output):
        if number > step:
            folder = output / f"checkpoint-{number}"
            files = [folder / name for name in CHECKPOINT_FILES if (folder / name).exists()]
            described |= {f"{number}/{path.name}": hash_file(path) for path in files}
    described["scores"] = json.loads((output / "metrics.json").read_text())
    described["losses"] = read_losses(output, step)
    assert {"model.safetensors", "predictions_validation.jsonl"} <= described.keys() and described["losses"]
    return described


def restore_step(finished: Path, output: Path, step: int) -> None:
    """Make `output` the directory that a run leaves that is killed once it has saved the checkpoint of `step`."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    shutil.copy(finished / "config.yaml", output)
    for number in list_steps(finished):
        if number <= step:
            shutil.copytree(finished / f"checkpoint-{number}", output / f"checkpoint-{number}")
