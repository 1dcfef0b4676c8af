"""Strict readers of local data files: every row comes with its line, every fault with its line, column and cure.

The usual loaders guess: they turn 'NA' into null, keep one of two equal keys, make one text of twelve lines after a
stray quote. What is ambiguous is refused here, and all faults of a file are told at once.
"""

import codecs
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from common.errors import UserError
from common.json_rows import parse_document, parse_line
from common.lines import Complaints, read_lines, suggest
from common.tables import read_csv, read_tsv

import datasets
import pyarrow
import pyarrow.parquet


def read_rows(path: str | Path, complaints: Complaints | None = None) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for every row of a file; after the last one a UserError lists all faults of the file.

    Where the caller gives `complaints`, faults are added to it and the caller raises. A row with a fault is not
    yielded. Lines count from 1; it is the row in a parquet file and the sentence's first line in a CoNLL file.
    """
    path = Path(path)
    return _read_and_count(path, _choose_reader(path), complaints)


def read_parallel_rows(
    source: Path, target: Path | None, names: tuple[str, str], complaints: Complaints
) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for every line of two text files that belong together; without a target the source alone."""
    paths = [source] if target is None else [source, target]
    faults = [complaints, Complaints(str(target))]
    texts = []
    for path, found in zip(paths, faults, strict=False):
        if not path.is_file():
            _choose_reader(path)  # says what is there instead
        texts.append([(text.rstrip("\n"), sound) for _, text, sound in read_lines(path, found)])
    for line in faults[1].list_lines():
        complaints.add(f"its other half has a fault: {line}", 1)
    if any(not lines and found.count for lines, found in zip(texts, faults, strict=False)):
        return  # UTF-16, of which no line is read
    if not texts[0]:
        complaints.add("the file is empty; add rows or leave the file out", line=1)
        return
    if target is not None and len(texts[0]) != len(texts[1]):
        last = min(map(len, texts))
        complaints.add(
            f"{len(texts[0])} lines here, {len(texts[1])} in {target}; give each line its translation", line=last + 1
        )
        return
    for line, parts in enumerate(zip(*texts, strict=True), start=1):
        if all(sound for _, sound in parts):
            yield line, dict(zip(names, (text for text, _ in parts), strict=False))


def list_rows(tables: Iterable, features: datasets.Features) -> Iterator[dict]:
    """Yield the rows of Arrow tables with the names of classes in place of their numbers, and None in place of -1."""
    holds_classes = "ClassLabel(" in str(features)
    for table in tables:
        for row in table.to_pylist():
            yield _name_classes(row, features) if holds_classes else row


def _name_classes(value, feature):
    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return None if value == -1 else feature.int2str(value)
    if isinstance(feature, dict):
        return {name: _name_classes(part, feature[name]) for name, part in value.items()}
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return [_name_classes(part, feature.feature) for part in value]
    return value


def _choose_reader(path: Path) -> Callable:
    if path.is_dir():
        raise UserError(f"{path}: a directory, not a file; name the files in it, as in {path}/*.jsonl.")
    if not path.exists():
        parent = path.absolute().parent
        near = suggest(path.name, (entry.name for entry in parent.iterdir())) if parent.is_dir() else ""
        raise UserError(
            f"{path}: no such {'file' if parent.is_dir() else 'directory'}, looked for {path.absolute()}{near}; "
            "check the name and the directory that you start from."
        )
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: no known format has the suffix {path.suffix!r}; use one of {', '.join(READERS)}.")
    return READERS[path.suffix.lower()]


def _read_and_count(path: Path, reader: Callable, complaints: Complaints | None) -> Iterator[tuple[int, dict]]:
    found = Complaints(str(path)) if complaints is None else complaints
    before, rows = found.count, 0
    try:
        for line, row in reader(path, found):
            rows += 1
            yield line, row
        if not rows and found.count == before:
            what = "the file holds no rows" if path.stat().st_size else "the file is empty"
            found.add(f"{what}; add rows or leave the file out", line=1)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read ({reason}); check the file and its rights.") from None
    if complaints is None and found.count:
        raise UserError("\n".join(found.list_lines()))


