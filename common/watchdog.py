"""Ends a run in which nothing moves any more, and shows where every thread of it stands."""

import faulthandler
import os
import threading
import time
from pathlib import Path

from common.checkpoints import MANIFEST, list_checkpoints
from common.workers import kill_workers

from transformers import TrainerCallback

EXIT_CODE = 5
LOOKS = 8  # how often the clock is looked at within the limit


class Watchdog(TrainerCallback):
    """Ends this process where it has not moved for `seconds`; the launcher then ends the others.

    It moves with each batch of a step or an evaluation, and with each save. A process that is frozen can say nothing:
    it is the others, waiting for its gradients, whose watchdogs speak. What the run has saved stays as it is.
    """

    def __init__(self, seconds: float, output_dir: str):
        self.seconds, self.output_dir = seconds, Path(output_dir)
        self.place, self.moved = "", 0.0
        self.depth, self.ended = 0, threading.Event()

    def __enter__(self):
        self.move("at its beginning")
        self.depth += 1
        if self.depth == 1 and self.seconds > 0:
            self.ended = threading.Event()
            threading.Thread(target=self._watch, args=(self.ended,), name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.move("after its end")
        self.depth -= 1
        if self.depth == 0:
            self.ended.set()

    def move(self, place: str) -> None:
        """Take note that the process has come as far as `place`."""
        self.place, self.moved = place, time.monotonic()

    def on_step_begin(self, args, state, control, **kwargs):
        self.move(f"in step {state.global_step + 1}")

    def on_substep_end(self, args, state, control, **kwargs):
        self.move(f"in step {state.global_step + 1}")

    def on_step_end(self, args, state, control, **kwargs):
        self.move(f"after step {state.global_step}")

    def on_prediction_step(self, args, state, control, **kwargs):
        self.move(f"in an evaluation after step {state.global_step}")

    def on_evaluate(self, args, state, control, **kwargs):
        self.move(f"after the evaluation of step {state.global_step}")

    def on_save(self, args, state, control, **kwargs):
        self.move(f"after the checkpoint of step {state.global_step}")

    def _watch(self, ended: threading.Event) -> None:
        interval = self.seconds / LOOKS
        looked = time.monotonic()
        while not ended.wait(interval):
            now = time.monotonic()
            if (
                now - looked > 2 * interval + 1
            ):  # this thread stood still too: the whole process was frozen, and goes on
                self.moved = now
            looked = now
            if now - self.moved > self.seconds:
                self._end(now - self.moved)

    def _end(self, seconds: float) -> None:
        os.write(2, b"\n")
        # By its number: the stream itself may be locked by the thread that hangs.
        faulthandler.dump_traceback(file=2, all_threads=True)
        kill_workers()
        processes, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
        who = "The run" if processes == "1" else f"Process {rank} of {processes} (number {os.getpid()})"
        sealed = [path for path in list_checkpoints(self.output_dir) if (path / MANIFEST).is_file()]
        cure = f"the same command goes on from {sealed[0]}" if sealed else "no checkpoint was saved yet"
        waits = "" if processes == "1" else " Perhaps it waits for another process, which is frozen or gone."
        text = (
            f"error: {who} has not moved for {seconds:.0f} seconds {self.place}; above is where its threads stand."
            f"{waits} It is ended: {cure}. Where a batch or a save may take longer, raise --watchdog_seconds.\n"
        )
        os.write(2, text.encode())
        os._exit(EXIT_CODE)
