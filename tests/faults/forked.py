"""Recipes run as commands, without each of them importing the libraries anew: processes forked from one that has.

A recipe's process takes eight seconds to import what it needs; hundreds of faults are tried in less.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, make_environment


@dataclass
class Run:
    """How a process ended, and all that it wrote to its terminal."""

    code: int
    stdout: str
    stderr: str
    timed_out: bool = False

    def tail(self) -> str:
        """The end of what it wrote."""
        return f"exit code {self.code}: {(self.stdout[-300:] + self.stderr[-700:]).strip()}"


class Started:
    """A process that runs; `finish` waits for its end."""

    def __init__(self, process: multiprocessing.Process, folder: tempfile.TemporaryDirectory):
        self.process, self.folder = process, folder
        self.stdout, self.stderr = (Path(folder.name) / name for name in ("stdout", "stderr"))

    @property
    def exitcode(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send a signal to it, and to it alone."""
        os.kill(self.process.pid, number)

    def read(self) -> str:
        """What it has written so far."""
        return "".join(path.read_text(errors="replace") for path in (self.stdout, self.stderr) if path.exists())

    def finish(self, timeout: float = 120) -> Run:
        """Wait for its end; a process that takes longer is killed with all that it started."""
        self.process.join(timeout)
        timed_out = self.process.exitcode is None
        if timed_out:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        texts = (path.read_text(errors="replace") if path.exists() else "" for path in (self.stdout, self.stderr))
        run = Run(self.process.exitcode, *texts, timed_out)
        self.folder.cleanup()
        return run


def start_script(path: Path, *flags: object, cwd: Path = ROOT, **environment: str) -> Started:
    """`python path flags`, begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.preloaded"])
    folder = tempfile.TemporaryDirectory(prefix="run-")
    arguments = (str(path), [str(flag) for flag in flags], str(cwd), folder.name, make_environment(**environment))
    process = context.Process(target=_run, args=arguments)
    process.start()
    return Started(process, folder)


def start_recipe(recipe: str, *flags: object, **environment: str) -> Started:
    """`python recipes/<recipe>/run.py flags`, begun."""
    return start_script(ROOT / "recipes" / recipe / "run.py", *flags, **environment)


def _run(path: str, flags: list[str], cwd: str, folder: str, environment: dict[str, str]) -> None:
    """Be `python path flags` from here on."""
    os.setpgrp()
    # As in any process on Linux. This one has inherited that of the server, with which each worker of a DataLoader
    # would import the libraries anew.
    multiprocessing.set_start_method("fork", force=True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    # The server ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv, sys.path[0] = [path, *flags], str(Path(path).parent)
    code = 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()  # as Python does at its end, but not at that of a process that multiprocessing has forked
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
