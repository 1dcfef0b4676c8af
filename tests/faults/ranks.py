"""Faults of one of two processes that train together, on the CPU as a user launches them (of groups A and B)."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.conftest import ROOT, make_environment
from tests.faults.fault import Case, Fault, Finding, judge_refusal
from tests.faults.forked import Run
from tests.faults.runs import hash_weights, train_flags, wait_for, wait_for_path

import psutil

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
# The rows of a step are those of one process in all these trainings.
HALVES = ("--per_device_train_batch_size", "4")


class Launched:
    """A script that two processes of `accelerate launch` run, NER's recipe if none is given, with what they write."""

    def __init__(self, *flags: object, script: tuple[object, ...] = (), **environment: str):
        self.folder = tempfile.TemporaryDirectory(prefix="launch-")
        self.paths = [Path(self.folder.name) / name for name in ("stdout", "stderr")]
        config = ROOT / "accelerate_configs" / "multi_cpu.yaml"
        recipe = ROOT / "recipes" / "ner" / "run.py"
        command = [ACCELERATE, "launch", "--config_file", config, *(script or [recipe]), *flags]
        with self.paths[0].open("w") as stdout, self.paths[1].open("w") as stderr:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=ROOT, env=make_environment(**environment), stdout=stdout,
                stderr=stderr, start_new_session=True,
            )  # fmt: skip

    @property
    def exitcode(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.poll()

    def read(self) -> str:
        """What both processes and the launcher have written so far."""
        return "".join(path.read_text(errors="replace") for path in self.paths)

    def find_rank(self, rank: int) -> psutil.Process:
        """The process of this rank; the launcher's own processes have none."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if child.environ().get("RANK") == str(rank))

    def finish(self, timeout: float = 300) -> Run:
        """Wait for the end of all of them; those that are left by then are killed."""
        timed_out = False
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            for process in psutil.Process(self.process.pid).children(recursive=True):
                process.kill()
            self.process.kill()
            self.process.wait()
        run = Run(self.process.returncode, *(path.read_text(errors="replace") for path in self.paths), timed_out)
        self.folder.cleanup()
        return run


def judge_end(run: Run, folder: Path) -> Finding:
    """survives where all ended by themselves, no result was left, and the run goes on to the undisturbed weights."""
    if run.timed_out:
        return Finding("hangs", run.tail())
    if run.code == 0 or (folder / "result" / "metrics.json").exists():
        return Finding("silently wrong", f"a broken run looks finished: {run.tail()}")
    again = Launched(*train_flags("ner", folder, *HALVES)).finish()
    if again.code != 0 or "Resuming from" not in again.stdout:
        return Finding("loses", again.tail())
    undisturbed = folder / "undisturbed"
    whole = Launched(*train_flags("ner", undisturbed, *HALVES)).finish()
    assert whole.code == 0, whole.tail()
    if hash_weights(folder / "result") != hash_weights(undisturbed / "result"):
        return Finding("silently wrong", "other weights after the resume")
    return Finding("survives", "ended by itself, and was resumed to the same weights")


def send_to_rank(rank: int | None, number: int, folder: Path) -> Finding:
    """A signal to one process, or to the launcher, once a checkpoint is there."""
    launched = Launched(*train_flags("ner", folder, *HALVES))
    wait_for(launched, "step 4/")
    if rank is None:
        launched.process.send_signal(number)
    else:
        launched.find_rank(rank).send_signal(number)
    run = launched.finish()
    if number == signal.SIGTERM and "Stopped by SIGTERM at step " not in run.stderr:
        return Finding("loses", run.tail())
    return judge_end(run, folder)


def launch_stopped_while_saving(folder: Path) -> Run:
    """SIGTERM to the second process while both save: after they have agreed that the step ends without a signal."""
    script = (ROOT / "tests" / "faults" / "injected.py", "stopped while saving", "ner")
    places = {"FAULT_AT": "6", "FAULT_RANK": "1", "FAULT_FOLDER": str(folder)}
    return Launched(*train_flags("ner", folder, *HALVES), script=script, **places).finish()


def stop_while_saving(folder: Path) -> Finding:
    """Both stop at that checkpoint."""
    run = launch_stopped_while_saving(folder)
    if "Stopped by SIGTERM at step 6: " not in run.stderr:
        return Finding("loses", run.tail())
    return judge_end(run, folder)


def kill_while_saving(folder: Path) -> Finding:
    """SIGKILL to the process that writes, as soon as the directory of the second checkpoint is there."""
    launched = Launched(*train_flags("ner", folder, *HALVES))
    wait_for(launched, "step 3/")
    rank = launched.find_rank(0)
    wait_for_path(launched, folder / "result" / "checkpoint-6")
    rank.kill()
    return judge_end(launched.finish(), folder)


def raise_in_rank(folder: Path) -> Finding:
    """An exception in one of the two in the middle of training."""
    sabotage, recipe = (ROOT / "tests" / "faults" / "sabotage.py", ROOT / "recipes" / "ner" / "run.py")
    flags = train_flags("ner", folder, *HALVES)
    launched = Launched(*flags, script=(sabotage, recipe, "exception in rank 1", 5, 5))
    return judge_end(launched.finish(), folder)


def skip_in_both(folder: Path) -> Finding:
    """A NaN loss in one of the two: both skip the step, and the rows of that one are named."""
    sabotage, recipe = (ROOT / "tests" / "faults" / "sabotage.py", ROOT / "recipes" / "ner" / "run.py")
    flags = train_flags("ner", folder, *HALVES)
    run = Launched(*flags, script=(sabotage, recipe, "nan loss in rank 1", 5, 5)).finish()
    if run.timed_out or run.code:
        return Finding("hangs" if run.timed_out else "loses", run.tail())
    line = next((line for line in run.stdout.splitlines() if line.startswith("Step 5: the loss is not finite")), "")
    return Finding("survives" if line.count("train.jsonl:") == 4 else "silently wrong", line or run.tail())


def resume_with_fewer(folder: Path) -> Finding:
    """One process goes on with the run of two: half of the rows a step, or other random states."""
    flags = train_flags("ner", folder, *HALVES, "--save_total_limit", "9")
    launched = Launched(*flags)
    wait_for(launched, "step 7/")
    launched.process.send_signal(signal.SIGTERM)
    launched.finish()
    kept = [folder / "result" / "checkpoint-6" / "manifest.json"]
    single = [ACCELERATE, "launch", ROOT / "recipes" / "ner" / "run.py", *flags]
    ended = subprocess.run(
        [str(part) for part in single], cwd=ROOT, env=make_environment(), capture_output=True, text=True, timeout=300
    )
    wanted = r"\(processes: 2 -> 1; rows_per_step: 8 -> 4\): .*--allow_change processes rows_per_step"
    run = Run(
        ended.returncode, ended.stdout, ended.stderr.split("Traceback")[0]
    )  # the launcher's own traceback follows
    return judge_refusal(run, wanted, kept=kept)


def slow(name: str, attempt: Callable[[Path], Finding]) -> tuple[Case, ...]:
    """The one case of a fault that takes a launch of two processes."""
    return (Case(name, attempt, is_slow=True),)


FAULTS = [
    Fault(
        "A30", "one of two processes is killed", "survives", "survives",
        slow("rank 1", partial(send_to_rank, 1, signal.SIGKILL)),
    ),
    Fault("A31", "one of two processes raises", "survives", "survives", slow("rank 1", raise_in_rank)),
    Fault(
        "A33", "SIGTERM to one of two processes", "hangs", "survives",
        slow("rank 1", partial(send_to_rank, 1, signal.SIGTERM))
        + slow("rank 1, while both save", stop_while_saving)
        + slow("rank 1, a NaN loss", skip_in_both),
    ),
    Fault(
        "A34", "SIGTERM to the launcher of two processes", "survives", "survives",
        slow("launcher", partial(send_to_rank, None, signal.SIGTERM)),
    ),
    Fault(
        "A35", "the first of two processes is killed while it saves", "loses", "survives",
        slow("rank 0", kill_while_saving),
    ),
    Fault("B22", "one process goes on with the run of two", "silently wrong", "clear", slow("ner", resume_with_fewer)),
]  # fmt: skip
