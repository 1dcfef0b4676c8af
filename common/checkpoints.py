"""Checkpoints that are whole or do not exist.

The last file written into a checkpoint is a manifest with the size and SHA-256 of all others, and with what the run is
that it belongs to. A run that is killed while it saves leaves a directory without manifest; resume sets it aside as
`checkpoint-<step>.corrupt`, says why, and takes the one before.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from common.console import escape_controls, say
from common.errors import UserError
from common.launching import share_greatest
from common.provenance import compute_sha256

from accelerate import PartialState
from transformers import TrainerCallback

MANIFEST = "manifest.json"
SET_ASIDE = ".corrupt"
KEPT_SET_ASIDE = 2  # a job that is killed again and again while it saves must not fill the disk
LOADABLE = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".safetensors"}


def seal_directory(directory: Path, paths: Iterable[Path], run: dict | None = None) -> None:
    """Write the manifest of these files in `directory` once they and their names are on the disk."""
    files = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "sha256": compute_sha256(path)}
    for folder in {directory, *((directory / name).parent for name in files)}:
        sync_directory(folder)
    temporary = directory / f"{MANIFEST}.tmp"
    with temporary.open("w") as file:
        json.dump({"run": run or {}, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / MANIFEST)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """See to it that the names of the files in `directory` outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal_checkpoint(directory: Path, run: dict | None = None) -> None:
    """Write the manifest that makes `directory` a checkpoint; `run` is what `identify_run` says."""
    paths = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(MANIFEST)]
    seal_directory(directory, paths, run)


def read_manifest(directory: Path) -> dict:
    """The run that `directory` is of and its files with sizes and hashes; ValueError or OSError where it has none."""
    manifest = json.loads((directory / MANIFEST).read_text())
    if not isinstance(manifest, dict) or not isinstance(manifest.get("run"), dict):
        raise ValueError("it is not of these recipes")
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise ValueError("it names no files")
    if not all(isinstance(file, dict) and {"bytes", "sha256"} <= file.keys() for file in files.values()):
        raise ValueError("it names files without size and SHA-256")
    return manifest


def find_defect(directory: Path) -> str | None:
    """Why `directory` cannot be used, or None when every byte is as it was written."""
    if not directory.is_dir():
        return "there is no such directory"
    try:
        files = read_manifest(directory)["files"]
    except FileNotFoundError:
        return f"incomplete: it has no {MANIFEST}, so the run stopped while it was saving"
    except (ValueError, OSError, RecursionError) as error:
        return escape_controls(f"{MANIFEST} cannot be read: {error}")
    known = {directory / name for name in (*files, MANIFEST)}
    for folder in sorted({path.parent for path in known if path.parent.is_dir()}):
        for path in sorted(folder.iterdir()):
            # Loaders look for files by patterns: one more could be read in place of one that was written.
            if path.suffix in LOADABLE and path.is_file() and path not in known:
                return f"{path.relative_to(directory)} was not written by the run: it is not in {MANIFEST}"
    for name, expected in files.items():
        path = directory / name
        if not _is_file(path):
            return f"{escape_controls(name)} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, {expected['bytes']} were written"
        if compute_sha256(path) != expected["sha256"]:
            return f"{name} is corrupt: its SHA-256 is not the one that was written"
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


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
    """The newest whole checkpoint; every newer one that is not whole is set aside, and the reason is said."""
    for path in list_checkpoints(output_dir):
        defect = find_defect(path)
        if defect is None:
            return path
        if path.is_dir():
            say(f"Setting {path} aside as {set_aside(path).name}: {defect}.")
    return None


def set_aside(checkpoint: Path) -> Path:
    """Rename a broken checkpoint so that nothing takes it for one; of those set aside only the newest are kept."""
    renamed = checkpoint.with_name(checkpoint.name + SET_ASIDE)
    if renamed.exists():
        shutil.rmtree(renamed)
    checkpoint.rename(renamed)
    set_aside_before = [
        path for path in checkpoint.parent.glob(f"checkpoint-*{SET_ASIDE}") if re.search(r"-\d+\.", path.name)
    ]
    by_step = sorted(set_aside_before, key=lambda path: int(re.search(r"\d+", path.name)[0]), reverse=True)
    for path in by_step[KEPT_SET_ASIDE:]:
        if path != renamed:
            shutil.rmtree(path)
    return renamed


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once all processes have written theirs, then deletes the oldest beyond `total_limit`.

    Trainer's own rotation runs before a checkpoint is whole and takes every `checkpoint-*` by file time, also the
    directories that a user has set aside. This one goes by step, and keeps the best and the last two.
    """

    def __init__(self, total_limit: int | None, run: dict | None = None):
        self.total_limit, self.run = total_limit, run

    def on_save(self, args, state, control, **kwargs):
        processes, failure = PartialState(), None
        processes.wait_for_everyone()
        if processes.is_main_process:
            try:
                self._seal(Path(args.output_dir), state)
            except OSError as error:
                failure = error
        # Every process raises what one of them met: those that went on would wait for it forever.
        if share_greatest(failure is not None, processes.device):
            raise failure or OSError("the first process could not write it")

    def _seal(self, output_dir: Path, state) -> None:
        seal_checkpoint(output_dir / f"checkpoint-{state.global_step}", self.run)
        if self.total_limit is not None:
            self._delete_oldest(output_dir, state.best_model_checkpoint)

    def _delete_oldest(self, output_dir: Path, best: str | None) -> None:
        sealed = [path for path in list_checkpoints(output_dir) if (path / MANIFEST).exists()]
        for path in sealed[max(self.total_limit, 2) :]:
            if best is None or path.resolve() != Path(best).resolve():
                # The manifest first: a deletion that is broken off leaves nothing that looks like a checkpoint.
                (path / MANIFEST).unlink()
                shutil.rmtree(path)
