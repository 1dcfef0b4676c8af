"""The processes that load batches (`dataloader_num_workers`): none may hang for ever, or outlive the run."""

import ctypes
import gc
import os
import re
import signal
import sys
import time
from functools import partial

from common.errors import UserError

from torch.utils.data._utils.signal_handling import _remove_worker_pids
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

PR_SET_PDEATHSIG = 1  # prctl(2)
KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: [^.]*|exited unexpectedly)")
TIMED_OUT = re.compile(r"DataLoader timed out after \d+(?:\.\d+)? seconds")
LATENESS = 1.0  # seconds from the broken connection of a worker to the signal of its end, at most


def watch_workers(loader, seconds: float) -> None:
    """Make a batch that takes the workers of `loader` longer than `seconds` an error (0: never), and tie them to us."""
    loader = getattr(loader, "base_dataloader", loader)  # of accelerate's, which wraps the one that is iterated
    if loader.num_workers > 0:
        loader.timeout = seconds
        loader.worker_init_fn = partial(begin_worker, os.getpid(), loader.worker_init_fn)


def begin_worker(parent: int, initialize, number: int) -> None:
    """What a worker does first: see to it that it ends with its parent, also where that is killed.

    And that it does not print a traceback when the parent breaks off the reading of a tensor, as it does where another
    worker dies just then: the thread that hands tensors over shows its errors by `sys.excepthook`. The parent says why.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it is gone already
            os._exit(1)
    sys.excepthook = show_unless_broken_off
    if initialize is not None:
        initialize(number)


def show_unless_broken_off(kind: type[BaseException], error: BaseException, traceback) -> None:
    """The `sys.excepthook` of a worker: silent about a connection that the parent has closed."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def end_workers(error: Exception) -> Exception:
    """End every worker after `error`; what you get is `error`, or what is said only now of a worker that had died.

    A process that dies closes its connections before its parent gets the signal of its end. So reading a batch may
    fail first (ConnectionResetError), and PyTorch's handler of the signal raises wherever this process is by then.
    """
    try:
        if isinstance(error, ConnectionError | EOFError) and any(one._worker_pids_set for one in list_iterators()):
            time.sleep(LATENESS)  # ends as soon as the handler raises
        kill_workers()
    except RuntimeError as failure:
        if find_worker_failure(failure) is None:
            raise
        failure.__context__ = None  # `error`, whose frames hold tensors
        return end_workers(failure)  # not without end: PyTorch forgets the workers that it has raised about
    return error


def list_iterators() -> list[_MultiProcessingDataLoaderIter]:
    """The iterators in this process that have, or had, workers: only the frames of what has failed hold them."""
    return [thing for thing in gc.get_objects() if type(thing) is _MultiProcessingDataLoaderIter]


def kill_workers() -> None:
    """End every worker of this process at once, also one that is frozen, and let nothing wait for its end."""
    for iterator in list_iterators():
        if iterator._worker_pids_set:  # else the end of a worker raises, wherever this process is by then
            _remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        iterator._shutdown = True  # else its __del__ waits for each worker
        for worker in iterator._workers:
            worker.kill()


def read_refusal(error: UserError) -> str:
    """What a UserError says, without the traceback that a worker puts in front of it."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2].rstrip()


def find_worker_failure(error: BaseException) -> str | None:
    """What became of a worker, where that is what `error` is about."""
    if not isinstance(error, RuntimeError):
        return None
    killed, timed_out = KILLED.search(str(error)), TIMED_OUT.search(str(error))
    if killed:
        return (
            f"{killed[0]} (one that is killed mostly took more memory than there is: set dataloader_num_workers lower)"
        )
    return None if timed_out is None else f"{timed_out[0]}: a worker hangs while it reads rows"
