"""Faults of checkpoints, and of going on from them: damage, other settings, other data, two runs at once (group B)."""

import itertools
import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

from tests.conftest import list_sample_flags, read_jsonl, write_jsonl
from tests.faults.fault import NER, RECIPES, Case, Fault, Finding, judge_refusal, judge_survival, spread
from tests.faults.runs import (
    hash_weights,
    judge_resume,
    leave_as_killed,
    reseal,
    run_sabotaged,
    start,
    train_undisturbed,
    wait_for,
)

from safetensors.torch import load_file, save_file


def cut(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[-1])
    save_file(tensors, path, {"format": "pt"})


def resume_after(damage, name: str, recipe: str, folder: Path) -> Finding:
    """The newest checkpoint is damaged after it was sealed: the one before is taken, and why is said."""
    damage(leave_as_killed(recipe, folder, 9) / "checkpoint-9" / name)
    finding = judge_resume(recipe, folder, said="aside as checkpoint-9.corrupt: ")
    kept = folder / "result" / "checkpoint-9.corrupt"
    return finding if kept.is_dir() else Finding("loses", "the damaged checkpoint was not kept")


def try_damages(*damages: tuple[str, object], names: tuple[str, ...]) -> tuple[Case, ...]:
    """A case for each damage of each file with NER, one for the first of them with each other recipe."""
    cases = [
        Case(f"ner, {name} {what}", partial(resume_after, damage, name, "ner"), is_slow=bool(number))
        for number, (name, (what, damage)) in enumerate(itertools.product(names, damages))
    ]
    others = (recipe for recipe in RECIPES if recipe != "ner")
    cases += [Case(recipe, partial(resume_after, damages[0][1], names[0], recipe), is_slow=True) for recipe in others]
    return tuple(cases)


def resume_beside_unsealed(recipe: str, folder: Path, empty: bool) -> Finding:
    """A newer directory that is empty, or has transformers' own mark of an incomplete checkpoint."""
    newer = leave_as_killed(recipe, folder, 6) / "checkpoint-8"
    if empty:
        newer.mkdir()
    else:
        shutil.copytree(newer.with_name("checkpoint-6"), newer)
        (newer / "manifest.json").unlink()
        (newer / "checkpoint-is-incomplete.txt").write_text("incomplete")
    return judge_resume(recipe, folder, said="aside as checkpoint-8.corrupt: incomplete")


def start_again_when_finished(recipe: str, folder: Path) -> Finding:
    """The command of a finished run: its scores are shown, nothing is trained or written."""
    result = folder / "result"
    shutil.copytree(train_undisturbed(recipe), result)
    (result / "config.yaml").write_text(
        (result / "config.yaml").read_text().replace(str(train_undisturbed(recipe)), str(result))
    )
    before = {path: path.stat().st_mtime_ns for path in result.rglob("*")}
    run = start(recipe, folder).finish()
    after = {path: path.stat().st_mtime_ns for path in result.rglob("*")}
    is_right = "holds this run, finished" in run.stdout and "step 1/" not in run.stdout
    return judge_survival(run, is_right and {path: after.get(path) for path in before} == before)


def resume_where_nothing_is(recipe: str, folder: Path, wanted: str) -> Finding:
    flags = ("--resume_from_checkpoint", wanted)
    if wanted == "auto":
        return judge_resume(recipe, folder, *flags)
    run = start(recipe, folder, *flags).finish()
    said = {"must": "has no whole checkpoint to resume from", "True": "True cannot be resumed from: there is no such"}
    return judge_refusal(run, said[wanted], absent=[folder / "result" / "metrics.json"])


def resume_with(pattern: str, *flags: object, recipe: str, folder: Path) -> Finding:
    """Another setting: refused with the difference and the flag that allows it, and nothing is touched."""
    result = leave_as_killed(recipe, folder, 6)
    kept = [result / "checkpoint-6" / "manifest.json", result / "checkpoint-3" / "manifest.json"]
    run = start(recipe, folder, *flags).finish()
    return judge_refusal(run, pattern + r"\): choose another output_dir, .*--allow_change \w+", kept=kept)


