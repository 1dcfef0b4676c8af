"""Runs that are told to stop: a checkpoint at the next step boundary, from which the same command goes on exactly."""

import os
import signal
import sys
import time

from common.launching import share_greatest

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Seconds in which a repeated signal is the same request: a launcher passes on what the whole group has got already.
SAME_REQUEST = 2


class RunStopped(Exception):
    """Raised out of training once the checkpoint that a signal asked for is sealed, or out of what follows training."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(signal_number, step)
        self.signal_number, self.step = signal_number, step


class EvaluationAbandoned(Exception):
    """Raised out of an evaluation that a signal asks to end."""


class _Request:
    """What this process has been asked for, and whether it can be put off until a step boundary."""

    def __init__(self):
        self.number, self.time, self.pid = 0, 0.0, os.getpid()
        self.is_put_off = False
        self.handlers = {}  # those of before


_request = _Request()


def watch_signals() -> None:
    """From here on SIGTERM, SIGINT, SIGUSR1 and SIGHUP end the process with one line and exit code 128 + number.

    While a model trains they are put off until the next step boundary; see StopOnSignal.
    """
    _request.__init__()
    try:
        _request.handlers = {number: signal.signal(number, _take_signal) for number in STOP_SIGNALS}
    except ValueError:  # not in the main thread, where Python allows no handlers
        pass


def forget_signals() -> None:
    """From here on signals do what they do in any process: all that matters is written."""
    put_off(False)
    for number, handler in _request.handlers.items():
        signal.signal(number, handler)
    _request.handlers = {}


def put_off(is_put_off: bool) -> None:
    """Whether a signal has to wait for a step boundary, as while a model trains."""
    _request.is_put_off = is_put_off


def _take_signal(number, frame):
    if os.getpid() != _request.pid:  # a process that loads data: it has nothing to save
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    elif not _request.is_put_off:
        say_last(f"Stopped by {signal.Signals(number).name} before anything was trained: nothing is lost.")
        raise SystemExit(128 + number)
    elif not _request.number:
        _request.number, _request.time = number, time.monotonic()
    elif time.monotonic() - _request.time > SAME_REQUEST:
        name = signal.Signals(number).name
        say_last(f"Stopped by a second signal ({name}) without another checkpoint; the same command goes on.")
        os._exit(128 + number)


def say_last(text: str) -> None:
    """One line on stderr, of the first process: `accelerate launch` turns every exit code into 1, so words must do."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint at the next step boundary after a signal, then raises RunStopped; an evaluation is abandoned.

    All processes agree on the step, whichever of them got the signal. Where an evaluation was due at that step, the
    resumed run begins with it. A second signal ends the process at once.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        put_off(True)

    def on_step_end(self, args, state, control, **kwargs):
        if agree_on_signal(args.device):
            is_epoch_end = state.epoch == int(state.epoch)
            control.should_log |= is_epoch_end and args.logging_strategy == IntervalStrategy.EPOCH
            control.should_save = True
            control.should_evaluate = False
        return control

    def on_prediction_step(self, args, state, control, **kwargs):
        if _request.is_put_off and agree_on_signal(args.device):
            raise EvaluationAbandoned

    def on_save(self, args, state, control, **kwargs):
        # Asked again: a signal since the step's end is known to one process alone, which must not leave the others.
        if number := agree_on_signal(args.device):
            put_off(False)
            raise RunStopped(number, state.global_step)


def get_signal() -> int:
    """The signal that all processes have agreed on, 0 without."""
    return _request.number


def agree_on_signal(device: torch.device) -> int:
    """The signal that this process or, where there are several, any of them has got; 0 without."""
    _request.number = int(share_greatest(_request.number, device))
    return _request.number
