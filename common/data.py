"""From a hub name or local files to checked splits: every row is read and judged before a model is loaded."""

import atexit
import hashlib
import itertools
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.arguments import DataArguments
from common.characters import UnseenCharacters, refuse_long_row
from common.console import say, silence
from common.data_cache import map_cached
from common.errors import RowError, UserError
from common.lines import SHOWN_COMPLAINTS, escape_controls, suggest
from common.sources import Source, find_sources
from common.streaming import StreamedDataset, begin_stream

import datasets
import numpy as np
import pyarrow.compute
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable

ROWS_THAT_TELL_THE_COLUMNS = 100  # a JSON row may lack a key: the first rows together tell which columns there are
UNLABELLED = ("", -1, "-1")  # what files without null, and GLUE, write where a row has no label
LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}


@dataclass(frozen=True)
class _Wishes:
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
class _Split:
    """A split that has been read: its rows, a hash of each row's inputs, and what there is to tell about it."""

    dataset: datasets.Dataset | None = None
    input_hashes: array = field(default_factory=lambda: array("q"))
    faults: list[str] = field(default_factory=list)
    unused_columns: dict[str, None] = field(default_factory=dict)  # a set that keeps the order
    has_own_ids: bool = False
    unlabelled: int = 0
    unseen: UnseenCharacters = field(default_factory=UnseenCharacters)


