"""What is to be predicted: rows of files, lines of text, standard input or a list; each one checked, none dropped."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from common.checked_rows import read_id
from common.data import RowError
from common.errors import UserError
from common.files import READERS, read_rows
from common.lines import Complaints, read_lines, refuse_rows, suggest

TEXT_SUFFIX = ".txt"  # one text a line
# Where a faulty row is a row by itself, and the next one is read.
SUFFIXES_WITH_SEPARATE_ROWS = (".jsonl", ".csv", ".tsv", TEXT_SUFFIX)


class Fault(NamedTuple):
    """What stands in place of a row that cannot be read: where it is, and what is wrong."""

    place: str
    text: str


class Input(NamedTuple):
    """A row to be predicted: its id, and what the task reads of it, or its fault."""

    id: str
    values: dict | None
    fault: Fault | None


class _KeptComplaints(Complaints):
    """Keeps all faults of a file, each with the number of rows that were read before it."""

    def __init__(self, name: str):
        super().__init__(name)
        self.rows = 0
        self.faults: list[tuple[int, int, Fault]] = []

    def add(self, text: str, line: int, column: int | None = None) -> None:
        super().add(text, line, column)
        self.faults.append((self.rows, line, Fault(self.locate(line, column), text)))


class InputFile:
    """The rows of a file, as often as they are asked for; its faults are found when it is opened.

    `name` is what complaints call it. Besides the formats of data files it may be text, a row a line (.txt).
    """

    def __init__(self, path: Path, name: str | None = None):
        self.path, self.name = path, name or str(path)
        complaints = _KeptComplaints(self.name)
        lines = []
        for line, _ in self._read(complaints):
            complaints.rows += 1
            lines.append(line)
        self.inserted: dict[int, list[Fault]] = {}  # before which row there are faulty ones
        self.replaced: dict[int, Fault] = {}  # which rows turned out to be faulty when more had been read
        known = {line: number for number, line in enumerate(lines)} if complaints.faults else {}
        for rows, line, fault in complaints.faults:
            if rows and line < lines[rows - 1] and line in known:
                self.replaced[known[line]] = fault
            else:
                self.inserted.setdefault(rows, []).append(fault)
        has_separate_rows = path.suffix.lower() in SUFFIXES_WITH_SEPARATE_ROWS and lines
        self.unreadable = [] if has_separate_rows else [fault for _, _, fault in complaints.faults]

    def _read(self, complaints: Complaints) -> Iterator[tuple[int, dict | str]]:
        if self.path.suffix.lower() != TEXT_SUFFIX:
            yield from read_rows(self.path, complaints)
            return
        line = 0
        for line, text, is_sound in read_lines(self.path, complaints):
            if is_sound:
                yield line, text.rstrip("\n")
        if not line:
            complaints.add("the file is empty; write a text a line", line=1)

    def __iter__(self) -> Iterator[tuple[str, dict | str | Fault]]:
        """Yield (place, row) in the order of the file, a Fault where a row cannot be read."""
        complaints = Complaints(self.name)
        number = -1
        for number, (line, row) in enumerate(self._read(complaints)):
            for fault in self.inserted.get(number, []):
                yield fault.place, fault
            yield complaints.locate(line), self.replaced.get(number, row)
        for fault in self.inserted.get(number + 1, []):
            yield fault.place, fault


def open_file(path: Path) -> InputFile:
    """The file; a UserError where it is not there or its format is not known."""
    if path.suffix.lower() == TEXT_SUFFIX and not path.is_file():
        near = suggest(path.name, (entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such file{near}; check the name and the directory that you start from.")
    if path.is_file() and path.suffix.lower() not in (*READERS, TEXT_SUFFIX):
        known = ", ".join([*READERS, TEXT_SUFFIX])
        raise UserError(f"{path}: no known format has the suffix {path.suffix!r}; use one of {known}.")
    return InputFile(path)


def read_inputs(items: Iterable[tuple[str, dict | list | str | Fault]], task) -> Iterator[Input]:
    """Every row of the items as `task` reads it, or with its fault; the id is its own, else its number."""
    number = itertools.count()
    for place, item in items:
        try:
            rows = [item] if isinstance(item, Fault) else _unfold(item, task)
        except RowError as error:
            rows = [Fault(place, str(error))]
        for row in rows:
            yield _read_row(row, place, str(next(number)), task)


def _unfold(item, task) -> list[dict]:
    if not isinstance(item, dict | list | str):
        raise RowError(f"it is {str(item)[:60]!r}; give a text, or an object with its columns")
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowError("it holds half a character (a lone surrogate); write the whole character") from None
    except (TypeError, ValueError) as error:
        raise RowError(f"it cannot be written as JSON: {error}; give texts, numbers and lists of them") from None
    rows = task.unfold(item)
    if not all(isinstance(row, dict) for row in rows):
        raise RowError(f"it is {str(item)[:60]!r}; give a text, or an object with its columns")
    return rows


def _read_row(row: dict | Fault, place: str, row_id: str, task) -> Input:
    if isinstance(row, Fault):
        return Input(row_id, None, row)
    try:
        row_id = row_id if row.get("id") is None else read_id(row)
        return Input(row_id, task.read(_pick_columns(row, task.columns)), None)
    except RowError as error:
        return Input(row_id, None, Fault(place, str(error)))


def _pick_columns(row: dict, columns: dict[str, tuple[str, ...]]) -> dict:
    """The values of the columns under our names; what else a row has, its labels too, is not looked at."""
    values = {}
    for column, names in columns.items():
        name = next((name for name in names if name in row), None)
        if name is None:
            wanted = " or ".join(f'"{name}"' for name in names)
            raise RowError(f"no column {wanted}, the columns are {', '.join(row)}{suggest(names[0], row)}; rename it")
        if row[name] is None:
            raise RowError(f'"{name}" is null; give every row a value')
        values[column] = row[name]
    return values


def check_inputs(items: Iterable[tuple[str, dict | list | str | Fault]], task, on_error: str = "stop") -> int:
    """How many rows there are; a UserError lists those that cannot be predicted, unless they are to be kept.

    A file whose faults leave open where its rows are is refused in any case.
    """
    unreadable = getattr(items, "unreadable", [])
    refuse_rows(unreadable)
    faults, count = [], 0
    for row in read_inputs(items, task):
        count += 1
        if row.fault is not None and on_error == "stop":
            faults.append(row.fault)
    refuse_rows(faults)
    return count