def resume_with_other_data(recipe: str, folder: Path, shrink: bool) -> Finding:
    """The training file has other rows than before, under the same name."""
    (sample,) = list_sample_flags(recipe, "train")[1:]
    rows = read_jsonl(Path(sample))[:48]
    path = write_jsonl(folder / "train.jsonl", rows)
    started = start(recipe, folder, "--train_file", path, "--save_total_limit", "9")
    wait_for(started, "step 7/")
    started.send(signal.SIGKILL)
    started.finish()
    write_jsonl(path, rows[:20] if shrink else rows[::-1])
    run = start(recipe, folder, "--train_file", path, "--save_total_limit", "9").finish()
    wanted = r"data: train\.jsonl holds something else\): .*--allow_change data"
    return judge_refusal(run, wanted, kept=[folder / "result" / "checkpoint-6" / "manifest.json"])


def start_in_used_directory(recipe: str, folder: Path) -> Finding:
    """Another run's output_dir, finished."""
    shutil.copytree(train_undisturbed(recipe), folder / "result")
    run = start(recipe, folder, "--seed", "7").finish()
    wanted = r"holds a finished run with other settings \(.*seed: 42 -> 7.*\): choose another output_dir"
    return judge_refusal(run, wanted, kept=[folder / "result" / "metrics.json"])


def start_twice_at_once(recipe: str, folder: Path) -> Finding:
    """Two runs of one command at the same time: the second one is refused, the first one ends well."""
    first = start(recipe, folder)
    wait_for(first, "step 1/")
    first.send(signal.SIGSTOP)  # for as long as the second one looks
    second = start(recipe, folder).finish()
    first.send(signal.SIGCONT)
    finding = judge_refusal(second, "is in use by another run \\(process \\d+ on ")
    return judge_survival(first.finish(), finding.verdict == "clear") if finding.verdict != "clear" else finding


def rotate_beside_own_directories(recipe: str, folder: Path, in_future: bool) -> Finding:
    """Directories that a user has made stay, and the newest checkpoints by step, whatever the clock says."""
    result = leave_as_killed(recipe, folder, 6)
    for name in ("checkpoint-golden", "checkpoint-2-backup"):
        shutil.copytree(result / "checkpoint-3", result / name)
    if in_future:
        os.utime(result / "checkpoint-3", (4e9, 4e9))
    run = start(recipe, folder, "--save_total_limit", "1").finish()
    best = json.loads((result / "checkpoint-12" / "trainer_state.json").read_text())["best_global_step"]
    kept = {f"checkpoint-{step}" for step in {9, 12, best}} | {"checkpoint-golden", "checkpoint-2-backup"}
    return judge_survival(run, {path.name for path in result.glob("checkpoint-*")} == kept)


def lose_best_checkpoint(recipe: str, folder: Path, delete: bool) -> Finding:
    """The best checkpoint is damaged or gone at the end: the last weights are saved, and the result says so."""
    result = leave_as_killed(recipe, folder, 12)
    state = json.loads((result / "checkpoint-12" / "trainer_state.json").read_text())
    best = result / "checkpoint-3"  # said to be the best one
    state |= {"best_global_step": 3, "best_metric": 0.0, "best_model_checkpoint": str(best)}
    (result / "checkpoint-12" / "trainer_state.json").write_text(json.dumps(state))
    reseal(result / "checkpoint-12")
    if delete:
        shutil.rmtree(best)
    else:
        cut(0.5, best / "model.safetensors")
    run = start(recipe, folder).finish()
    if run.code:
        return Finding("loses", run.tail())
    weights = json.loads((result / "recipe.json").read_text())["weights"]
    is_last = hash_weights(result) == hash_weights(result / "checkpoint-12")
    return judge_survival(run, is_last and weights.startswith("of the last step") and weights in run.stdout, weights)


