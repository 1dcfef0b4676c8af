"""Faults of the process: signals, kills, losses that are no numbers, one of several processes that fails (group A)."""

import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.fault import NER, RECIPES, Case, Fault, Finding, judge_refusal, run_recipe, spread
from tests.faults.runs import (
    hash_weights,
    judge_resume,
    judge_stop,
    leave_as_killed,
    run_sabotaged,
    start,
    train_flags,
    train_undisturbed,
    wait_for,
    wait_for_path,
)

import torch
from safetensors.torch import load_file

LONG_EVALUATION = ("--max_eval_samples", "60", "--per_device_eval_batch_size", "1")


def stop_after(step: int, number: int, code: int, recipe: str, folder: Path, *flags: object, times: int = 1) -> Finding:
    """A signal once a step is logged: the evaluation that is due then is under way, or the next step."""
    started = start(recipe, folder, *flags)
    wait_for(started, f"step {step}/")
    for _ in range(times):
        started.send(number)
    finding = judge_stop(started.finish(), code, folder / "result")
    return finding or judge_resume(recipe, folder, *flags, said="Resuming from")


def stop_within_evaluation(recipe: str, folder: Path) -> Finding:
    """The evaluation of step 3 is given up, and made first thing when the run goes on."""
    started = start(recipe, folder, *LONG_EVALUATION)
    wait_for(started, "step 3/")
    started.send(signal.SIGTERM)
    run = started.finish()
    if "  validation  loss" in run.stdout:
        return Finding("obscure", f"the evaluation went on: {run.tail()}")
    if not (folder / "result" / "checkpoint-3" / "manifest.json").exists():
        return Finding("loses", run.tail())
    finding = judge_stop(run, 128 + signal.SIGTERM, folder / "result")
    return finding or judge_resume(recipe, folder, *LONG_EVALUATION, said="Resuming from")


def stop_while_results_are_made(recipe: str, folder: Path) -> Finding:
    """Training is over and nothing was saved on the way: it is saved now."""
    flags = (*LONG_EVALUATION, "--load_best_model_at_end", "false", "--save_strategy", "no", "--eval_strategy", "no")
    started = start(recipe, folder, *flags)
    wait_for(started, "step 12/")
    started.send(signal.SIGTERM)
    finding = judge_stop(started.finish(), 128 + signal.SIGTERM, folder / "result")
    return finding or judge_resume(recipe, folder, *flags, said="Resuming from")


def stop_before_training(recipe: str, folder: Path) -> Finding:
    """Nothing is trained yet: the run ends at once, and the next one begins."""
    started = start(recipe, folder)
    time.sleep(0.4)
    started.send(signal.SIGTERM)
    run = started.finish()
    if run.code not in (-signal.SIGTERM, 128 + signal.SIGTERM) or "Traceback" in run.stderr:
        return Finding("obscure", run.tail())
    return judge_resume(recipe, folder)


def stop_with_little_grace(recipe: str, folder: Path) -> Finding:
    """SIGKILL two seconds after SIGTERM."""
    started = start(recipe, folder)
    wait_for(started, "step 4/")
    started.send(signal.SIGTERM)
    started.process.join(2)
    if started.exitcode is None:
        started.send(signal.SIGKILL)
    started.finish()
    checkpoints = [path.parent.name for path in (folder / "result").glob("checkpoint-*/manifest.json")]
    if checkpoints in ([], ["checkpoint-3"]):
        return Finding("loses", f"saved within two seconds: {checkpoints}")
    return judge_resume(recipe, folder, said="Resuming from")


