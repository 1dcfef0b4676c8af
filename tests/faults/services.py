"""Faults of what a run depends on: disk, memory, workers, trackers, the hub, and other processes (group A)."""

import functools
import hashlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.fault import RECIPES, Case, Fault, Finding, judge_refusal, judge_survival, list_flags
from tests.faults.forked import Run, start_script
from tests.faults.ranks import Launched
from tests.faults.runs import wait_for

import psutil

SCRIPT = ROOT / "tests" / "faults" / "injected.py"
FEW_STEPS = ("--max_steps", "6", "--save_steps", "2", "--logging_steps", "1")
WORKERS = ("--dataloader_num_workers", "2")
HALF = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
# Long enough for a loaded machine; workers have half of it.
LIMIT = ("--watchdog_seconds", "8")
KEY = "0123456789" * 4


def run_injected(
    fault: str, recipe: str, folder: Path, *flags: object, timeout: float = 120, **environment: str
) -> Run:
    """What a recipe said and did when something broke in it."""
    wanted = list_flags(recipe, folder, *FEW_STEPS, *flags)
    return start_script(SCRIPT, fault, recipe, *wanted, FAULT_FOLDER=str(folder), **environment).finish(timeout)


def hash_weights(folder: Path) -> str:
    """The SHA-256 of the weights of a result, "" where there are none."""
    path = folder / "result" / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@functools.cache
def hash_undisturbed(recipe: str, *flags: object) -> str:
    """The SHA-256 of the weights of the same run when nothing happens to it."""
    with tempfile.TemporaryDirectory(prefix="undisturbed-") as folder:
        run = run_injected("nothing", recipe, Path(folder), *flags)
        assert run.code == 0, run.tail()
        return hash_weights(Path(folder))


def judge_same_result(run: Run, folder: Path, pattern: str, recipe: str, *flags: object) -> Finding:
    """survives where a run went on to the weights of one that nothing happened to, and said what happened."""
    said = run.stdout + run.stderr
    is_told, is_clean = re.search(pattern, said) is not None, "Traceback" not in said
    is_same = run.code == 0 and hash_weights(folder) == hash_undisturbed(recipe, *flags)
    evidence = f"told {is_told}, no traceback {is_clean}, same weights {is_same}: {run.tail()}"
    return judge_survival(run, is_told and is_clean and is_same, evidence)


def judge_resume(run: Run, folder: Path, pattern: str, recipe: str, *flags: object, **settings: object) -> Finding:
    """clear where a run ended with words that `pattern` is in the last of, and the next start went on to the same end.

    `settings` are the flags that the undisturbed run has other than this one.
    """
    if run.timed_out:
        return Finding("hangs", run.tail())
    if run.code == 0:
        return Finding("silently wrong", run.tail())
    last = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else ""
    if not re.search(pattern, last):
        return Finding("obscure", run.tail())
    again = run_injected("nothing", recipe, folder, *flags, *settings.get("changed", ()))
    is_resumed = "Resuming from" in again.stdout
    undisturbed = hash_undisturbed(recipe, *settings.get("undisturbed", flags))
    is_same = settings.get("is_other", False) or hash_weights(folder) == undisturbed
    if again.code != 0 or not is_resumed or not is_same:
        return Finding("loses", f"resumed {is_resumed}, same weights {is_same}: {again.tail()}")
    return Finding("clear", last)


# Disk