def score_nothing(recipe: str, folder: Path) -> Finding:
    """The loss of the first evaluation is NaN, and it is what the best model is chosen by."""
    run = run_sabotaged(recipe, folder, "nan evaluation", 1, 999)
    return judge_refusal(run, "metric_for_best_model: eval_loss is NaN at step 3, so no model can be called the best: ")


def resume_early_stopping(recipe: str, folder: Path) -> Finding:
    """Patience is counted on over a resume: the run stops at the step at which it stops undisturbed."""
    flags = ("--early_stopping_patience", "2", "--early_stopping_threshold", "100", "--max_steps", "30")
    undisturbed = train_undisturbed(recipe, *flags)
    leave_as_killed(recipe, folder, 3, *flags)
    finding = judge_resume(recipe, folder, *flags, said="Resuming from")
    steps = [
        json.loads(max(path.glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime).read_text())["global_step"]
        for path in (undisturbed, folder / "result")
    ]
    return (
        finding if steps == [9, 9] else Finding("silently wrong", f"stopped at {steps[1]}, undisturbed at {steps[0]}")
    )


def with_ner(attempt, *variants: tuple[str, tuple]) -> tuple[Case, ...]:
    """A case of NER for each variant: its name, and what `attempt` gets beside the recipe."""
    return tuple(
        Case(f"ner, {name}", lambda folder, rest=rest: attempt("ner", folder, *rest)) for name, rest in variants
    )


def with_settings(*variants: tuple[str, str, tuple]) -> tuple[Case, ...]:
    """A case of NER for each: its name, the difference that is said, and the flags."""
    return tuple(Case(f"ner, {name}", partial(_resume_ner_with, pattern, flags)) for name, pattern, flags in variants)


def _resume_ner_with(pattern: str, flags: tuple, folder: Path) -> Finding:
    return resume_with(pattern, *flags, recipe="ner", folder=folder)


HALF, EMPTY, FLIPPED = ("cut", partial(cut, 0.5)), ("empty", partial(cut, 0)), ("with one bit flipped", flip_bit)
GONE = ("missing", Path.unlink)
WEIGHTS = ("model.safetensors",)
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")

