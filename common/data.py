"""From a hub name or local files to checked splits: every row is read and judged before a model is loaded."""

import atexit
import hashlib
import itertools
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from common.arguments import DataArguments
from common.checked_rows import LIMITS, CheckedSplit, Wishes, check_sources
from common.console import escape_controls, say, silence
from common.data_cache import map_cached
from common.errors import RowError, UserError
from common.lines import SHOWN_COMPLAINTS
from common.sources import Source, find_sources
from common.streaming import StreamedDataset, begin_stream

import datasets
import numpy as np
import pyarrow.compute
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable


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
    wishes = Wishes(columns, features, read_row, frozenset(labels), unfold, data_args.max_chars)
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
    split: str, sources: list[Source], wishes: Wishes, limit: int | None, directory: Path, block: int | None = None
) -> CheckedSplit:
    """Check the rows and write them to an Arrow file, which is mapped into memory rather than loaded.

    Of a stream those of the first `block`.
    """
    result = CheckedSplit()
    path = directory / f"{split}.arrow"
    with ArrowWriter(features=wishes.list_features(), path=str(path)) as writer:
        for row, input_hash in itertools.islice(check_sources(split, sources, wishes, limit, result), block):
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
    data_args: DataArguments, wishes: Wishes, parallel: tuple[str, str] | None
) -> Iterator[datasets.Dataset]:
    """Yield the training rows once, in blocks that are held in memory; a UserError lists the faults of a block."""
    with silence():
        sources = find_sources(data_args, ["train"], parallel)["train"]
    result, size = CheckedSplit(), data_args.streaming_buffer_size
    rows = check_sources("train", sources, wishes, data_args.max_train_samples, result)
    while True:
        with silence():
            block = list(itertools.islice(rows, size))
        faults = [line for source in sources for line in source.complaints.list_lines()]
        if faults:
            raise UserError("\n".join(faults))
        if not block:
            return
        yield datasets.Dataset.from_list([row for row, _ in block], features=wishes.list_features())


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


def _divide_train(train: CheckedSplit, data_args: DataArguments, seed: int) -> tuple[CheckedSplit, CheckedSplit]:
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
    parts = [(train.dataset.select(np.flatnonzero(chosen)), hashes[chosen]) for chosen in (~drawn, drawn)]
    return tuple(CheckedSplit(rows, array("q", input_hashes)) for rows, input_hashes in parts)


def _warn_of_training_rows(split: str, hashes: array, train_hashes: array) -> None:
    known = int(np.isin(np.array(hashes), np.array(train_hashes)).sum())
    if known:
        say(f"Warning: {known} of {len(hashes)} {split} rows are also training rows: they flatter the scores.")
