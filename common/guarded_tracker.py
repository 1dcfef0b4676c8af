"""Trackers that can neither end a run nor hold it up: one that raises or does not answer is left out from then on."""

import atexit
import os
import queue
import threading
from functools import partial

from common.console import say

from transformers import TrainerCallback

LONGER = 30  # times as long for the last call, which uploads what is left
GRACE = 10  # seconds that a tracker which does not answer may take at the exit of the process
_process = {"exit_code": 1}


class GuardedTracker:
    """Stands in for a tracker, as a callback and otherwise: each call is made in one thread of its own.

    The thread has `seconds` for a call; a tracker that needs more, or raises, is lost, which is said once.
    """

    def __init__(self, tracker: TrainerCallback, name: str, seconds: float):
        self._tracker, self._name, self._seconds = tracker, name, seconds
        self._calls, self._thread, self._is_lost = queue.SimpleQueue(), None, False

    @property
    def __class__(self):
        return type(self._tracker)  # so that Trainer finds and removes it by its class

    def __getattr__(self, name: str):
        attribute = getattr(self._tracker, name)
        does_nothing = getattr(type(self._tracker), name, None) is getattr(TrainerCallback, name, attribute)
        return attribute if does_nothing or not callable(attribute) else partial(self._call, attribute)

    def _call(self, method, *args, **kwargs):
        if self._is_lost:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=make_calls, args=(self._calls,), name=self._name, daemon=True)
            self._thread.start()
        answers = queue.SimpleQueue()
        self._calls.put((method, args, kwargs, answers))
        seconds = self._seconds * (LONGER if method.__name__ == "finish" else 1)
        try:
            value, error = answers.get(timeout=seconds)
        except queue.Empty:
            self._lose(f"has not answered for {seconds:g} seconds")
            atexit.register(leave_in_time)  # behind the tracker's own: so it is called before that
            return None
        if error is not None:
            self._lose(f"failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
        return value

    def _lose(self, what: str) -> None:
        self._is_lost = True
        say(f"tracking   {self._name} {what}: the run goes on without it; its files are written all the same.")


def make_calls(calls: queue.SimpleQueue) -> None:
    """Make the calls that come in, one after the other, for ever."""
    while True:
        method, args, kwargs, answers = calls.get()
        try:
            answers.put((method(*args, **kwargs), None))
        except BaseException as error:  # of the tracker, whatever it is
            answers.put((None, error))


def note_success() -> None:
    """Keep that the run has ended well: the exit code, should a tracker not let go of the process."""
    _process["exit_code"] = 0


def leave_in_time() -> None:
    """End the process in GRACE seconds, also where a tracker waits for its server while the process ends."""
    timer = threading.Timer(GRACE, _leave)
    timer.daemon = True
    timer.start()


def _leave() -> None:
    os._exit(_process["exit_code"])