FAULTS = [
    Fault("B1", "weights cut or empty", "obscure", "survives", try_damages(HALF, EMPTY, names=WEIGHTS)),
    Fault("B2", "one bit of the weights", "silently wrong", "survives", try_damages(FLIPPED, names=WEIGHTS)),
    Fault("B3", "one bit of the optimizer", "silently wrong", "survives", try_damages(FLIPPED, names=STATES[:1])),
    Fault(
        "B4", "a tensor is missing in the weights", "silently wrong", "survives",
        try_damages(("without a tensor", drop_tensor), names=WEIGHTS),
    ),
    Fault("B5", "no optimizer.pt", "silently wrong", "survives", try_damages(GONE, names=STATES[:1])),
    Fault("B6", "no scheduler.pt", "silently wrong", "survives", try_damages(GONE, names=STATES[1:2])),
    Fault("B7", "no rng_state.pth", "silently wrong", "survives", try_damages(GONE, names=STATES[2:])),
    Fault("B8", "no trainer_state.json", "loses", "survives", try_damages(GONE, names=("trainer_state.json",))),
    Fault("B9", "no weights", "loses", "survives", try_damages(GONE, names=WEIGHTS)),
    Fault(
        "B10", "trainer_state.json cut or empty", "obscure", "survives",
        try_damages(HALF, EMPTY, names=("trainer_state.json",)),
    ),
    Fault("B11", "optimizer or scheduler cut", "obscure", "survives", try_damages(HALF, names=STATES[:2])),
    Fault("B12", "random state cut, states empty", "obscure", "survives", try_damages(EMPTY, HALF, names=STATES[::-1])),
    Fault(
        "B13", "an empty newest directory", "loses", "survives",
        with_ner(resume_beside_unsealed, ("empty", (True,))),
    ),
    Fault(
        "B14", "transformers' mark of an incomplete checkpoint", "silently wrong", "survives",
        with_ner(resume_beside_unsealed, ("marked", (False,))),
    ),
    Fault(
        "B15", "the command of a finished run", "loses", "survives",
        spread("", start_again_when_finished, quick=NER),
    ),
    Fault(
        "B16", "resume in an empty directory", "clear", "survives",
        with_ner(resume_where_nothing_is, ("auto", ("auto",))),
    ),
    Fault(
        "B17", "--resume_from_checkpoint True", "obscure", "clear",
        with_ner(resume_where_nothing_is, ("True", ("True",)), ("must", ("must",))),
    ),
    Fault(
        "B18", "resume with ten times the learning rate", "silently wrong", "clear",
        with_settings(("learning rate", r"\(learning_rate: 0\.001 -> 0\.01", ("--learning_rate", "1e-2"))),
    ),
    Fault(
        "B19", "resume with another batch, seed, length, order or schedule", "silently wrong", "clear",
        (
            *with_settings(
                ("batch", r"\(rows_per_step: 8 -> 4", ("--per_device_train_batch_size", "4")),
                ("accumulation", r"\(rows_per_step: 8 -> 16", ("--gradient_accumulation_steps", "2")),
                ("seed", r"\(seed: 42 -> 7", ("--seed", "7")),
                ("steps", r"\(max_steps: 12 -> 15", ("--max_steps", "15")),
                ("rows", r"\(max_train_samples: 40 -> 39", ("--max_train_samples", "39")),
                ("order", r"\(train_sampling_strategy: \w+ -> random", ("--train_sampling_strategy", "random")),
                ("schedule", r"\(lr_scheduler_type: linear -> cosine", ("--lr_scheduler_type", "cosine")),
            ),
            *with_ner(resume_with_other_data, ("data", (False,))),
        ),
    ),
    Fault(
        "B20", "resume with fewer rows", "silently wrong", "clear",
        with_ner(resume_with_other_data, ("shrunk", (True,))),
    ),
    Fault(
        "B21", "resume with another model, optimizer or adapter", "obscure", "clear",
        with_settings(
            ("model", r"\(from_scratch: encoder_tiny -> encoder_small", ("--from_scratch", "encoder_small")),
            ("optimizer", r"\(optim: adamw_torch_fused -> adafactor", ("--optim", "adafactor")),
        ),
    ),
    Fault(
        "B23", "a new run in the directory of another", "silently wrong", "clear",
        spread("", start_in_used_directory, quick=NER),
    ),
    Fault(
        "B24", "two runs in one directory at once", "silently wrong", "clear",
        spread("", start_twice_at_once, quick=NER),
    ),
    Fault(
        "B25", "rotation beside directories of the user", "loses", "survives",
        with_ner(rotate_beside_own_directories, ("golden", (False,))),
    ),
    Fault(
        "B26", "rotation with a clock that is wrong", "loses", "survives",
        with_ner(rotate_beside_own_directories, ("future", (True,))),
    ),
    Fault(
        "B27", "the best checkpoint is damaged at the end", "loses", "survives",
        with_ner(lose_best_checkpoint, ("cut", (False,))),
    ),
    Fault(
        "B28", "the best checkpoint is gone at the end", "silently wrong", "survives",
        with_ner(lose_best_checkpoint, ("deleted", (True,))),
    ),
    Fault("B29", "the score of the best model is NaN", "silently wrong", "clear", spread("", score_nothing, quick=NER)),
    Fault(
        "B30", "early stopping over a resume", "silently wrong", "survives",
        spread("", resume_early_stopping, quick=NER),
    ),
]  # fmt: skip