def outlive_lost_checkpoint(fault: str, folder: Path) -> Finding:
    """The second of three checkpoints cannot be written: the best model is looked for among the others."""
    flags = ("--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "--metric_for_best_model")
    # So drawn, the loss falls with each evaluation: the best model is not the one that is lost.
    flags = (*flags, "loss", "--learning_rate", "1e-3", "--train_sampling_strategy", "random")
    run = run_injected(fault, "sentiment", folder, *flags, FAULT_AT="4")
    finding = judge_same_result(run, folder, r"checkpoint-4 could not be written and is deleted", "sentiment", *flags)
    left = sorted(path.name for path in (folder / "result").glob("checkpoint-*"))
    return finding if left == ["checkpoint-2", "checkpoint-6"] else Finding("loses", f"{left}: {run.tail()}")


def end_on_third_lost_checkpoint(folder: Path) -> Finding:
    flags = ("--max_steps", "8")
    run = run_injected("optimizer always", "sentiment", folder, *flags, FAULT_AT="4")
    finding = judge_resume(run, folder, r"third in a row.*goes on from the last whole checkpoint", "sentiment", *flags)
    return Finding("survives", finding.evidence) if finding.verdict == "clear" else finding


def outlive_full_disk(folder: Path) -> Finding:
    """A disk with room for 2.4 checkpoints. Where none can be mounted, files may not grow instead."""
    size = 6_500_000  # of a checkpoint of encoder_tiny: 2.1 MB of weights, twice as much of Adam's
    disk = folder / "result"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(2.4 * size)}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        disk.rmdir()
        return outlive_lost_checkpoint("weights once", folder)
    try:
        flags = ("--output_dir", disk / "run", "--save_total_limit", "2", "--max_steps", "8")
        run = run_injected("nothing", "sentiment", folder, *flags)
        told = re.search(r"checkpoint-6 could not be written and is deleted: (the disk is|a write fail)", run.stdout)
        third = "It is the third in a row" in run.stderr
        whole = sorted(path.name for path in (disk / "run").glob("checkpoint-*"))
        evidence = f"told {told}, {whole}: {run.tail()}"
        if "Traceback" in run.stderr or not told or third or not {"checkpoint-2", "checkpoint-4"} <= set(whole):
            return Finding("loses", evidence)
        # Room is made, as the message says; the same command goes on.
        subprocess.run(["mount", "-o", f"remount,size={6 * size}", str(disk)], check=True)
        again = run_injected("nothing", "sentiment", folder, *flags)
        weights = disk / "run" / "model.safetensors"
        is_same = weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() == hash_undisturbed(
            "sentiment", "--max_steps", "8"
        )
        return judge_survival(again, is_same, f"{evidence}\n{again.tail()}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def refuse_small_disk(folder: Path) -> Finding:
    run = run_injected("small disk", "sentiment", folder)
    pattern = (
        r"result: its disk has 1\.0 MiB left, and 12\.\d MiB is needed: a checkpoint takes about 6\.\d MiB.*Free some"
    )
    finding = judge_refusal(run, pattern, absent=[folder / "result" / "checkpoint-2"])
    return Finding("survives", finding.evidence) if finding.verdict == "clear" else finding


def refuse_unwritable(folder: Path) -> Finding:
    """A directory without rights; root, who has them all, cannot write into one of the kernel's."""
    place = folder / "locked"
    place.mkdir(mode=0o500)
    place = Path("/sys/kernel") if os.geteuid() == 0 else place
    run = run_injected("nothing", "sentiment", folder, "--output_dir", place / "result")
    return judge_refusal(run, rf"{place}/result: {place} cannot be written to \(.+\): choose another output_dir")


def refuse_file(name: str, pattern: str, folder: Path) -> Finding:
    (folder / "taken").write_text("mine")
    run = run_injected("nothing", "sentiment", folder, "--output_dir", folder / name)
    finding = judge_refusal(run, pattern, kept=[folder / "taken"])
    return finding if (folder / "taken").read_text() == "mine" else Finding("loses", run.tail())


# Memory


def refuse_batch_of_step(recipe: str, folder: Path) -> Finding:
    """Step 4 finds no memory for 8 rows: the weights of step 3 are saved, and go on with half of a batch."""
    run = run_injected("memory", recipe, folder, FAULT_AT="3", FAULT_ROWS="4")
    pattern = (
        r"error: Out of memory at step 4: use --per_device_train_batch_size 4 --gradient_accumulation_steps 2 "
        r"\(the same 8 rows a step\).*/checkpoint-3 is saved: the command with these goes on from there\."
    )
    return judge_resume(run, folder, pattern, recipe, changed=HALF, is_other=True)


def refuse_batch_of_evaluation(folder: Path) -> Finding:
    flags = ("--eval_strategy", "steps", "--eval_steps", "4")
    run = run_injected("memory of an evaluation", "sentiment", folder, *flags, FAULT_AT="4", FAULT_ROWS="1")
    pattern = r"error: Out of memory in the evaluation of step 4: use --per_device_eval_batch_size 4; .*checkpoint-4 is"
    changed = ("--per_device_eval_batch_size", "4")
    return judge_resume(run, folder, pattern, "sentiment", *flags, changed=changed)


def refuse_batch_of_update(folder: Path) -> Finding:
    """Half of the weights are changed: nothing may be saved."""
    run = run_injected("memory of an update", "sentiment", folder)
    return judge_refusal(run, r"error: Out of memory at step 1: use --per", absent=[folder / "result" / "checkpoint-0"])


def divide_batch(recipe: str, folder: Path) -> Finding:
    """With auto_find_batch_size the run is, bit for bit, the one that was begun with a quarter of a batch."""
    run = run_injected("memory", recipe, folder, "--auto_find_batch_size", FAULT_AT="0", FAULT_ROWS="2")
    quarter = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4")
    pattern = (
        r"Step 1: out of memory. The run goes on with per_device_train_batch_size 2 and gradient_accumulation_steps 4"
    )
    return judge_same_result(run, folder, pattern, recipe, *quarter)


def divide_later_batch(folder: Path) -> Finding:
    """The run goes on as one that ended at that step, and was begun again by hand with half of a batch."""
    faults = {"FAULT_AT": "3", "FAULT_ROWS": "4"}
    run = run_injected("memory", "sentiment", folder, "--auto_find_batch_size", **faults)
    by_hand = folder / "by hand"
    by_hand.mkdir()
    run_injected("memory", "sentiment", by_hand, **faults)
    again = run_injected("nothing", "sentiment", by_hand, *HALF)
    is_resumed = "Resuming from" in again.stdout and "/checkpoint-3" in again.stdout
    return judge_survival(run, is_resumed and hash_weights(folder) == hash_weights(by_hand) != "")


# What breaks in a step


def keep_steps(fault: str, pattern: str, recipe: str, folder: Path, **environment: str) -> Finding:
    run = run_injected(fault, recipe, folder, **environment)
    return judge_resume(run, folder, pattern, recipe)


def restart_workers(fault: str, pattern: str, recipe: str, folder: Path, *flags: str) -> Finding:
    run = run_injected(fault, recipe, folder, *WORKERS, *flags, FAULT_AT="2")
    return judge_same_result(run, folder, rf"{pattern}.*The workers are started anew", recipe)


def end_without_workers(fault: str, pattern: str, folder: Path) -> Finding:
    """Workers that break again and again end the run; nothing of it is left running."""
    run = run_injected(fault, "sentiment", folder, *WORKERS, *LIMIT, FAULT_AT="2")
    orphans = [process for process in psutil.process_iter(["cmdline"]) if str(folder) in str(process.info["cmdline"])]
    if orphans:
        return Finding("hangs", f"{orphans}: {run.tail()}")
    finding = judge_refusal(run, rf"error: The run broke at step 1: {pattern}")
    return Finding("survives", finding.evidence) if finding.verdict == "clear" else finding


# Trackers and the hub


def lose_tracker(fault: str, pattern: str, folder: Path, *flags: str) -> Finding:
    run = run_injected(fault, "sentiment", folder, "--report_to", "tensorboard", *flags, FAULT_AT="9")
    told = rf"tracking   tensorboard {pattern}: the run goes on without it"
    return judge_same_result(run, folder, told, "sentiment")


def track_offline(pattern: str, folder: Path, **environment: str) -> Finding:
    """The run is tracked in files, and says how they are uploaded."""
    began = time.monotonic()
    places = {"HOME": str(folder), "NETRC": str(folder / "none"), **environment}
    run = run_injected("nothing", "sentiment", folder, "--report_to", "wandb", **places)
    if time.monotonic() - began > 100:
        return Finding("hangs", run.tail())
    is_kept = bool([*(folder / "result").glob("_wandb/wandb/offline-run-*/run-*.wandb")])
    finding = judge_same_result(run, folder, pattern + r"[\s\S]*wandb sync", "sentiment")
    return finding if is_kept else Finding("loses", run.tail())


def track_silent_server(folder: Path) -> Finding:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        pattern = r"W&B: .+: offline; "
        return track_offline(pattern, folder, WANDB_BASE_URL=address, WANDB_API_KEY=KEY)


def push_later(fault: str, folder: Path) -> Finding:
    """The hub cannot be reached: the run is made all the same, and its last words are the command that uploads it."""
    run = run_injected(fault, "sentiment", folder, "--push_to_hub", "--hub_model_id", "me/model")
    command = rf"hf upload me/model {folder}/result --exclude 'predictions_\*.jsonl' "
    last = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else ""
    is_told = last.startswith("warning: ") and re.search(command, last) and "Traceback" not in run.stderr
    is_same = hash_weights(folder) == hash_undisturbed("sentiment")
    return judge_survival(run, bool(is_told) and is_same and (folder / "result" / "metrics.json").is_file())


def refuse_unreachable(fault: str, flag: str, name: str, folder: Path) -> Finding:
    """A model or a dataset of the hub, in place of --from_scratch and of --train_file."""
    kept = list_flags("sentiment", folder, *FEW_STEPS)
    replaced = {"--model_name_or_path": "--from_scratch", "--dataset_name": "--train_file"}[flag]
    place = kept.index(replaced)
    wanted = [*kept[:place], flag, name, *kept[place + 2 :]]
    if flag == "--dataset_name":
        place = wanted.index("--validation_file")
        del wanted[place : place + 2]
    run = start_script(SCRIPT, fault, "sentiment", *wanted).finish()
    pattern = rf"error: .*{name}[\s\S]*(HF_HUB_OFFLINE|offline|network|connect)"
    return judge_refusal(run, pattern, absent=[folder / "result" / "checkpoint-2"])


def score_without_network(recipe: str, folder: Path) -> Finding:
    run = run_injected("no network", recipe, folder, "--eval_strategy", "steps", "--eval_steps", "3")
    is_right = (folder / "result" / "metrics.json").is_file() and not (folder / "asked").exists()
    return judge_survival(run, is_right)


# Two processes


def launch_two(fault: str, folder: Path, *flags: object, **environment: str) -> Launched:
    """The sentiment recipe in two processes in which something breaks, begun."""
    wanted = list_flags("sentiment", folder, *FEW_STEPS, "--per_device_train_batch_size", "4", *flags)
    return Launched(*wanted, script=(SCRIPT, fault, "sentiment"), FAULT_FOLDER=str(folder), **environment)


def end_frozen_rank(folder: Path) -> Finding:
    """The second process is stopped: the first, which waits for it, shows where it stands and ends the job."""
    launched = launch_two("nothing", folder, "--max_steps", "4000", "--watchdog_seconds", "10")
    wait_for(launched, "step 3/")
    launched.find_rank(1).send_signal(signal.SIGSTOP)
    run = launched.finish()
    if run.timed_out:
        return Finding("hangs", run.tail())
    pattern = r"error: Process 0 of 2 .*has not moved for \d\d seconds .*goes on from .*/checkpoint-\d+"
    told = re.search(pattern, run.stderr)
    shown = "most recent call first" in run.stderr and "survival.py" in run.stderr
    if run.code == 0 or not told or not shown:
        return Finding("obscure", run.tail())
    return Finding("clear", told[0])


def outlive_lost_checkpoint_of_two(fault: str, folder: Path) -> Finding:
    """Only the first process writes this: the second one learns that it is lost, and goes on."""
    run = launch_two(fault, folder, FAULT_AT="4").finish()
    left = sorted(path.name for path in (folder / "result").glob("checkpoint-*"))
    told = "checkpoint-4 could not be written and is deleted" in run.stdout
    return judge_survival(run, told and left == ["checkpoint-2", "checkpoint-6"], f"{left}: {run.tail()}")


bind = functools.partial
KILLED = r"DataLoader worker \(pid(\(s\))? \d+(, \d+)*\) (is killed by signal: Killed|exited unexpectedly)"
HANGS = r"DataLoader timed out after 4(\.0)? seconds: a worker hangs"
BROKEN_RECORD = r"broke at step 2, rows \S+train\.jsonl:26; .*/checkpoint-1 is saved"
BROKEN_STEP = r"broke at step 4, rows (\S+train\.jsonl:\d+[,;]? )+.*/checkpoint-3 is saved"
OTHERS = [recipe for recipe in RECIPES if recipe != "sentiment"]

FAULTS = [
    Fault(
        "A11", "no room within a checkpoint", plain="loses", wanted="survives",
        cases=(
            Case("the optimizer of one", bind(outlive_lost_checkpoint, "optimizer once")),
            Case("the weights of one", bind(outlive_lost_checkpoint, "weights once")),
            Case("the seal of one", bind(outlive_lost_checkpoint, "seal once")),
            Case("three in a row", end_on_third_lost_checkpoint),
            Case("two processes", bind(outlive_lost_checkpoint_of_two, "optimizer once"), is_slow=True),
            Case("the seal of two processes", bind(outlive_lost_checkpoint_of_two, "seal once"), is_slow=True),
        ),
    ),
    Fault(
        "A12", "a full disk", plain="loses", wanted="survives",
        cases=(Case("room for 2.4 checkpoints", outlive_full_disk), Case("room for less than two", refuse_small_disk)),
    ),
    Fault(
        "A13", "an output_dir that cannot be written to", plain="clear", wanted="clear",
        cases=(Case("no rights", refuse_unwritable),),
    ),
    Fault(
        "A14", "an output_dir that is a file", plain="clear", wanted="clear",
        cases=(
            Case("a file", bind(refuse_file, "taken", r"taken is a file: choose another output_dir")),
            Case("below one", bind(refuse_file, "taken/x", r"taken/x cannot be made, since .*taken is a file: choose")),
        ),
    ),
    Fault(
        "A19", "no memory, once", plain="loses", wanted="clear",
        cases=(
            Case("in a step", bind(refuse_batch_of_step, "sentiment")),
            *(Case(f"in a step, {recipe}", bind(refuse_batch_of_step, recipe), is_slow=True) for recipe in OTHERS),
            Case("in an evaluation", refuse_batch_of_evaluation),
            Case("in an update", refuse_batch_of_update),
        ),
    ),
    Fault(
        "A20", "no memory, auto_find_batch_size", plain="silently wrong", wanted="survives",
        cases=(
            Case("in the first step", bind(divide_batch, "sentiment")),
            Case("in a later step", divide_later_batch),
            *(Case(f"in the first step, {recipe}", bind(divide_batch, recipe), is_slow=True) for recipe in OTHERS),
        ),
    ),
    Fault(
        "A21", "an exception in one record", plain="loses", wanted="clear",
        cases=(
            Case("in a batch", bind(keep_steps, "record", BROKEN_RECORD, "sentiment", FAULT_AT="25")),
            Case("in a step", bind(keep_steps, "step", BROKEN_STEP, "sentiment")),
            *(
                Case(f"in a step, {recipe}", bind(keep_steps, "step", BROKEN_STEP, recipe), is_slow=True)
                for recipe in OTHERS
            ),
        ),
    ),
    Fault(
        "A22", "a tracker that raises", plain="loses", wanted="survives",
        cases=(
            Case("raises", bind(lose_tracker, "tracker raises", r"failed \(ConnectionError: the tracker is gone\)")),
            Case("hangs", lambda folder: lose_tracker(
                "tracker hangs", "has not answered for 1 seconds", folder, "--tracker_seconds", "1"
            )),
        ),
    ),
    Fault(
        "A23", "W&B cannot be reached", plain="loses", wanted="survives",
        cases=(
            Case("nobody there", bind(
                track_offline, r"W&B: http://127\.0\.0\.1:9 cannot be reached: offline; ",
                WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY,
            )),
            Case("no answer", track_silent_server, is_slow=True),
        ),
    ),
    Fault(
        "A24", "W&B without a key", plain="clear", wanted="survives",
        cases=(Case("no key", bind(track_offline, r"W&B: no API key \(WANDB_API_KEY or `wandb login`\): offline; ")),),
    ),
    Fault(
        "A25", "the hub cannot be reached, push_to_hub", plain="loses", wanted="survives",
        cases=(Case("offline", bind(push_later, "nothing")), Case("nobody there", bind(push_later, "no hub"))),
    ),
    Fault(
        "A26", "the hub cannot be reached, a model's or a dataset's id", plain="clear", wanted="clear",
        cases=tuple(
            Case(f"{kind}, {name}", bind(refuse_unreachable, fault, flag, f"me/{kind}"), is_slow=fault == "no hub")
            for kind, flag in (("model", "--model_name_or_path"), ("dataset", "--dataset_name"))
            for name, fault in (("offline", "nothing"), ("nobody there", "no hub"))
        ),
    ),
    Fault(
        "A27", "the hub cannot be reached, evaluate.load", plain="obscure", wanted="survives",
        cases=tuple(Case(recipe, bind(score_without_network, recipe)) for recipe in RECIPES),
    ),
    Fault(
        "A28", "a worker is killed", plain="loses", wanted="survives",
        cases=(
            Case("once", bind(restart_workers, "worker killed", KILLED, "sentiment")),
            Case("as it answers", bind(restart_workers, "worker killed as it answers", KILLED, "sentiment")),
            Case("always", bind(end_without_workers, "every worker killed", KILLED)),
            *(
                Case(f"once, {recipe}", bind(restart_workers, "worker killed", KILLED, recipe), is_slow=True)
                for recipe in OTHERS
            ),
        ),
    ),
    Fault(
        "A29", "a worker hangs", plain="hangs", wanted="survives",
        cases=(
            Case("once", lambda folder: restart_workers("worker frozen", HANGS, "sentiment", folder, *LIMIT)),
            Case("always", bind(end_without_workers, "every worker frozen", HANGS), is_slow=True),
        ),
    ),
    Fault(
        "A32", "one of two processes is frozen", plain="hangs", wanted="clear",
        cases=(Case("stopped", end_frozen_rank, is_slow=True),),
    ),
]  # fmt: skip
