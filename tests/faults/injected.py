"""`python injected.py <fault> <recipe> flags`: a recipe's command in a process in which something breaks.

What breaks is real where it can be: a worker kills itself, a file outgrows the largest that the system allows. FAULT_AT
says when (the number of the step or the batch), FAULT_FOLDER is where it is noted that it has happened.
"""

import functools
import itertools
import os
import resource
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import datasets
import torch
import transformers
from huggingface_hub import constants
from torch.utils.data import get_worker_info
from torch.utils.data._utils.fetch import _MapDatasetFetcher
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from transformers.trainer_callback import CallbackHandler

ROOT = Path(__file__).parents[2]
AT = int(os.environ.get("FAULT_AT", "3"))
FOLDER = Path(os.environ.get("FAULT_FOLDER", "."))


def happens_once() -> bool:
    """True for the first process and time that asks."""
    try:
        (FOLDER / "happened").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wrap(owner: type, name: str, act) -> None:
    """Call `act(original, self, *arguments)` in place of a method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(self, *args, **kwargs):
        return act(functools.partial(original, self), self, *args, **kwargs)

    setattr(owner, name, wrapped)


def break_worker(number: signal.Signals, is_once: bool) -> None:
    """A process that loads batches gets a signal at its third batch."""
    counts = {}

    def fetch(original, fetcher, indices):
        if get_worker_info() is not None:
            counts[id(fetcher)] = counts.get(id(fetcher), 0) + 1
            if counts[id(fetcher)] == AT and (not is_once or happens_once()):
                os.kill(os.getpid(), number)
                time.sleep(5)
        return original(indices)

    wrap(_MapDatasetFetcher, "fetch", fetch)


def break_connection() -> None:
    """A worker dies in the midst of its answer: that its connection is gone is seen before its end."""
    calls = itertools.count(1)

    def get(original, iterator, *args, **kwargs):
        if next(calls) >= AT and happens_once():
            threading.Timer(0.1, iterator._workers[0].kill).start()
            raise ConnectionResetError(104, "Connection reset by peer")
        return original(*args, **kwargs)

    wrap(_MultiProcessingDataLoaderIter, "_try_get_data", get)


def break_record() -> None:
    """The row of number FAULT_AT cannot be made a batch of."""

    def refuse(broken, collator, rows):
        if any(row["input_ids"] == broken for row in rows):
            raise ValueError("a row is broken")
        return collator(rows)

    def fetch(original, fetcher, indices):
        if AT in indices and isinstance(fetcher.collate_fn, functools.partial):  # that of training
            collate, collator = fetcher.collate_fn.func, fetcher.collate_fn.args[0]
            broken = functools.partial(refuse, fetcher.dataset[AT]["input_ids"], collator)
            fetcher.collate_fn = functools.partial(collate, broken)
        return original(indices)

    wrap(_MapDatasetFetcher, "fetch", fetch)


def is_chosen_process() -> bool:
    """Whether this is process FAULT_RANK, or there is but one."""
    return os.environ.get("RANK", "0") == os.environ.get("FAULT_RANK", "0")


def break_step() -> None:
    """A step raises in its second batch, in process FAULT_RANK where there are several."""

    def compute_loss(original, trainer, *args, **kwargs):
        loss = original(*args, **kwargs)
        if is_chosen_process() and trainer.model.training and trainer.state.global_step == AT and happens_once():
            raise ValueError("the step is broken")
        return loss

    wrap(transformers.Trainer, "compute_loss", compute_loss)


def run_out_of_memory(is_training: bool) -> None:
    """From step FAULT_AT on the memory is too small for batches with the pieces of more than FAULT_ROWS long rows."""
    most, widths = int(os.environ.get("FAULT_ROWS", "2")), []

    def compute_loss(original, trainer, model, inputs, *args, **kwargs):
        if model.training != is_training or trainer.state.global_step < AT:
            return original(model, inputs, *args, **kwargs)
        rows, width = inputs["input_ids"].shape
        widths.append(width)
        # Shorter rows of an evaluation share larger batches, behind the longest.
        if rows * width > most * (width if is_training else widths[0]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(model, inputs, *args, **kwargs)

    wrap(transformers.Trainer, "compute_loss", compute_loss)


def run_out_of_memory_while_updating() -> None:
    """The first step of the optimizer, which makes its states, finds no memory when half of the weights are changed."""

    def step(original, optimizer, *args, **kwargs):
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].add_(1.0)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    wrap(torch.optim.AdamW, "step", step)


def break_tracker(is_hanging: bool) -> None:
    """TensorBoard raises, or does not come back, at its third number."""
    from torch.utils.tensorboard import SummaryWriter

    counts = [0]

    def add_scalar(original, writer, *args, **kwargs):
        counts[0] += 1
        if counts[0] >= AT:
            if is_hanging:
                time.sleep(10**6)
            raise ConnectionError("the tracker is gone")
        return original(*args, **kwargs)

    wrap(SummaryWriter, "add_scalar", add_scalar)


def fail_writes(part: str, is_once: bool, owner: type = transformers.Trainer) -> None:
    """A file of the checkpoint of step FAULT_AT, or of all from there on, grows larger than the system allows."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def save(original, saver, *args, **kwargs):
        step = (saver.state if hasattr(saver, "state") else args[1]).global_step
        if step < AT or (is_once and step > AT):
            return original(*args, **kwargs)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
        try:
            return original(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    wrap(owner, part, save)


def stop_while_saving() -> None:
    """SIGTERM to process FAULT_RANK as it begins to save the checkpoint of step FAULT_AT."""

    def save(original, trainer, *args, **kwargs):
        if is_chosen_process() and trainer.state.global_step == AT and happens_once():
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    wrap(transformers.Trainer, "_save_checkpoint", save)


def shrink_disk() -> None:
    """The disk has a megabyte left."""
    usage = type(shutil.disk_usage("/"))(2**40, 2**40 - 2**20, 2**20)
    shutil.disk_usage = lambda path: usage


def forbid_network() -> None:
    """Whoever looks for another machine is told that there is none, and evaluate.load is not to be called at all."""
    import socket

    import evaluate

    def refuse(*args, **kwargs):
        (FOLDER / "asked").write_text(repr(args))
        raise OSError("there is no network")

    evaluate.load = socket.create_connection = socket.getaddrinfo = refuse


def leave_hub_alone() -> None:
    """Nobody is told to stay offline, and nobody answers where the hub is looked for."""
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = False
    constants.ENDPOINT = datasets.config.HF_ENDPOINT = "http://127.0.0.1:9"  # nothing listens there


FAULTS = {
    "worker killed": functools.partial(break_worker, signal.SIGKILL, True),
    "every worker killed": functools.partial(break_worker, signal.SIGKILL, False),
    "worker killed as it answers": break_connection,
    "worker frozen": functools.partial(break_worker, signal.SIGSTOP, True),
    "every worker frozen": functools.partial(break_worker, signal.SIGSTOP, False),
    "record": break_record,
    "step": break_step,
    "memory": functools.partial(run_out_of_memory, True),
    "memory of an evaluation": functools.partial(run_out_of_memory, False),
    "memory of an update": run_out_of_memory_while_updating,
    "tracker raises": functools.partial(break_tracker, False),
    "tracker hangs": functools.partial(break_tracker, True),
    "weights once": functools.partial(fail_writes, "_save", True),
    "optimizer once": functools.partial(fail_writes, "_save_optimizer_and_scheduler", True),
    "optimizer always": functools.partial(fail_writes, "_save_optimizer_and_scheduler", False),
    "no network": forbid_network,
    "no hub": leave_hub_alone,
    "seal once": functools.partial(fail_writes, "on_save", True, CallbackHandler),
    "stopped while saving": stop_while_saving,
    "small disk": shrink_disk,
    "nothing": lambda: None,
}

if __name__ == "__main__":
    fault, recipe, *flags = sys.argv[1:]
    script = ROOT / "recipes" / recipe / "run.py"
    sys.argv, sys.path[0] = [str(script), *flags], str(script.parent)
    FAULTS[fault]()
    runpy.run_path(str(script), run_name="__main__")
