"""Files as bytes: random ones, and good ones that were damaged, in every format that rows are read from."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.files import READERS as FORMATS
from common.files import read_parallel_rows, read_rows
from common.lines import Complaints
from tests.fuzz.reader import Reader, check_refusal

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

# What means something to one of the formats, or to what reads text.
PIECES = (
    b'"', b'""', b",", b"\t", b"\n", b"\r", b"\r\n", b" ", b"{", b"}", b"[", b"]", b":", b"\\", b"\\u", b"null",
    b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0.5", b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 1500,
    b'"text"', b'"data"', b"text", b"label", b"id", b"a", b"O", b"B-PER", b"I-PER", b"-DOCSTART-", b"# ", b"#",
    b"\\ud800", b"\\udc00", b"\\u0000", b"\\n", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff", b"\x80",
    b"\xc3", b"\xe4\xbd", b"\xed\xa0\x80", b"\x1a", b"\x1b[2J", b"\x0b", b"\x0c", b"\x1c", b"PAR1",
    *(text.encode() for text in ("\x85", "\u2028", "\ufffd", "\u3000", "你好", "é", "e\u0301", "😀")),
    "caf\xe9".encode("latin-1"), "你好".encode("gb2312"),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "NA", "null", "a,b", 'say "hi"', "a\tb", "one\ntwo", "\r", "O", "-DOCSTART-", "# O", "\0"]
    ),
    st.sampled_from(PIECES).map(lambda piece: piece.decode(errors="replace")[:40]),
)
ROWS = st.lists(st.fixed_dictionaries({"id": TEXTS, "text": TEXTS, "label": TEXTS}), max_size=5)
PLACES = st.integers(0, 400)
DAMAGES = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("cut"), PLACES, st.integers(1, 30)),
    st.tuples(st.just("end"), PLACES, st.none()),
    st.tuples(st.just("insert"), PLACES, st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=6))),
    st.tuples(st.just("begin"), st.just(0), st.sampled_from(PIECES)),
    st.tuples(st.just("repeat"), PLACES, st.integers(1, 60)),
    st.tuples(st.just("line ends"), st.just(0), st.sampled_from([b"\r\n", b"\r", b"\n\n"])),
    st.tuples(st.just("encode"), st.just(0), st.sampled_from(["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "gbk"])),
)


def damage(content: bytes, damages: list[tuple]) -> bytes:
    """The content after all damages, one after the other; places count from its start or, where even, its end."""
    for kind, place, value in damages:
        place = (place // 2 if place % 2 else len(content) - place // 2) % (len(content) + 1)
        before, after = content[:place], content[place:]
        if kind == "flip" and after:
            content = before + bytes([after[0] ^ (1 << value)]) + after[1:]
        elif kind == "cut":
            content = before + after[value:]
        elif kind == "end":
            content = before
        elif kind in ("insert", "begin"):
            content = value + content if kind == "begin" else before + value + after
        elif kind == "repeat":
            content = before + after[:value] + after
        elif kind == "line ends":
            content = content.replace(b"\n", value)
        elif kind == "encode":
            content = content.decode(errors="replace").encode(value, errors="replace")
    return content


def write_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) + "\n" for row in rows).encode()


def write_json(rows: list[dict]) -> bytes:
    shapes = (rows, {"version": "1", "data": rows, "more": [1]}, {"data": rows})
    return json.dumps(shapes[len(rows) % 3], ensure_ascii=False, indent=(None, 1)[len(rows) % 2]).encode()


def write_csv(rows: list[dict]) -> bytes:
    table = io.StringIO()
    writer = csv.DictWriter(table, ["id", "text", "label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


def write_tsv(rows: list[dict]) -> bytes:
    lines = ["\t".join(" ".join(value.split()) for value in row.values()) for row in rows]
    return "\n".join(["id\ttext\tlabel", *lines, ""]).encode()


def write_parquet(rows: list[dict]) -> bytes:
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows or [{"text": "a"}]), table)
    return table.getvalue()


def write_conll(rows: list[dict]) -> bytes:
    lines = [f"{row['text'] or 'a'} {row['label']}\n" + "\n" * (row["id"] > "a") for row in rows]
    return "".join(lines).encode()


def write_text(rows: list[dict]) -> bytes:
    return "".join(f"{row['text']}\n" for row in rows).encode()


def list_contents(write: Callable[[list[dict]], bytes], is_binary: bool = False) -> st.SearchStrategy[bytes]:
    """Contents of a file: a good one with up to four damages, pieces of the format in any order, or any bytes.

    Almost all of a binary format is refused at its first bytes, so only good ones are damaged there.
    """
    good = st.builds(damage, ROWS.map(write), st.lists(DAMAGES, max_size=2 if is_binary else 4))
    if is_binary:
        return st.one_of(good, good, st.binary(max_size=40))
    return st.one_of(good, good, st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join), st.binary(max_size=100))


def count_lines(*contents: bytes | None) -> int:
    """How many lines the longest content has."""
    return max(content.count(b"\n") + 1 for content in contents if content is not None)


def read_text(content: bytes) -> str:
    """The text of a content that was accepted, with plain line ends."""
    return content.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n")


def attempt_file(content: bytes, folder: Path, suffix: str, list_expected: Callable) -> bool:
    """Read a file; its rows have to be those that `list_expected` finds in its content with a reader of its own."""
    path = folder / f"rows{suffix}"
    path.write_bytes(content)
    try:
        rows = list(read_rows(path))
    except UserError as error:
        check_refusal(error, [path], lines=None if suffix == ".parquet" else count_lines(content))
        return False
    lines = [line for line, _ in rows]
    assert rows and lines == sorted(lines) and lines[0] >= 1
    expected = list_expected(content)
    assert [row for _, row in rows] == expected, (rows, expected)
    return True


def list_json_lines(content: bytes) -> list[dict]:
    return [json.loads(line) for line in read_text(content).split("\n") if line.strip()]


def list_json(content: bytes) -> list[dict]:
    try:
        whole = json.loads(read_text(content))
    except ValueError:
        return list_json_lines(content)
    data = whole["data"] if isinstance(whole, dict) and isinstance(whole.get("data"), list) else whole
    return data if isinstance(data, list) else [data]


def list_csv(content: bytes) -> list[dict]:
    records = list(csv.reader(io.StringIO(read_text(content), newline="")))
    # An empty line is no record; one empty cell is, which can only be a quoted one.
    records = [record for record in records if record and (len(record) > 1 or not record[0] or record[0].strip())]
    return [dict(zip(records[0], record, strict=True)) for record in records[1:]]


def list_tsv(content: bytes) -> list[dict]:
    records = [line.rstrip("\r").split("\t") for line in read_text(content).split("\n") if line.strip()]
    return [dict(zip(records[0], record, strict=True)) for record in records[1:]]


def list_parquet(content: bytes) -> list[dict]:
    return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()


def list_sentences(content: bytes) -> list[dict]:
    """The sentences of lines of one, two, ... columns, written down once more, in the words of the format."""
    sentences, width = [[]], 0
    for line in read_text(content).split("\n"):
        cells = [cell for cell in line.replace("\t", " ").split(" ") if cell]
        if not cells:
            sentences.append([])
        elif cells[0] == "-DOCSTART-":
            continue
        elif line.strip(" \t").startswith("# ") and not (cells[-1] == "O" or cells[-1][1:2] == "-"):
            continue
        else:
            width = len(cells)
            sentences[-1].append(cells)
    rows = [{"tokens": [cells[0] for cells in words], "tags": [cells[-1] for cells in words]} for words in sentences]
    return [row if width > 1 else {"tokens": row["tokens"]} for row in rows if row["tokens"]]


def attempt_parallel_files(contents: tuple[bytes, bytes | None], folder: Path) -> bool:
    """Read two files of texts that belong together."""
    paths = [folder / "train.en", folder / "train.de"]
    for path, content in zip(paths, contents, strict=True):
        if content is not None:
            path.write_bytes(content)
    complaints = Complaints(str(paths[0]))
    target = None if contents[1] is None else paths[1]
    rows = list(read_parallel_rows(paths[0], target, ("en", "de"), complaints))
    if complaints.count:
        error = UserError("\n".join(complaints.list_lines()))
        check_refusal(error, paths[:1], lines=count_lines(*contents))
        return False
    sides = [read_text(content).removesuffix("\n").split("\n") for content in contents if content is not None]
    names = ("en", "de")[: len(sides)]
    assert rows == [(line, dict(zip(names, row, strict=True))) for line, row in enumerate(zip(*sides, strict=True), 1)]
    return True


def make_reader(suffix: str, write: Callable, list_expected: Callable, share: int) -> Reader:
    """The reader of the files of a suffix."""
    assert suffix in FORMATS
    inputs = list_contents(write, is_binary=suffix == ".parquet")
    return Reader(
        f"bytes of {suffix}",
        inputs,
        lambda content, folder: attempt_file(content, folder, suffix, list_expected),
        share,
    )


SIDES = list_contents(write_text)
READERS = [
    make_reader(".jsonl", write_jsonl, list_json_lines, 20),
    make_reader(".json", write_json, list_json, 20),
    make_reader(".csv", write_csv, list_csv, 20),
    make_reader(".tsv", write_tsv, list_tsv, 16),
    make_reader(".parquet", write_parquet, list_parquet, 6),
    make_reader(".conll", write_conll, list_sentences, 16),
    Reader("bytes of two parallel files", st.tuples(SIDES, st.one_of(st.none(), SIDES)), attempt_parallel_files, 12),
]
