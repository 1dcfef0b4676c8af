"""Room for what a run writes: looked for before it trains; a checkpoint that finds none is given up, not the run."""

import errno
import re
import shutil
import tempfile
from pathlib import Path

from common.checkpoints import list_checkpoints
from common.console import say
from common.errors import UserError
from common.footprint import count_optimizer_states, list_tensors
from common.peak import format_bytes

from safetensors import SafetensorError
from transformers.trainer_utils import SaveStrategy

MOST_LOST = 3  # checkpoints in a row that could not be written
UNKNOWN_STATES = 8  # bytes for each trained weight of an optimizer that is not known: Adam's
# What torch.save says where a write fails; why, it mostly does not say.
BROKEN_WRITE = re.compile(r"inline_container\.cc|PytorchStreamWriter|Parent directory .* does not exist")


def check_writable(output_dir: Path) -> None:
    """UserError where nothing can be written into `output_dir`, found out by writing; nothing stays behind."""
    place = output_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        what = "is a file" if place == output_dir else f"cannot be made, since {place} is a file"
        raise UserError(f"{output_dir} {what}: choose another output_dir.")
    try:
        with tempfile.TemporaryDirectory(prefix="_written-", dir=place):
            pass
    except OSError as error:
        raise UserError(
            f"{output_dir}: {place} cannot be written to ({error.strerror or error}): choose another output_dir, or "
            "mend the rights, the mount or the quota of this one."
        ) from None


def find_room(path: Path) -> int:
    """The bytes that are left where `path` is or would be."""
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def estimate_checkpoint(model, training_args) -> int:
    """Bytes of one checkpoint: the weights that are saved, and the states of the optimizer."""
    tensors = list_tensors(model)
    trained = [tensor for tensor in tensors if tensor.is_trained]
    saved = trained if hasattr(model, "get_base_model") else tensors  # of an adapter without its base
    size = sum(tensor.size for tensor in saved)
    states = count_optimizer_states(training_args.optim, training_args.optim_args, trained)
    size += UNKNOWN_STATES * sum(tensor.numbers for tensor in trained) if states is None else states
    return int(size)


def check_room(model, training_args) -> None:
    """UserError where two checkpoints do not fit: the one that is written, and the one before, which is kept till then.

    Of a run that is resumed the one before is there already.
    """
    if training_args.save_strategy == SaveStrategy.NO:
        return
    output_dir, size = Path(training_args.output_dir), estimate_checkpoint(model, training_args)
    wanted = size * (1 if list_checkpoints(output_dir) else 2)
    free = find_room(output_dir)
    if free < wanted:
        raise UserError(
            f"{output_dir}: its disk has {format_bytes(free)} left, and {format_bytes(wanted)} is needed: a checkpoint "
            f"takes about {format_bytes(size)}, and the last one is kept while the next is written. Free some room, "
            "choose another output_dir, or save no checkpoints (--save_strategy no)."
        )


def describe_write_failure(error: BaseException) -> str | None:
    """Why a file could not be written, where that is what `error` is about."""
    if isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"the disk is full ({error.strerror})" if is_full else f"{error.strerror or error}"
    if isinstance(error, SafetensorError) and re.search(r"[Ii]/?[Oo] ?[Ee]rror|os error", str(error)):
        is_full = re.search(r"os error (28|122)\b", str(error))
        return f"the disk is full ({error})" if is_full else str(error)
    if isinstance(error, RuntimeError) and BROKEN_WRITE.search(str(error)):
        return "a write failed, as on a full disk"
    return None


class CheckpointLost(UserError):
    """Raised out of a save that could not be made, past what follows a save; the run goes on."""


class LostSaves:
    """Counts the checkpoints in a row that could not be written, and takes back what was said of them."""

    def __init__(self):
        self.in_a_row = 0

    def note_success(self) -> None:
        self.in_a_row = 0

    def give_up(self, directory: Path, why: str, is_first_process: bool) -> None:
        """Delete what there is of a checkpoint, say so, and go on; UserError for the third in a row."""
        self.in_a_row += 1
        if is_first_process:
            shutil.rmtree(directory, ignore_errors=True)
        free = format_bytes(find_room(directory))
        lost = f"{directory} could not be written and is deleted: {why}; {free} are free."
        if self.in_a_row < MOST_LOST:
            say(f"{lost} The run goes on, and tries again when the next checkpoint is due.")
            return
        raise UserError(
            f"{lost} It is the third in a row: the run ends, so that no more is lost. Free some room; the same command "
            "goes on from the last whole checkpoint."
        )
