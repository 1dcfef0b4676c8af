"""common/inputs.py: rows of files, each in its place, with its id or its fault."""

import json
import re
from pathlib import Path

from common.data import RowError, require_text
from common.errors import UserError
from common.inputs import InputFile, check_inputs, open_file, read_inputs

import pytest


class Task:
    """Reads a text, in a column that may have two names."""

    def __init__(self):
        self.columns = {"text": ("text", "sentence")}

    def unfold(self, item) -> list[dict]:
        if isinstance(item, dict) and "parts" in item:
            if not item["parts"]:
                raise RowError("parts: it is empty; write a part")
            return [{"text": part} for part in item["parts"]]
        return [{"text": item} if isinstance(item, str) else item]

    def read(self, row: dict) -> dict:
        return {"text": require_text(row, "text")}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> list[tuple[str, str]]:
    """The id and the text of every row, or the place of its fault behind the file's name, and how that begins."""
    read = []
    for row in read_inputs(open_file(path), Task()):
        fault = (
            row.fault and f"{row.fault.place.removeprefix(str(path))} {re.split('[:;(]', row.fault.text)[0].strip()}"
        )
        read.append((row.id, fault or row.values["text"]))
    return read


def test_every_row_of_json_lines_stands_in_its_place_also_those_that_are_no_json(tmp_path):
    lines = [
        '{"text": "a"}',
        "{oops",
        "[1]",
        "",
        '{"sentence": "b", "id": 7, "label": []}',
        '{"text": " "}',
        '{"text": "c"',
        "",
    ]
    assert read(write(tmp_path / "rows.jsonl", "\n".join(lines))) == [
        ("0", "a"),
        ("1", ":2:2 invalid JSON"),
        ("2", ":3:1 the row is a list"),
        ("7", "b"),
        ("4", ":6 text"),
        ("5", ":7:14 invalid JSON"),
    ]


def test_rows_that_a_quote_swallowed_are_found_at_the_end_and_kept_in_their_places(tmp_path):
    rows = "".join(f"good,{label}\n" for label in ("yes", "no") * 4)
    path = write(tmp_path / "rows.csv", f'text,label\n{rows}"open,yes\nbad",no\n{rows}lost\nlast,no\n')
    assert read(path) == [
        *[(str(number), "good") for number in range(8)],
        ("8", ":10 a quote"),
        *[(str(number), "good") for number in range(9, 17)],
        ("17", ":20 fields here"),
        ("18", "last"),
    ]


def test_a_text_file_is_a_row_a_line(tmp_path):
    path = write(tmp_path / "texts.txt", b'a\r\n\n\xff\n{"text": 1}\nlast')
    assert read(path) == [("0", "a"), ("1", ":2 text"), ("2", ":3:1 byte 0xff is not UTF-8"), ("3", '{"text": 1}'),
                          ("4", "last")]  # fmt: skip


def test_an_input_may_be_several_rows_and_a_fault_in_it_is_one(tmp_path):
    path = write(tmp_path / "rows.json", json.dumps([{"parts": ["a", "b"]}, {"parts": []}, {"text": "c"}]))
    assert [text for _, text in read(path)] == ["a", "b", ":1 parts", "c"]


def test_rows_are_counted_and_faults_end_the_run_unless_they_are_kept(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{oops\n' + '{"text": ""}\n' * 22)
    with pytest.raises(UserError) as error:
        check_inputs(open_file(path), Task())
    lines = str(error.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "and 3 more; mend these and run it again"
    assert lines[0].startswith(f"{path}:2:2: invalid JSON") and lines[1] == f"{path}:3: text: it is empty; write a text"
    assert check_inputs(open_file(path), Task(), "keep") == 24


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"text": "a"}, {oops]', ":1:18: invalid JSON"),
        ("a.jsonl", "", ":1: the file is empty"),
        ("a.txt", "", ":1: the file is empty; write a text a line"),
        ("a.txt", "a\nb".encode("utf-16"), ":1:1: the file is UTF-16"),
        ("a.csv", "text,text\na,b\n", ":1: two columns are called 'text'"),
        ("a.conll", "a O\nb\n\nc O\n", ":2: columns here: 1, in line 1: 2"),
        ("a.parquet", "no", ":1: not a whole parquet file"),
    ],
)
def test_a_file_whose_rows_cannot_be_told_apart_is_refused_in_any_case(name, content, message, tmp_path):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as error:
        check_inputs(open_file(path), Task(), "keep")
    assert str(error.value).startswith(f"{path}{message}")


def test_a_file_that_is_not_there_or_of_no_known_format_is_refused(tmp_path):
    write(tmp_path / "texts.txt", "a")
    with pytest.raises(UserError, match=r"text.txt: no such file \(did you mean \"texts.txt\"\?\)"):
        open_file(tmp_path / "text.txt")
    with pytest.raises(UserError, match="rows.jsonl: no such file"):
        open_file(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"no known format has the suffix '.doc'; use one of .jsonl, .json, .*, .txt"):
        open_file(write(tmp_path / "a.doc", "a"))


def test_complaints_call_a_file_by_its_name(tmp_path):
    path = write(tmp_path / "kept.txt", "a\n\n")
    faults = [row.fault.place for row in read_inputs(InputFile(path, "stdin"), Task()) if row.fault]
    assert faults == ["stdin:2"]