def _read_jsonl(path: Path, complaints: Complaints) -> Iterator[tuple[int, dict]]:
    for line, text, sound in read_lines(path, complaints):
        if not sound or not text.strip():
            continue
        row, fault = parse_line(text)
        if fault:
            complaints.add(fault.text, line, None if fault.position is None else fault.position + 1)
        else:
            yield line, row


def _read_json(path: Path, complaints: Complaints) -> Iterator[tuple[int, dict]]:
    """Yield the rows of an array, of {"data": [...]} or of JSON lines; only JSON lines need little memory."""
    if _holds_json_lines(path):
        yield from _read_jsonl(path, complaints)
        return
    before = complaints.count
    text = "".join(text for _, text, _ in read_lines(path, complaints))
    if complaints.count > before or not text.strip():
        return
    line, counted = 1, 0
    for position, row, fault in parse_document(text):
        if fault and fault.position is not None:
            position = fault.position
        line += text.count("\n", counted, position)
        counted = position
        if fault:
            column = None if fault.position is None else position - text.rfind("\n", 0, position)
            complaints.add(fault.text, line, column)
        else:
            yield line, row


def _holds_json_lines(path: Path) -> bool:
    with path.open("rb") as file:
        lines = (raw.removeprefix(codecs.BOM_UTF8).strip() for raw in file)
        first, second = itertools.islice(itertools.chain(filter(None, lines), [b"", b""]), 2)
    return first.startswith(b"{") and first.endswith(b"}") and second.startswith(b"{")


def _read_parquet(path: Path, complaints: Complaints) -> Iterator[tuple[int, dict]]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            complaints.add(f"two columns have the same name ({', '.join(names)}); rename one of them", line=1)
            return
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
        yield from enumerate(list_rows(file.iter_batches(batch_size=1000), features), start=1)
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the file cannot be read at all; what Arrow finds damaged has no number
            raise
        complaints.add(f"not a whole parquet file ({str(error).splitlines()[0]}); write it again", line=1)
    except UnicodeDecodeError as error:
        complaints.add(f"not a whole parquet file (a text of it is not UTF-8: {error.reason}); write it again", line=1)


def _read_conll(path: Path, complaints: Complaints) -> Iterator[tuple[int, dict]]:
    """Yield a sentence a row: tokens from the first column, tags from the last unless there is only one.

    Only tabs and spaces separate columns: other white space can be a token, an ideographic space for one.
    """
    width = width_line = None
    tokens, tags, start, sound = [], [], 0, True
    for line, text, sound_line in itertools.chain(read_lines(path, complaints), [(0, "", True)]):
        text = text.strip(" \t\n")
        if not text:
            if tokens and sound:
                yield start, {"tokens": tokens, "tags": tags} if width > 1 else {"tokens": tokens}
            tokens, tags, sound = [], [], True
            continue
        fields = re.split(r"[ \t]+", text)
        if fields[0] == "-DOCSTART-" or (text.startswith("# ") and not _ENDS_IN_TAG.search(text)):
            continue
        if width is None:
            width, width_line = len(fields), line
        if len(fields) != width:
            complaints.add(f"columns here: {len(fields)}, in line {width_line}: {width}; give all the same", line)
            sound_line = False
        if not tokens:
            start = line
        tokens.append(fields[0])
        tags.append(fields[-1])
        sound = sound and sound_line


_ENDS_IN_TAG = re.compile(r"[ \t](O|[A-Z]-\S+)$")  # then "# O" is the token # and no comment

READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": read_csv, ".tsv": read_tsv, ".parquet": _read_parquet}
READERS |= dict.fromkeys((".conll", ".bio", ".iob", ".iob2", ".bioes"), _read_conll)