def stop_twice(recipe: str, folder: Path) -> Finding:
    """A second signal, later: the process ends within a step that takes long, and what was saved before is there."""
    flags = ("--max_steps", "2", "--gradient_accumulation_steps", "500", "--save_strategy", "no")
    flags += ("--max_train_samples", "500", "--vocab_size", "900", "--per_device_train_batch_size", "1")
    flags += ("--from_scratch", "encoder_small")
    started = start(recipe, folder, *flags, "--eval_strategy", "no", "--load_best_model_at_end", "false")
    wait_for(started, "example 2")
    time.sleep(3)
    started.send(signal.SIGTERM)
    time.sleep(2.5)
    asked = time.monotonic()
    started.send(signal.SIGTERM)
    run = started.finish()
    if run.timed_out or time.monotonic() - asked > 5:
        return Finding("hangs", run.tail())
    is_right = run.code == 128 + signal.SIGTERM and "Stopped by a second signal" in run.stderr
    return Finding("survives" if is_right else "obscure", run.tail())


def kill_after(step: int, recipe: str, folder: Path) -> Finding:
    """SIGKILL within a step: the last checkpoint is whole."""
    started = start(recipe, folder)
    wait_for(started, f"step {step}/")
    started.send(signal.SIGKILL)
    started.finish()
    return judge_resume(recipe, folder, said="Resuming from")


def kill_while_saving(recipe: str, folder: Path) -> Finding:
    """SIGKILL as soon as the directory of a checkpoint is there."""
    started = start(recipe, folder)
    wait_for_path(started, folder / "result" / "checkpoint-6")
    started.send(signal.SIGKILL)
    started.finish()
    return judge_resume(recipe, folder, said="Resuming from")


def kill_within_file(name: str, recipe: str, folder: Path) -> Finding:
    """Half of one file of the newest checkpoint is written, and none of those that come after it."""
    order = ("model.safetensors", "training_args.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    order = (*order, "trainer_state.json", "manifest.json")
    checkpoint = leave_as_killed(recipe, folder, 9) / "checkpoint-9"
    for later in order[order.index(name) + 1 :]:
        (checkpoint / later).unlink(missing_ok=True)
    if name == "manifest.json":  # it is written under another name first
        (checkpoint / name).rename(checkpoint / f"{name}.tmp")
        name = f"{name}.tmp"
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: len(content) // 2])
    finding = judge_resume(recipe, folder, said="aside as checkpoint-9.corrupt: incomplete")
    return finding if finding.verdict != "survives" or (folder / "result/checkpoint-9/manifest.json").exists() else (
        Finding("loses", "checkpoint-9 was not written again")
    )  # fmt: skip


def break_one_step(kind: str, recipe: str, folder: Path, *flags: object) -> Finding:
    """Step 8 is skipped with its rows named, all weights stay finite, and the result says that it was skipped."""
    run = run_sabotaged(recipe, folder, kind, 8, 8, *flags)
    if run.timed_out or run.code:
        return Finding("loses", run.tail())
    what = "loss" if kind == "nan loss" else "gradient"
    named = f"Step 8: the {what} is not finite; no weight is changed. Its rows: "
    if named not in run.stdout or "/train." not in run.stdout.split(named)[1].splitlines()[0]:
        return Finding("silently wrong", run.tail())
    weights = load_file(folder / "result" / "model.safetensors")
    is_finite = all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    is_said = '"skipped_steps": [\n    8\n  ]' in (folder / "result" / "recipe.json").read_text()
    return Finding("survives" if is_finite and is_said else "silently wrong", run.tail())


def break_all_steps(kind: str, recipe: str, folder: Path) -> Finding:
    """The run ends after three such steps, before the update; the checkpoint of step 3 is as it was."""
    run = run_sabotaged(recipe, folder, kind, 5, 99)
    result = folder / "result"
    what = "loss" if kind == "nan loss" else "gradient"
    wanted = rf"The {what} is not finite at 3 steps in a row from 5\. Its rows: \S+:\d+, .*--allow_change learning_rate"
    finding = judge_refusal(run, wanted, kept=[result / "checkpoint-3" / "manifest.json"])
    same = hash_weights(result / "checkpoint-3") == hash_weights(train_undisturbed(recipe) / "checkpoint-3")
    return finding if same else Finding("silently wrong", "other weights at step 3")


def diverge(recipe: str, folder: Path) -> Finding:
    """A learning rate of 1e30."""
    run = run_recipe(recipe, *train_flags(recipe, folder, "--learning_rate", "1e30"))
    return judge_refusal(run, "learning_rate", absent=[folder / "result" / "metrics.json"])


def refuse_jit_flag(recipe: str, folder: Path) -> Finding:
    """transformers' own way to save on SIGTERM, which publishes what is not finished."""
    run = run_recipe(recipe, *train_flags(recipe, folder, "--enable_jit_checkpoint"))
    return judge_refusal(run, "--enable_jit_checkpoint is always so here", absent=[folder / "result"])


def for_signals(**codes: int) -> tuple[Case, ...]:
    """NER stopped at step 4 by each of these signals, with the exit code it should have."""
    return tuple(
        Case(f"ner, {name}", partial(stop_after, 4, getattr(signal, name), code, "ner")) for name, code in codes.items()
    )


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "manifest.json")

