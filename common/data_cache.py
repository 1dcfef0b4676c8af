"""What a recipe made of its rows, kept between runs: Arrow files of datasets' cache, found by their content."""

import hashlib
import mmap
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from common.cache_keys import compute_key
from common.console import say
from common.disk import find_room

import datasets
import pyarrow as pa
from datasets.table import MemoryMappedTable

UNUSED = 30 * 86400  # seconds after which a file that no run has used is deleted
ABANDONED = 86400  # and one that a process that was killed has not finished
DIGEST = hashlib.sha256().digest_size  # bytes at the end of a file, behind the Arrow stream
SUFFIX, UNFINISHED = ".arrow", ".unfinished"


def find_directory() -> Path:
    """The directory of these files; it need not be there."""
    return Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "trainer-recipes"


def map_cached(
    rows: datasets.Dataset, function: Callable, arguments: dict, num_proc: int | None = None, overwrite: bool = False
) -> datasets.Dataset:
    """`rows.map` in batches, with numbers and without the rows' own columns, or what an earlier run has kept of it.

    Nothing is kept, or looked for, where it cannot be told whether two calls do the same; `overwrite` makes it anew.
    """
    is_used = len(rows) > 0 and datasets.is_caching_enabled()
    key = compute_key(rows, function, arguments) if is_used else None
    found = None if key is None or overwrite else _load(key, rows.split)
    if found is not None:
        return found
    mapped = rows.map(
        function,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        num_proc=num_proc,
        fn_kwargs=arguments,
        load_from_cache_file=False,
        # Datasets would hash the function: a class or function of `common` by its name alone, and not every one.
        new_fingerprint=key or secrets.token_hex(16),
    )
    return mapped if key is None else _keep(key, mapped, overwrite)


def _load(key: str, split: datasets.NamedSplit | None) -> datasets.Dataset | None:
    """The rows of a file, mapped into memory; None where there is none, or one that is not whole."""
    path = find_directory() / f"{key}{SUFFIX}"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            with memoryview(content) as view, view[:-DIGEST] as stream:
                digest = hashlib.sha256(key.encode())
                digest.update(stream)
            if content[-DIGEST:] != digest.digest():
                return None
        table = MemoryMappedTable.from_file(str(path))
    except (OSError, ValueError, pa.ArrowException):  # a file without content cannot be mapped: ValueError
        return None
    try:
        os.utime(path)
    except OSError:
        pass  # somebody else's: it is theirs to delete
    return datasets.Dataset(table, split=split, fingerprint=key)


def _keep(key: str, mapped: datasets.Dataset, overwrite: bool) -> datasets.Dataset:
    """The rows from a file of the cache; as they are, with a line that says why, where there is no room for one."""
    stored = None if overwrite else _load(key, mapped.split)  # another process may have been as quick
    if stored is None:
        directory = find_directory()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _delete_unused(directory)
            # A cache that fills the disk would take the room of the run's own files.
            if find_room(directory) < 2 * mapped.data.nbytes:
                raise OSError("the disk is nearly full")
            _write(directory / f"{key}{SUFFIX}", mapped)
        except (OSError, pa.ArrowException) as error:
            _say_once(f"Note: prepared rows are not kept for the next run: {directory}: {error}.")
            return mapped
        stored = _load(key, mapped.split)
    if stored is None:
        return mapped
    for file in mapped.cache_files:  # made a moment ago: as much room again
        if key in Path(file["filename"]).name:
            Path(file["filename"]).unlink(missing_ok=True)
    return stored


@cache
def _say_once(text: str) -> None:
    say(text)


class _DigestedFile:
    """A file to write to that knows the digest of what was written."""

    def __init__(self, file, key: str):
        self.closed = False
        self.file, self.digest = file, hashlib.sha256(key.encode())

    def write(self, content) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """What Arrow calls behind its stream: the digest is still to come."""
        self.closed = True


def _write(path: Path, mapped: datasets.Dataset) -> None:
    """Write the rows and behind them their digest, under another name first; nothing stays where that fails."""
    table = mapped.data.table.replace_schema_metadata(mapped.features.arrow_schema.metadata)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=UNFINISHED, delete=False) as file:
        try:
            digested = _DigestedFile(file, path.stem)
            with pa.PythonFile(digested, mode="w") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            file.write(digested.digest.digest())
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _delete_unused(directory: Path) -> None:
    now = time.time()
    for suffix, longest in ((SUFFIX, UNUSED), (UNFINISHED, ABANDONED)):
        for path in directory.glob(f"*{suffix}"):
            try:
                if now - path.stat().st_mtime > longest:
                    path.unlink()
            except OSError:
                pass  # another process was quicker, or it is not ours
