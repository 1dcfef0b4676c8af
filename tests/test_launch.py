"""Two processes train as one: launched as a user launches them, on the CPU."""

import csv
import json
import sys
from pathlib import Path

from common.arguments import TrainingArguments
from common.errors import UserError
from common.training import prepare_run
from tests.conftest import ROOT, SAMPLE, launch, read_jsonl

import pytest

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))


def train(encoder: Path, output: Path, config: str, rows: int, *flags: str):
    """Logged losses and metrics of one epoch over the sample with `rows` rows a process and step."""
    command = [
        ACCELERATE, "launch", "--config_file", str(ROOT / "accelerate_configs" / config),
        str(ROOT / "recipes/ner/run.py"),
        "--model_name_or_path", str(encoder), "--train_file", str(SAMPLE / "train.jsonl"), "--validation_file",
        str(SAMPLE / "validation.jsonl"), "--do_train", "--do_eval", "--dtype", "float32", "--learning_rate", "1e-2",
        "--per_device_train_batch_size", str(rows), "--max_steps", "60", "--logging_steps", "1",
        "--save_strategy", "no",
        "--max_eval_samples", "37", "--output_dir", str(output), *flags,
    ]  # fmt: skip
    run = launch(command)
    assert run.returncode == 0, run.stderr[-3000:]
    with (output / "history.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    return run, losses, json.loads((output / "metrics.json").read_text())


def test_two_processes_give_the_run_of_one(encoder, tmp_path):
    _, losses, metrics = train(encoder, tmp_path / "one", "cpu.yaml", 16)
    run, shared_losses, shared_metrics = train(encoder, tmp_path / "two", "multi_cpu.yaml", 8)
    assert "device     cpu, 2 processes" in run.stdout
    assert "batch      16 rows a step = 8 a device x 2 x 1 accumulation" in run.stdout
    assert len(losses) == 60
    assert shared_losses[:10] == pytest.approx(losses[:10], rel=1e-6)
    # 37 validation rows do not divide by 2 processes: no row is scored twice, and the loss is still exact.
    assert shared_metrics["validation_f1"] == metrics["validation_f1"] > 0
    assert shared_metrics["validation_loss"] == pytest.approx(metrics["validation_loss"], rel=1e-5)
    predictions = [read_jsonl(tmp_path / name / "predictions_validation.jsonl") for name in ("one", "two")]
    assert len(predictions[0]) == 37
    assert [row["predicted_tags"] for row in predictions[0]] == [row["predicted_tags"] for row in predictions[1]]
    assert run.stdout.count("example 1") == 1, "only the first process speaks"


def test_accumulation_in_two_processes_gives_the_same_losses(encoder, tmp_path):
    _, losses, _ = train(encoder, tmp_path / "one", "cpu.yaml", 16, "--max_steps", "6")
    flags = ("--gradient_accumulation_steps", "4", "--max_steps", "6")
    _, shared_losses, _ = train(encoder, tmp_path / "two", "multi_cpu.yaml", 2, *flags)
    assert shared_losses == pytest.approx(losses, rel=1e-6)


def test_processes_that_do_not_train_together_are_refused(tmp_path, monkeypatch):
    """A launcher has started two, but nothing joined them: each would overwrite the other's results."""
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started, but they do not train together"):
        prepare_run(args)
