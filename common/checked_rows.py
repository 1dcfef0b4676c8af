"""Every row of the sources, read under our names and judged: what a recipe asks of its data, row by row."""

import itertools
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from common.characters import UnseenCharacters, refuse_long_row
from common.console import say
from common.errors import RowError
from common.lines import suggest
from common.sources import Source

import datasets

ROWS_THAT_TELL_THE_COLUMNS = 100  # a JSON row may lack a key: the first rows together tell which columns there are
UNLABELLED = ("", -1, "-1")  # what files without null, and GLUE, write where a row has no label
LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}


@dataclass(frozen=True)
class Wishes:
    """What a recipe asks of its data; see load_splits."""

    columns: dict[str, str | tuple[str, ...]]
    features: datasets.Features
    read_row: Callable[[dict], dict]
    labels: frozenset[str]
    unfold: Callable[[dict], Iterable[dict]] | None
    max_chars: int

    def list_features(self) -> datasets.Features:
        """The columns that are written."""
        text = datasets.Value("string")
        return datasets.Features({"id": text, "origin": text, **self.features})


@dataclass
class CheckedSplit:
    """A split that has been read: its rows, a hash of each row's inputs, and what there is to tell about it."""

    dataset: datasets.Dataset | None = None
    input_hashes: array = field(default_factory=lambda: array("q"))
    faults: list[str] = field(default_factory=list)
    unused_columns: dict[str, None] = field(default_factory=dict)  # a set that keeps the order
    has_own_ids: bool = False
    unlabelled: int = 0
    unseen: UnseenCharacters = field(default_factory=UnseenCharacters)


def check_sources(
    split: str, sources: list[Source], wishes: Wishes, limit: int | None, result: CheckedSplit
) -> Iterator[tuple[dict | None, int]]:
    """Yield (row, hash of its inputs) of all sources, at most `limit`; the row is None where the recipe refuses it."""
    count = 0
    for position, source in enumerate(sources, start=1):
        if wishes.unfold is not None:
            source = Source(_unfold_rows(source, wishes.unfold), source.complaints)
        for row, input_hash in _check_rows(source, wishes, split, count, (limit or sys.maxsize) - count, result):
            count += 1
            yield row, input_hash
        if count == limit:
            if position < len(sources) or next(source.rows, None) is not None:
                say(f"{split}: the first {limit} rows ({LIMITS[split]}); the others are neither read nor checked.")
            break


def _unfold_rows(source: Source, unfold: Callable[[dict], Iterable[dict]]) -> Iterator[tuple[int, dict]]:
    line = parts = 0
    for line, row in source.rows:
        try:
            for part in unfold(row):
                parts += 1
                yield line, part
        except RowError as error:
            source.complaints.add(str(error), line)
    if line and not parts and not source.complaints.count:
        source.complaints.add("up to here no row holds an example; add rows or leave the file out", line)


def _check_rows(
    source: Source, wishes: Wishes, split: str, start: int, limit: int, result: CheckedSplit
) -> Iterator[tuple[dict | None, int]]:
    """Yield (row, hash of its inputs) for at most `limit` rows; the row is None where the recipe refuses it."""
    rows, complaints = source
    head = list(itertools.islice(rows, min(limit, ROWS_THAT_TELL_THE_COLUMNS)))
    if not head:
        if not complaints.count:
            complaints.add("the split has no rows; choose another", line=0)
        return
    found = list(dict.fromkeys(name for _, row in head for name in row))
    may_be_missing = wishes.labels if split == "test" else frozenset()
    try:
        names = _match_columns(wishes.columns, found, head[0][1], may_be_missing)
    except RowError as error:
        complaints.add(str(error), head[0][0])
        return
    result.unused_columns |= dict.fromkeys(name for name in found if name not in {"id", *names.values()})
    has_own_ids = "id" in found and "id" not in names.values()  # it is also the code of Indonesian
    result.has_own_ids |= has_own_ids
    for number, (line, row) in enumerate(itertools.islice(itertools.chain(head, rows), limit), start):
        try:
            values = _pick_values(row, names, may_be_missing)
            row_id = read_id(row) if has_own_ids else str(number)
            refuse_long_row(values, wishes.max_chars)
            checked = wishes.read_row(values)
            result.unseen.count(values, complaints.locate(line))
            result.unlabelled += any(values[column] is None for column in may_be_missing)
        except RowError as error:
            complaints.add(str(error), line)
            yield None, 0
        except Exception as error:
            error.add_note(f"This was row {complaints.locate(line)}.")
            raise
        else:
            assert checked.keys() == wishes.features.keys(), f"read_row returned {list(checked)}"
            inputs = [value for column, value in values.items() if column not in wishes.labels]
            yield {"id": row_id, "origin": complaints.locate(line), **checked}, hash(repr(inputs))


def _match_columns(
    columns: dict[str, str | tuple[str, ...]], found: list[str], first_row: dict, may_be_missing: frozenset[str]
) -> dict[str, str | None]:
    """Our columns with the names that they have in the data."""
    names = {}
    for column, accepted in columns.items():
        accepted = (accepted,) if isinstance(accepted, str) else accepted
        names[column] = next((name for name in accepted if name in found), None)
        if names[column] is None and column not in may_be_missing:
            wanted = " or ".join(f'"{name}"' for name in accepted)
            row = str(first_row)
            row = row if len(row) <= 200 else row[:200] + "..."
            raise RowError(
                f"no column {wanted}, the columns are {', '.join(found)}{suggest(accepted[0], found)}, "
                f"the first row is {row}; rename it in the data or set the recipe's ..._column_name"
            )
    return names


def _pick_values(row: dict, names: dict[str, str | None], may_be_missing: frozenset[str]) -> dict:
    values = {}
    for column, name in names.items():
        value = row.get(name)
        if column in may_be_missing:
            value = None if value in UNLABELLED else value
        elif value is None:
            raise RowError(f'"{name}" is {"null" if name in row else "missing"}; give every row a value')
        values[column] = value
    return values


def read_id(row: dict) -> str:
    """The id of a row as a text; RowError where it is none."""
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RowError(f'"id" is {value!r}; give every row a text or a whole number, or leave the column out')
    return str(value)
