"""What a W&B run that was offline holds, read back from the file that `wandb sync` would upload.

The file is a log in the format of LevelDB: blocks of 32 KiB, each a sequence of chunks with a head of 7 bytes
(checksum, length, kind). Chunks make up records, which are the protocol buffers of wandb.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEAD, CHUNK_HEAD = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """A run as it was logged: `history` has an entry a step, `media` the files of its tables and pictures by name."""

    id: str = ""
    project: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    metrics: dict[str, list[str]] = field(default_factory=dict)  # those of define_metric, and what is summed up of each
    alerts: list[tuple[str, str]] = field(default_factory=list)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None
    media: dict = field(default_factory=dict)


def find_runs(result: Path) -> list[Path]:
    """The files of the offline runs of a result directory, in the order in which they began."""
    return sorted(result.glob("_wandb/wandb/offline-run-*/run-*.wandb"))


def read_run(path: Path) -> OfflineRun:
    """The run that a file holds."""
    run = OfflineRun()
    for content in _read_records(path):
        _take(run, Record.FromString(content))
    for entry in run.history:
        for name, value in entry.items():
            if isinstance(value, dict) and "path" in value:
                file = path.parent / "files" / value["path"]
                run.media[name] = json.loads(file.read_text()) if file.suffix == ".json" else file
    return run


def _read_records(path: Path):
    content = path.read_bytes()
    assert content[:4] == b":W&B", f"{path} is no file of wandb"
    position, parts = FILE_HEAD, []
    while position + CHUNK_HEAD <= len(content):
        room = BLOCK - position % BLOCK
        if room < CHUNK_HEAD:  # the rest of a block that has no room for a head is empty
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += CHUNK_HEAD
        parts = [] if kind in (FULL, FIRST) else parts
        parts.append(content[position : position + length])
        position += length
        if kind in (FULL, LAST):
            yield b"".join(parts)


def _take(run: OfflineRun, record: Record) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.id, run.project, run.group = record.run.run_id, record.run.project, record.run.run_group
        run.tags, run.notes = list(record.run.tags), record.run.notes
        run.config |= _read_items(record.run.config.update)
    elif kind == "config":
        run.config |= _read_items(record.config.update)
    elif kind == "summary":
        run.summary |= _read_items(record.summary.update)
    elif kind == "history":
        run.history.append(_read_items(record.history.item))
    elif kind == "metric":
        kept = [name for name in ("min", "max", "last", "best") if getattr(record.metric.summary, name)]
        run.metrics[record.metric.name or record.metric.glob_name] = kept
    elif kind == "alert":
        run.alerts.append((record.alert.title, record.alert.text))
    elif kind == "exit":
        run.exit_code = record.exit.exit_code
    elif kind == "artifact":
        run.artifacts[record.artifact.name] = [entry.path for entry in record.artifact.manifest.contents]


def _read_items(items) -> dict:
    read = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = read
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return read
