"""Short trainings that faults of the process and of its checkpoints are tried on, and what they come to undisturbed."""

import functools
import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.fault import Finding, list_flags
from tests.faults.forked import Run, Started, start_recipe, start_script

STEPS, SAVE_EVERY = 12, 3
SETTINGS = (
    "--max_steps", STEPS, "--max_train_samples", "40", "--per_device_train_batch_size", "8", "--logging_steps", "1",
    "--save_steps", SAVE_EVERY, "--eval_strategy", "steps", "--eval_steps", SAVE_EVERY, "--load_best_model_at_end",
    "--metric_for_best_model", "loss", "--learning_rate", "1e-3", "--train_sampling_strategy", "group_by_length",
)  # fmt: skip


def train_flags(recipe: str, folder: Path, *flags: object) -> list[object]:
    """The flags of two epochs and a half with dropout, evaluation, best model and a checkpoint every third step."""
    shorter = ["--max_new_tokens", "4"] if recipe in ("translation", "summarization", "dialogue") else []
    return list_flags(recipe, folder, *SETTINGS, *shorter, *flags)


def start(recipe: str, folder: Path, *flags: object) -> Started:
    """Such a training, begun; its result goes to folder/result."""
    return start_recipe(recipe, *train_flags(recipe, folder, *flags))


@functools.cache
def train_undisturbed(recipe: str, *flags: object) -> Path:
    """The result directory of a training that nothing disturbed, with all its checkpoints; made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="undisturbed-"))
    run = start(recipe, folder, *flags).finish()
    assert run.code == 0, run.tail()
    return folder / "result"


def leave_as_killed(recipe: str, folder: Path, step: int, *flags: object) -> Path:
    """folder/result as it is where that training is killed after the checkpoint of this step."""
    undisturbed, result = train_undisturbed(recipe, *flags), folder / "result"
    result.mkdir()
    for path in undisturbed.glob("checkpoint-*"):
        if int(path.name.split("-")[1]) <= step:
            shutil.copytree(path, result / path.name)
    config = (undisturbed / "config.yaml").read_text()
    (result / "config.yaml").write_text(config.replace(str(undisturbed), str(result)))
    # Checkpoints name the best one by its path.
    for path in result.glob("checkpoint-*/trainer_state.json"):
        path.write_text(path.read_text().replace(str(undisturbed), str(result)))
        reseal(path.parent)
    return result


def reseal(checkpoint: Path) -> None:
    """Make the manifest true again after its files were changed on purpose."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, file in manifest["files"].items():
        content = (checkpoint / name).read_bytes()
        file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def wait_for(started: Started, text: str, seconds: float = 180) -> str:
    """Wait until a run has written this; what it has written by then."""
    deadline = time.monotonic() + seconds
    while text not in (said := started.read()):
        assert started.exitcode is None and time.monotonic() < deadline, f"no {text!r} in: {said[-500:]}"
        time.sleep(0.01)
    return said


def wait_for_path(started: Started, path: Path, seconds: float = 180) -> None:
    """Wait until a run has made this file or directory."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert started.exitcode is None and time.monotonic() < deadline, f"no {path}: {started.read()[-500:]}"
        time.sleep(0.002)


def hash_weights(result: Path) -> str:
    """The SHA-256 of a result's weights."""
    return hashlib.sha256((result / "model.safetensors").read_bytes()).hexdigest()


def judge_resume(recipe: str, folder: Path, *flags: object, said: str = "", reference: tuple = ()) -> Finding:
    """survives where the same command goes on to the weights and scores of the undisturbed training.

    `said` must be among what it says; `reference` are the flags of the training that is the measure, if not `flags`.
    """
    run = start(recipe, folder, *flags).finish()
    if run.timed_out or run.code != 0:
        return Finding("hangs" if run.timed_out else "loses", run.tail())
    if said not in run.stdout + run.stderr:
        return Finding("obscure", f"it did not say {said!r}: {run.tail()}")
    undisturbed, result = train_undisturbed(recipe, *(reference or flags)), folder / "result"
    scores = [json.loads((path / "metrics.json").read_text()) for path in (undisturbed, result)]
    if hash_weights(result) != hash_weights(undisturbed) or scores[0] != scores[1]:
        return Finding("silently wrong", f"other weights or scores after the resume: {run.tail()}")
    return Finding("survives", said or "resumed to the same weights and scores")


def run_sabotaged(recipe: str, folder: Path, kind: str, first: int, last: int, *flags: object) -> Run:
    """Such a training in which these batches go wrong; see sabotage.py."""
    script = ROOT / "tests" / "faults" / "sabotage.py"
    path = ROOT / "recipes" / recipe / "run.py"
    return start_script(script, path, kind, first, last, *train_flags(recipe, folder, *flags)).finish()


def judge_stop(run: Run, code: int, result: Path) -> Finding | None:
    """What is wrong with a run that was told to stop; None where it saved, said so last, and left no result."""
    if run.timed_out:
        return Finding("hangs", run.tail())
    if run.code != code:
        return Finding("loses", f"exit code {code} was expected: {run.tail()}")
    if (result / "metrics.json").exists() or (result / "model.safetensors").exists():
        return Finding("silently wrong", "a stopped run looks finished")
    last = run.stderr.strip().splitlines()[-1:]
    if "Traceback" in run.stderr or not last or not last[0].startswith("Stopped by SIG"):
        return Finding("obscure", run.tail())
    if not any((path / "manifest.json").exists() for path in result.glob("checkpoint-*")):
        return Finding("loses", f"nothing is saved: {run.tail()}")
    return None
