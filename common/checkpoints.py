"""Checkpoints that are whole or do not exist.

The last file written into a checkpoint is a manifest with the size and SHA-256 of all others. A run that is killed
while it saves leaves a directory without manifest; resume passes it over, names it, and takes the one before.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from common.console import say
from common.errors import UserError

from accelerate import PartialState
from transformers import TrainerCallback

MANIFEST = "manifest.json"
LOADABLE = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".safetensors"}


def seal_checkpoint(directory: Path) -> None:
    """Write the manifest that makes `directory` a checkpoint."""
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": compute_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, f"{MANIFEST}.tmp")
    }
    temporary = directory / f"{MANIFEST}.tmp"
    with temporary.open("w") as file:
        json.dump(files, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / MANIFEST)


def find_defect(directory: Path) -> str | None:
    """Why `directory` cannot be resumed from, or None when every byte is as it was written."""
    if not directory.is_dir():
        return "there is no such directory"
    try:
        files = json.loads((directory / MANIFEST).read_text())
    except FileNotFoundError:
        return f"incomplete: it has no {MANIFEST}, so the run stopped while it was saving"
    except (ValueError, OSError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    if not isinstance(files, dict) or not files or not all(isinstance(file, dict) for file in files.values()):
        return f"{MANIFEST} names no files"
    known = {directory / name for name in (*files, MANIFEST)}
    for path in sorted(directory.rglob("*")):
        # Loaders look for files by patterns: one more could be read in place of one that was written.
        if path.suffix in LOADABLE and path.is_file() and path not in known:
            return f"{path.relative_to(directory)} was not written by the run: it is not in {MANIFEST}"
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, {expected['bytes']} were written"
        if compute_sha256(path) != expected["sha256"]:
            return f"{name} is corrupt: its SHA-256 is not the one that was written"
    return None


def refuse_foreign_pickles(directory: Path, output_dir: Path) -> None:
    """UserError for a checkpoint of DeepSpeed that is not of this run: to load it is to run what is in it.

    DeepSpeed reads its files by pickle without limits; all others are read as weights only (transformers 5.23).
    """
    is_own = directory.resolve().parent == output_dir.resolve()
    if any(directory.glob("global_step*")) and not is_own:
        raise UserError(
            f"{directory} is a checkpoint of DeepSpeed from another place than {output_dir}. Its files can hold code, "
            "which would be run: resume from checkpoints of this run only, or give its weights as model_name_or_path."
        )


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The directories checkpoint-<step>, newest step first; nothing else in output_dir is ours."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def find_newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint; every newer one that is not whole is named with the reason."""
    for path in list_checkpoints(output_dir):
        defect = find_defect(path)
        if defect is None:
            return path
        say(f"Skipping {path}: {defect}.")
    return None


def compute_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once all processes have written theirs, then deletes the oldest beyond `total_limit`.

    Trainer's own rotation runs before a checkpoint is whole and takes every `checkpoint-*` by file time, also the
    directories that a user has set aside. This one goes by step, and keeps the best and the last two.
    """

    def __init__(self, total_limit: int | None):
        self.total_limit = total_limit

    def on_save(self, args, state, control, **kwargs):
        processes = PartialState()
        processes.wait_for_everyone()
        if processes.is_main_process:
            output_dir = Path(args.output_dir)
            seal_checkpoint(output_dir / f"checkpoint-{state.global_step}")
            if self.total_limit is not None:
                self._delete_oldest(output_dir, state.best_model_checkpoint)
        processes.wait_for_everyone()

    def _delete_oldest(self, output_dir: Path, best: str | None) -> None:
        sealed = [path for path in list_checkpoints(output_dir) if (path / MANIFEST).exists()]
        for path in sealed[max(self.total_limit, 2) :]:
            if best is None or path.resolve() != Path(best).resolve():
                shutil.rmtree(path)
