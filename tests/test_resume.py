"""A run that is stopped, killed or damaged goes on to the same weights as one that was left alone."""

import hashlib
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, SAMPLE, stop_at
from tests.faults.fault import run_recipe
from tests.faults.forked import Run, start_recipe

import pytest

STEPS, SAVE_EVERY = 30, 6  # ten steps an epoch: checkpoints lie within epochs


def list_flags(output: Path) -> list[str]:
    """A run with dropout, shuffling, evaluation and best-model selection: everything a resume has to restore."""
    flags = {
        "from_scratch": "encoder_tiny", "vocab_size": 2000, "train_file": SAMPLE / "train.jsonl", "output_dir": output,
        "validation_file": SAMPLE / "validation.jsonl", "max_eval_samples": 10, "max_train_samples": 40,
        "train_sampling_strategy": "group_by_length", "dtype": "float32", "max_steps": STEPS,
        "per_device_train_batch_size": 4, "learning_rate": "1e-3", "save_steps": SAVE_EVERY, "eval_strategy": "steps",
        "eval_steps": SAVE_EVERY, "metric_for_best_model": "loss", "early_stopping_patience": 20, "logging_steps": 2,
    }  # fmt: skip
    texts = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return [*texts, "--do_train", "--do_eval", "--load_best_model_at_end"]


def train(*flags: object) -> Run:
    """The recipe in a process of its own that ends well."""
    run = run_recipe("ner", *flags)
    assert run.code == 0, run.tail()
    return run


def hash_weights(output: Path) -> str:
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The result of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("resume") / "undisturbed"
    train(*list_flags(output))
    return output


def copy_as_stopped(undisturbed: Path, output: Path) -> Path:
    """The directory as it was when the run had saved its last checkpoint and was killed."""
    shutil.copytree(undisturbed, output)
    for path in output.iterdir():
        if path.name != "config.yaml" and not path.name.startswith("checkpoint-"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = output / "config.yaml"
    config.write_text(config.read_text().replace(str(undisturbed), str(output)))
    return output


def test_a_stopped_run_saves_exits_with_143_and_resumes_to_the_same_weights(undisturbed, tmp_path):
    output = tmp_path / "stopped"
    command = [sys.executable, "-u", str(ROOT / "recipes/ner/run.py"), *list_flags(output)]
    code, said = stop_at(f"step 4/{STEPS}", command)
    assert code == 128 + signal.SIGTERM, said
    assert "Stopped by SIGTERM at step " in said and "Traceback" not in said
    assert not (output / "metrics.json").exists() and not (output / "model.safetensors").exists()
    run = train(*list_flags(output))
    assert f"Resuming from {output}/checkpoint-" in run.stdout
    assert hash_weights(output) == hash_weights(undisturbed)


def test_an_incomplete_or_corrupt_checkpoint_is_skipped_and_named(undisturbed, tmp_path):
    output = copy_as_stopped(undisturbed, tmp_path / "damaged")
    assert {f"checkpoint-{step}" for step in (18, 24, 30)} <= {path.name for path in output.iterdir()}
    (output / "checkpoint-30" / "manifest.json").unlink()  # killed while it was saving
    weights = output / "checkpoint-24" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1  # one bit
    weights.write_bytes(content)
    run = train(*list_flags(output))
    aside = "aside as checkpoint"
    assert f"Setting {output}/checkpoint-30 {aside}-30.corrupt: incomplete: it has no manifest.json" in run.stdout
    assert f"Setting {output}/checkpoint-24 {aside}-24.corrupt: model.safetensors is corrupt" in run.stdout
    assert f"Resuming from {output}/checkpoint-18." in run.stdout
    assert hash_weights(output) == hash_weights(undisturbed)


def test_a_checkpoint_asked_for_has_to_be_whole(undisturbed, tmp_path):
    output = copy_as_stopped(undisturbed, tmp_path / "asked")
    (output / "checkpoint-30" / "optimizer.pt").unlink()
    before = sorted(path.name for path in output.iterdir())
    run = run_recipe("ner", *list_flags(output), "--resume_from_checkpoint", output / "checkpoint-30")
    assert run.code == 1
    assert f"error: {output}/checkpoint-30 cannot be resumed from: optimizer.pt is missing." in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(path.name for path in output.iterdir()) == before


def test_other_settings_do_not_continue_a_run(undisturbed, tmp_path):
    output = copy_as_stopped(undisturbed, tmp_path / "other")
    run = run_recipe("ner", *list_flags(output), "--seed", "7")
    assert run.code == 1
    assert f"{output} holds an unfinished run with other settings (seed: 42 -> 7)" in run.stderr
    run = run_recipe("ner", *list_flags(output), "--resume_from_checkpoint", "never")
    assert run.code == 1
    assert "holds checkpoints of this run, which starting at step 0 would overwrite" in run.stderr


def test_a_setting_that_may_change_holds_from_the_next_step_on(undisturbed, tmp_path):
    """The optimizer's and the schedule's states hold the old rate, which would silently stay."""
    output = copy_as_stopped(undisturbed, tmp_path / "allowed")
    for step in (24, 30):
        shutil.rmtree(output / f"checkpoint-{step}")
    run = train(*list_flags(output), "--learning_rate", "1e-2", "--allow_change", "learning_rate", "logging_steps")
    # A linear schedule without warmup: the first of 30 steps has the whole rate, the 20th 11/30 of it.
    line = next(line for line in run.stdout.splitlines() if line.startswith("step 20/30"))
    assert line.endswith("learning_rate 3.67e-03")
    assert hash_weights(output) != hash_weights(undisturbed)


def test_a_run_killed_at_any_moment_can_be_resumed(undisturbed, tmp_path):
    output = tmp_path / "killed"
    started = start_recipe("ner", *list_flags(output))
    deadline = time.monotonic() + 120
    while not (output / "checkpoint-18").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send(signal.SIGKILL)  # most likely while checkpoint-18 is being written
    assert started.finish().code == -signal.SIGKILL
    run = train(*list_flags(output))
    assert "Resuming from" in run.stdout
    assert hash_weights(output) == hash_weights(undisturbed)


def test_config_yaml_of_a_result_gives_the_same_run(undisturbed, tmp_path):
    train("--config", undisturbed / "config.yaml", "--output_dir", tmp_path / "again")
    assert hash_weights(tmp_path / "again") == hash_weights(undisturbed)