def load_splits(
    data_args: DataArguments,
    columns: dict[str, str | tuple[str, ...]],
    features: datasets.Features,
    read_row: Callable[[dict], dict],
    labels: Iterable[str] = (),
    splits: Sequence[str] = ("train", "validation"),
    seed: int = 42,
    unfold: Callable[[dict], Iterable[dict]] | None = None,
    parallel: tuple[str, str] | None = None,
) -> datasets.DatasetDict:
    """The wanted splits, each row as `read_row` returns it; a UserError lists the faults of all files.

    `columns` gives each of our columns the names that it may have in the data, best first, or the one name that the
    user set with the recipe's ..._column_name. `read_row` gets a row under our names; it raises RowError or
    returns what `features` describes. `unfold` makes several rows of one row of a file, before they are counted.
    `parallel` are the suffixes of two text files that belong together line by line.
    `labels` may be missing, null or empty in test rows: `read_row` then gets None.
    Every row also gets `id` (the data's own, else its number in the split) and `origin` (path:line), both texts.
    A validation split that is not there is taken from the training rows.
    """
    assert not {"id", "origin"} & {*features, *columns}, "these columns are added here"
    wishes = _Wishes(columns, features, read_row, frozenset(labels), unfold, data_args.max_chars)
    directory = Path(tempfile.mkdtemp(prefix="trainer-recipes-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    block = data_args.streaming_buffer_size if data_args.streaming else None
    read = {
        split: _read_split(
            split, sources, wishes, getattr(data_args, LIMITS[split]), directory, block if split == "train" else None
        )
        for split, sources in find_sources(data_args, splits, parallel).items()
    }
    faults = [fault for part in read.values() for fault in part.faults]
    if faults:
        raise UserError("\n".join(faults))
    if data_args.streaming and "train" in read:
        if "validation" in splits and "validation" not in read:
            raise UserError("streaming: validation rows are not taken from a stream: give a validation_file or split.")
        blocks = partial(_read_blocks, data_args, wishes, parallel)
        read["train"].dataset = begin_stream(read["train"].dataset, blocks)
    for split, part in read.items():
        if 0 < part.unlabelled < len(part.dataset):
            say(f"{split}: {part.unlabelled} of {len(part.dataset)} rows have no label: predicted, not scored.")
        if part.unseen.rows:
            held = f"{part.unseen.rows} of {len(part.dataset)} rows hold control characters"
            say(f"Note: {split}: {held}, which are kept: the first is {part.unseen.first}.")
    unused = dict.fromkeys(name for part in read.values() for name in part.unused_columns)
    if unused:
        say(f"Columns that are not used: {', '.join(unused)}.")
    if "validation" in splits and "validation" not in read:
        read["train"], read["validation"] = _divide_train(read["train"], data_args, seed)
    for split in splits:
        if split != "train" and "train" in read:
            _warn_of_training_rows(split, read[split].input_hashes, read["train"].input_hashes)
    return datasets.DatasetDict({split: read[split].dataset for split in splits})


def map_splits(
    splits: datasets.DatasetDict,
    function: Callable,
    num_proc: int | None = None,
    overwrite_cache: bool = False,
    **arguments,
) -> datasets.DatasetDict:
    """What `map_rows` makes of each split, with the same arguments."""
    return datasets.DatasetDict(
        {split: map_rows(rows, function, num_proc, overwrite_cache, **arguments) for split, rows in splits.items()}
    )


def map_rows(
    rows: datasets.Dataset, function: Callable, num_proc: int | None = None, overwrite_cache: bool = False, **arguments
) -> datasets.Dataset:
    """What `function(batch of rows, their numbers, **arguments)` returns; none of the rows' own columns is kept.

    It is kept for the next run, which finds it by the content of the rows, the arguments and the source texts.
    """
    mapped = map_cached(rows, function, arguments, num_proc, overwrite_cache)
    if isinstance(rows, StreamedDataset):
        return rows.then(mapped, partial(map_rows, function=function, **arguments))
    return mapped


def require_text(row: dict, name: str) -> str:
    """The text of a column; RowError where there is none, or nothing but spaces."""
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"{name}: it is {'empty' if text in ('', None) else repr(text)[:60]}; write a text")
    if "\0" in text:
        raise RowError(f"{name}: character {text.index(chr(0)) + 1} is NUL (\\u0000), which is no text; take it out")
    return text


def _read_split(
    split: str, sources: list[Source], wishes: _Wishes, limit: int | None, directory: Path, block: int | None = None
) -> _Split:
    """Check the rows and write them to an Arrow file, which is mapped into memory rather than loaded.

    Of a stream those of the first `block`.
    """
    result = _Split()
    path = directory / f"{split}.arrow"
    with ArrowWriter(features=wishes.list_features(), path=str(path)) as writer:
        for row, input_hash in itertools.islice(_check_sources(split, sources, wishes, limit, result), block):
            if row is not None:
                writer.write(row)
                result.input_hashes.append(input_hash)
        writer.finalize()
    result.faults = [line for source in sources for line in source.complaints.list_lines()]
    if not result.faults:
        # The digest of the rows themselves: what is later computed from the same rows can be found again.
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        table = MemoryMappedTable.from_file(str(path))
        result.dataset = datasets.Dataset(table, split=datasets.NamedSplit(split), fingerprint=digest)
        if result.has_own_ids:
            result.faults = _find_repeated_ids(result.dataset)
    return result


def _read_blocks(
    data_args: DataArguments, wishes: _Wishes, parallel: tuple[str, str] | None
) -> Iterator[datasets.Dataset]:
    """Yield the training rows once, in blocks that are held in memory; a UserError lists the faults of a block."""
    with silence():
        sources = find_sources(data_args, ["train"], parallel)["train"]
    result, size = _Split(), data_args.streaming_buffer_size
    rows = _check_sources("train", sources, wishes, data_args.max_train_samples, result)
    while True:
        with silence():
            block = list(itertools.islice(rows, size))
        faults = [line for source in sources for line in source.complaints.list_lines()]
        if faults:
            raise UserError("\n".join(faults))
        if not block:
            return
        yield datasets.Dataset.from_list([row for row, _ in block], features=wishes.list_features())


def _check_sources(
    split: str, sources: list[Source], wishes: _Wishes, limit: int | None, result: _Split
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
    source: Source, wishes: _Wishes, split: str, start: int, limit: int, result: _Split
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


def _find_repeated_ids(dataset: datasets.Dataset) -> list[str]:
    """One line for each row whose id an earlier row has: the first twenty, and how many more there are."""
    if len(pyarrow.compute.unique(dataset.data.column("id"))) == len(dataset):
        return []
    first_origins, faults = {}, []
    for row_id, origin in zip(dataset["id"], dataset["origin"], strict=True):
        first = first_origins.get(row_id)
        if first is None:
            first_origins[row_id] = origin
        else:
            row_id = escape_controls(row_id)
            faults.append(f'{origin}: the id "{row_id}" is already that of {first}; give every row its own')
    hidden = len(faults) - SHOWN_COMPLAINTS
    return faults[:SHOWN_COMPLAINTS] + ([f"and {hidden} more repeated ids; mend these too"] if hidden > 0 else [])


def _divide_train(train: _Split, data_args: DataArguments, seed: int) -> tuple[_Split, _Split]:
    """Train without the rows that are drawn for validation, and these; both keep the order of the data."""
    rows = len(train.dataset)
    if rows < 2:
        raise UserError("One training row cannot be divided: give more rows, or a validation_file.")
    wanted = max(1, round(rows * data_args.validation_split_percentage / 100))
    wanted = min(wanted, rows - 1, data_args.max_eval_samples or rows)
    drawn = np.zeros(rows, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(rows)[:wanted]] = True
    say(f"validation: {wanted} of the {rows} training rows, drawn with seed {seed} (there is no validation split).")
    hashes = np.array(train.input_hashes)
    return tuple(
        _Split(train.dataset.select(np.flatnonzero(chosen)), array("q", hashes[chosen])) for chosen in (~drawn, drawn)
    )


def _warn_of_training_rows(split: str, hashes: array, train_hashes: array) -> None:
    known = int(np.isin(np.array(hashes), np.array(train_hashes)).sum())
    if known:
        say(f"Warning: {known} of {len(hashes)} {split} rows are also training rows: they flatter the scores.")