FAULTS = [
    Fault(
        "A1", "SIGTERM", plain="loses", wanted="survives",
        cases=(
            *spread("", partial(stop_after, 4, signal.SIGTERM, 143), quick=NER),
            Case("ner, before training", partial(stop_before_training, "ner")),
            Case("ner, while results are made", partial(stop_while_results_are_made, "ner")),
        ),
    ),
    Fault("A2", "SIGTERM with enable_jit_checkpoint", "silently wrong", "clear", spread("", refuse_jit_flag, NER)),
    Fault(
        "A3", "SIGTERM, SIGKILL two seconds later", "loses", "survives", spread("", stop_with_little_grace, quick=())
    ),
    Fault(
        "A4", "SIGTERM during a long evaluation", "survives", "survives",
        spread("", stop_within_evaluation, quick=NER),
    ),
    Fault(
        "A5", "SIGTERM more than once", "silently wrong", "survives",
        (
            Case("ner, three at once", partial(stop_after, 4, signal.SIGTERM, 143, "ner", times=3)),
            Case("ner, again later", partial(stop_twice, "ner"), is_slow=True),
        ),
    ),
    Fault("A6", "SIGUSR1, SIGHUP", "loses", "survives", for_signals(SIGUSR1=138, SIGHUP=129)),
    Fault("A7", "SIGINT", "loses", "survives", for_signals(SIGINT=130)),
    Fault("A8", "SIGKILL within a step", "survives", "survives", spread("", partial(kill_after, 5), quick=NER)),
    Fault("A9", "SIGKILL at a random moment", "loses", "survives", spread("", kill_while_saving, quick=NER)),
    Fault(
        "A10", "SIGKILL inside each file of a checkpoint", "loses", "survives",
        tuple(
            Case(f"{recipe}, {name}", partial(kill_within_file, name, recipe), (recipe, name) != ("ner", FILES[0]))
            for recipe in RECIPES for name in FILES
        ),
    ),
    Fault(
        "A15", "a NaN loss once", "silently wrong", "survives",
        spread("", partial(break_one_step, "nan loss"), quick=NER),
    ),
    Fault(
        "A16", "a NaN loss, with logging_nan_inf_filter either way", "silently wrong", "survives",
        (
            Case("ner, filtered", lambda folder: break_one_step("nan loss", "ner", folder, "--logging_nan_inf_filter")),
        ),
    ),
    Fault(
        "A17", "an infinite gradient", "silently wrong", "survives",
        spread("", partial(break_one_step, "inf gradient"), quick=NER),
    ),
    Fault(
        "A18", "a learning rate of 1e30, and losses that stay NaN", "silently wrong", "clear",
        (
            Case("ner", partial(diverge, "ner")),
            *(Case(f"{name}, NaN", partial(break_all_steps, "nan loss", name), name != "ner") for name in RECIPES),
            Case("ner, infinite gradients", partial(break_all_steps, "inf gradient", "ner"), is_slow=True),
        ),
    ),
]  # fmt: skip
