"""What a launch would silently do otherwise than asked: refused before it starts."""

import os
import time
from pathlib import Path

from common.errors import UserError

from accelerate.utils import parse_flag_from_env
from torch.utils.cpp_extension import get_default_build_root

LONGEST_BUILD = 20 * 60  # seconds; two to four minutes are usual


def check_launch(training_args) -> None:
    """Raise a UserError where the processes would not train together, or not with what the launch config says."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != training_args.world_size:
        raise UserError(
            f"{started} processes were started, but they do not train together (world size {training_args.world_size}):"
            " each would overwrite the other's results. Check the --config_file of accelerate launch."
        )
    uses_deepspeed, uses_fsdp = (parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("DEEPSPEED", "FSDP"))
    if (uses_deepspeed or uses_fsdp) and parse_flag_from_env("ACCELERATE_USE_CPU"):
        name = "DeepSpeed" if uses_deepspeed else "FSDP"
        raise UserError(
            f"ACCELERATE_USE_CPU is set, which turns {name} off without a word: unset it. On a machine without GPU the "
            "recipes choose the CPU by themselves; elsewhere add --use_cpu."
        )
    if uses_deepspeed:
        refuse_stale_locks(Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()))


def refuse_stale_locks(directory: Path) -> None:
    """UserError where a build of DeepSpeed's operations was interrupted: each later run would wait for its end."""
    for lock in sorted(directory.rglob("lock")):
        age = time.time() - lock.stat().st_mtime
        if age > LONGEST_BUILD:
            raise UserError(
                f"{lock} is the lock of a build of DeepSpeed that was interrupted {age / 3600:.1f} hours ago; this run "
                "would wait for it for ever. Delete the file."
            )
