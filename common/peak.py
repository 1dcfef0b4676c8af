"""The most memory that a training step took, beside what was estimated for it."""

import gc
from pathlib import Path

from common.footprint import Batch, Footprint, count_footprint
from common.layouts import find_layout
from common.sampling import measure_rows

import psutil
import torch

RESET = "5"  # what clear_refs takes to start the process's peak anew: proc_pid_clear_refs(5)


class PeakMemory:
    """Measures, as a context manager, the most memory in use within it, in bytes.

    On a GPU these are the tensors that PyTorch has allocated, `before` those that were there already. On a CPU it is
    the whole process, libraries included (resident set size); `peak` is None where the system cannot say, which is
    everywhere but on Linux.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.before, self.peak = 0, None

    def __enter__(self):
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        elif self.device.type == "cpu":
            self.before = psutil.Process().memory_info().rss
            self.can_reset = _reset_peak()
        return self

    def __exit__(self, *exception):
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        elif self.device.type == "cpu" and self.can_reset:
            self.peak = _read_peak()

    def describe(self, footprint: Footprint) -> str:
        """The measurement in words, beside what of the estimate it can be compared with."""
        if self.peak is None:
            return f"not measured on this {self.device.type}"
        if self.device.type == "cuda":
            return (
                f"measured {format_bytes(self.peak)} of tensors on the GPU, {format_bytes(self.before)} before the step"
            )
        return (
            f"measured {format_bytes(self.peak - self.before)} more in the step (estimated without weights: "
            f"{format_bytes(footprint.total - footprint.weights)}), {format_bytes(self.peak)} with all libraries"
        )


def estimate_step(trainer) -> tuple[Footprint, str]:
    """What a step of this run takes on each device, for its longest rows, and that in words."""
    model, args, rows = trainer.model, trainer.args, trainer.train_dataset
    # Found in the data: what the model could take is often much longer.
    lengths = measure_rows(rows, trainer.SIDES).max(0, initial=0).tolist()
    batch, layout = Batch(args.count_rows(max(sum(lengths), 1)), *lengths), find_layout(trainer.accelerator)
    footprint = count_footprint(model, args, layout, batch)
    return footprint, f"{list_parts(footprint)}; {layout.name}, {describe_batch(batch)}"


def describe_batch(batch: Batch) -> str:
    targets = f" and {batch.target_pieces} of a target" if batch.target_pieces else ""
    return f"{batch.rows} rows of {batch.pieces} pieces{targets}"


def list_parts(footprint: Footprint) -> str:
    """A footprint in one line."""
    states = "unknown" if footprint.optimizer_states is None else format_bytes(footprint.optimizer_states)
    parts = f"weights {format_bytes(footprint.weights)}, gradients {format_bytes(footprint.gradients)}, "
    parts += f"optimizer states {states}, copies {format_bytes(footprint.copies)}, "
    parts += f"activations about {format_bytes(footprint.activations)}"
    host = f", on the host {format_bytes(footprint.host)}" if footprint.host else ""
    return f"{format_bytes(footprint.total)} ({parts}{host})"


def format_bytes(number: float) -> str:
    """MiB below a GiB, else GiB."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(RESET)
    except OSError:
        return False
    return True


def _read_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
