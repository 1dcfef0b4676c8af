import csv
import json
import random
import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.files import read_parallel_rows, read_rows
from common.lines import Complaints

import datasets
import pyarrow
import pyarrow.parquet
import pytest


def write_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def list_faults(path: Path) -> list[str]:
    """The lines of the error, without the path that each must begin with."""
    with pytest.raises(UserError) as caught:
        list(read_rows(path))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    return [line.removeprefix(str(path)).removeprefix(":") for line in lines]


# What is fine


def test_bom_crlf_and_blank_lines_are_fine_in_jsonl(tmp_path):
    path = write_file(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "\xc3\xa9"}\r\n   \n{"text": "c"}'
    )
    assert list(read_rows(path)) == [(1, {"text": "a"}), (3, {"text": "é"}), (5, {"text": "c"})]


def test_a_suffix_may_be_written_in_capitals(tmp_path):
    assert list(read_rows(write_file(tmp_path / "A.JSONL", '{"a": 1}'))) == [(1, {"a": 1})]


def test_json_may_be_an_array_and_each_element_has_its_line(tmp_path):
    path = write_file(tmp_path / "a.json", '[{"a": 1}, {"a": 2},\n\n  {"a":\n3},\n{"a": 4}]\n')
    assert list(read_rows(path)) == [(1, {"a": 1}), (1, {"a": 2}), (3, {"a": 3}), (5, {"a": 4})]


def test_json_may_be_an_object_with_the_rows_under_data(tmp_path):
    text = '{"version": {"data": [0]},\n "data": [\n {"a": 1},\n {"a": 2}],\n "more": []}'
    assert list(read_rows(write_file(tmp_path / "a.json", text))) == [(3, {"a": 1}), (4, {"a": 2})]
    text = '{"data": [{"a": 1}]}'
    assert list(read_rows(write_file(tmp_path / "b.json", text))) == [(1, {"a": 1})]


def test_json_may_be_json_lines(tmp_path):
    path = write_file(tmp_path / "a.json", '\ufeff{"data": [1]}\n{"data": [2]}\n')
    assert list(read_rows(path)) == [(1, {"data": [1]}), (2, {"data": [2]})]
    assert list(read_rows(write_file(tmp_path / "b.json", '{"a": 1}'))) == [(1, {"a": 1})]


def test_escaped_characters_are_whole_characters(tmp_path):
    path = write_file(tmp_path / "a.jsonl", r'{"a": "\ud83d\ude00", "b": "\\ud800", "c": "NaN"}')
    assert list(read_rows(path)) == [(1, {"a": "😀", "b": r"\ud800", "c": "NaN"})]


def test_csv_values_stay_the_text_that_they_are(tmp_path):
    path = write_file(tmp_path / "a.csv", 'text,label\nNA,null\nNone,007\n,1.50\n he said "no" ,x\n')
    assert [row for _, row in read_rows(path)] == [
        {"text": "NA", "label": "null"},
        {"text": "None", "label": "007"},
        {"text": "", "label": "1.50"},
        {"text": ' he said "no" ', "label": "x"},
    ]


def test_csv_fields_in_quotes_may_hold_commas_quotes_and_line_ends(tmp_path):
    path = write_file(tmp_path / "a.csv", 'text,label\r\n"a, ""b""\r\n\r\nc",1\r\n\r\nd,0\r\n')
    assert list(read_rows(path)) == [(2, {"text": 'a, "b"\n\nc', "label": "1"}), (6, {"text": "d", "label": "0"})]


def test_csv_addresses_on_two_lines_are_not_taken_for_swallowed_rows(tmp_path):
    path = write_file(tmp_path / "a.csv", 'text,label\n"Smith, John\nBerlin",1\n' + "x,0\n" * 9)
    assert next(read_rows(path)) == (2, {"text": "Smith, John\nBerlin", "label": "1"})
    assert len(list(read_rows(path))) == 10


def test_csv_texts_may_be_longer_than_the_csv_module_allows(tmp_path):
    path = write_file(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")
    assert [len(row["text"]) for _, row in read_rows(path)] == [200_000]


def test_a_quote_is_a_letter_in_tsv(tmp_path):
    path = write_file(tmp_path / "a.tsv", 'text\tlabel\n"an open quote\t1\n"Hello"\t0\n')
    assert list(read_rows(path)) == [
        (2, {"text": '"an open quote', "label": "1"}),
        (3, {"text": '"Hello"', "label": "0"}),
    ]


CONLL = """-DOCSTART- -X- O O

# id = 1
EU NNP B-NP B-ORG
rejects VBZ B-VP O


# O O O
1\tCD\tO\tO
"""


def test_conll_sentences_carry_the_first_and_the_last_column(tmp_path):
    for name in ("a.conll", "a.bio", "a.iob", "a.iob2", "a.bioes"):
        assert list(read_rows(write_file(tmp_path / name, CONLL))) == [
            (4, {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
            (8, {"tokens": ["#", "1"], "tags": ["O", "O"]}),
        ]


def test_conll_with_one_column_has_no_tags(tmp_path):
    path = write_file(tmp_path / "a.conll", "EU\nrejects\n\nGerman")
    assert list(read_rows(path)) == [(1, {"tokens": ["EU", "rejects"]}), (4, {"tokens": ["German"]})]


def test_conll_tokens_may_be_white_space_other_than_space_and_tab(tmp_path):
    path = write_file(tmp_path / "a.conll", "\u3000\tO\n\u00a0\tB-X\n")
    assert list(read_rows(path)) == [(1, {"tokens": ["\u3000", "\u00a0"], "tags": ["O", "B-X"]})]


def test_parquet_rows_are_counted_from_one_and_classes_are_named(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"]))}
    )
    rows = {"text": ["a", None], "tags": [[0, 1], [-1]]}
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    assert list(read_rows(path)) == [(1, {"text": "a", "tags": ["O", "B-X"]}), (2, {"text": None, "tags": [None]})]


# What is not UTF-8


def test_a_byte_of_latin_1_is_named_with_its_line_and_column(tmp_path):
    path = write_file(tmp_path / "a.jsonl", b'{"text": "a"}\n' + '{"text": "é'.encode() + b'caf\xe9"}\n')
    assert list_faults(path) == ["2:15: byte 0xe9 is not UTF-8 (the file looks like latin-1); save the file as UTF-8"]


def test_chinese_bytes_that_are_not_utf_8_look_like_gbk(tmp_path):
    path = write_file(tmp_path / "a.csv", "text\n中文\n".encode("gbk"))
    assert list_faults(path) == ["2:1: byte 0xd6 is not UTF-8 (the file looks like GBK); save the file as UTF-8"]


def test_a_file_cut_inside_a_character_is_named_so(tmp_path):
    path = write_file(tmp_path / "a.conll", "中".encode()[:2])
    assert list_faults(path) == ["1:1: byte 0xe4 is not UTF-8 (the file ends inside a character); copy the file again"]


def test_utf_16_is_named_once_with_its_mark_and_by_its_zero_bytes_without(tmp_path):
    path = write_file(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\n'.encode("utf-16"))
    assert list_faults(path) == ["1:1: the file is UTF-16; save the file as UTF-8"]
    path = write_file(tmp_path / "b.jsonl", '{"a": 1}'.encode("utf-16-le"))
    assert list_faults(path) == ["1:2: byte 0x00 is not text (is the file UTF-16?); save the file as UTF-8"]


def test_the_replacement_character_itself_is_fine(tmp_path):
    assert list(read_rows(write_file(tmp_path / "a.jsonl", '{"a": "\ufffd"}'))) == [(1, {"a": "\ufffd"})]


def test_a_csv_row_with_a_bad_byte_is_refused_and_the_next_row_is_read(tmp_path):
    path = write_file(tmp_path / "a.csv", b"text,label\nx\xe9,1\ny,2,3\n")
    assert list_faults(path) == [
        "2:2: byte 0xe9 is not UTF-8 (the file looks like latin-1); save the file as UTF-8",
        "3: fields here: 3, in the header: 2 (text, label); put a text that holds a comma in quotes",
    ]


def test_a_row_is_never_taken_for_a_header_that_has_a_bad_byte(tmp_path):
    path = write_file(tmp_path / "a.csv", b"text,\xe9\na,1\na,1,2\n")
    assert list_faults(path) == ["1:6: byte 0xe9 is not UTF-8 (the file looks like latin-1); save the file as UTF-8"]


# JSON

JSON_FAULTS = [
    ('{"a": 1, "b" 2}\n', "1:14: invalid JSON: Expecting ':' delimiter; write one whole JSON object on each line"),
    ('{"a": 1 "b": 2}\n', "1:9: invalid JSON: Expecting ',' delimiter; write one whole JSON object on each line"),
    ('{"a": 1} {"b": 2}\n', "1:10: invalid JSON: Extra data; write one whole JSON object on each line"),
    ("{'a': 1}\n", "1:2: invalid JSON: Expecting property name enclosed in double quotes; "
                   "write one whole JSON object on each line"),
    ('{"a": "x\ty"}\n', "1:9: invalid JSON: Invalid control character at; write one whole JSON object on each line"),
    ('{"a": 1}\n{"a": "b', "2:7: invalid JSON: Unterminated string starting at; "
                           "the file ends inside this line, copy the file again"),
    ('{"a": 1, "b": 2, "a": 3}\n', '1: the key "a" is there twice; remove one'),
    ('{"x": {"a": 1, "a": 1}}\n', '1: the key "a" is there twice; remove one'),
    ('\n[1, 2]\n', '2:1: the row is a list; write an object as in {"text": "..."}'),
    ('  "a"\n', '1:3: the row is a text; write an object as in {"text": "..."}'),
    ("12\n", '1:1: the row is a number; write an object as in {"text": "..."}'),
    ("null\n", '1:1: the row is null; write an object as in {"text": "..."}'),
    ("true\n", '1:1: the row is true or false; write an object as in {"text": "..."}'),
    ('{"t": "NaN", "a": NaN}\n', "1:19: NaN is no JSON number; write a number or null"),
    ('{"a": [1, -Infinity]}\n', "1:11: -Infinity is no JSON number; write a number or null"),
    ('{"t": "1e999", "a": 1e999}\n', "1:21: 1e999 is beyond the largest number; write a smaller one"),
    (r'{"a": "b\ud800"}', r"1:9: \ud800 is half a character (a lone surrogate); write the whole character"),
    (r'{"a": "\\\uDE00\ud83d"}', r"1:10: \uDE00 is half a character (a lone surrogate); write the whole character"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), JSON_FAULTS)
def test_each_json_fault_is_named_with_line_and_column(tmp_path, text, fault):
    assert list_faults(write_file(tmp_path / "a.jsonl", text)) == [fault]


def test_numbers_and_brackets_beyond_what_python_reads_are_refused(tmp_path):
    text = '{"a": ' + "1" * 5000 + '}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
    first, second = list_faults(write_file(tmp_path / "a.jsonl", text))
    assert first.startswith("1:1: invalid JSON: Exceeds the limit (4300 digits)")
    assert second.startswith("2:1: invalid JSON: maximum recursion depth exceeded")


def test_one_fault_does_not_stop_the_reading_of_jsonl(tmp_path):
    path = write_file(tmp_path / "a.jsonl", '{"a" 1}\n{"a": 2}\n[]\n{"a": 4}\n')
    rows = read_rows(path)
    assert [next(rows), next(rows)] == [(2, {"a": 2}), (4, {"a": 4})]
    with pytest.raises(UserError, match="1:6.*\n.*3:1"):
        next(rows)


def test_twenty_faults_are_shown_and_the_others_counted(tmp_path):
    path = write_file(tmp_path / "a.jsonl", "[]\n" * 47)
    faults = list_faults(path)
    assert [fault.split(":")[0] for fault in faults[:20]] == [str(line) for line in range(1, 21)]
    assert faults[20:] == [" and 27 more; mend these and run it again"]


def test_faults_in_a_json_array_have_their_lines_and_columns(tmp_path):
    text = '[{"a": 1}, 3,\n {"b": 1, "b": 2},\n\n  {"c": NaN}, {"d": "\\ud800"},\n {"e" 2}]'
    assert list_faults(write_file(tmp_path / "a.json", text)) == [
        '1:12: the row is a number; write an object as in {"text": "..."}',
        '2: the key "b" is there twice; remove one',
        "4:9: NaN is no JSON number; write a number or null",
        r"4:22: \ud800 is half a character (a lone surrogate); write the whole character",
        "5:7: invalid JSON: Expecting ':' delimiter; mend it there",
    ]


JSON_DOCUMENT_FAULTS = [
    ('[{"a": 1},\n{"a": 2},]', "2:10: invalid JSON: Expecting value; mend it there"),
    ('[{"a": 1}\n{"a": 2}]', "2:1: invalid JSON: Expecting ',' delimiter; mend it there"),
    ('[{"a": 1}]\n[{"a": 2}]', "2:1: invalid JSON: Extra data; mend it there"),
    ('[{"a": 1},\n', "2:1: invalid JSON: Expecting value; mend it there"),
    ('{"data": [{"a": 1},\n3]}', '2:1: the row is a number; write an object as in {"text": "..."}'),
    ('{"train": [],\n"test": []}',
     '1: one object (train, test) is no list of rows; use [...], {"data": [...]} or one object a line'),
    ('"text"', '1:1: the row is a text; write an object as in {"text": "..."}'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), JSON_DOCUMENT_FAULTS)
def test_each_fault_of_a_json_document_is_named_with_line_and_column(tmp_path, text, fault):
    assert list_faults(write_file(tmp_path / "a.json", text)) == [fault]


# CSV and TSV

CLOSE = 'close it or write it twice ("")'
CSV_FAULTS = [
    ("text,label\na\nb,1\n", "2: fields here: 1, in the header: 2 (text, label); "
                             "put a text that holds a comma in quotes"),
    ("text,label\n\nc,d,1\n", "3: fields here: 3, in the header: 2 (text, label); "
                              "put a text that holds a comma in quotes"),
    ("text,text\na,b\n", "1: two columns are called 'text'; rename one of them"),
    ("text,,label\na,b,c\n", "1: column 2 has no name; the first line must name every column"),
    ("text;label\na;b\n", "1: one column 'text;label' (separated by semicolons?); "
                          "save the file with commas between columns"),
    ("text\tlabel\na\tb\n", "1: one column 'text\\tlabel' (separated by tabs?); "
                            "save the file with commas between columns"),
    ("text,label\na,1\n\"b,1\nc,0\nd,0\n",
     f'3: a quote (") opened in this row is never closed, up to line 5; {CLOSE}'),
    ('text,label\na,1\n"b,1\nc,0\nhe said "hi" to me,0\ne,1\n',
     f'3: a quote (") opened in this row swallows the text up to line 5; {CLOSE}'),
    ('text,label\na,1\n"b,1\nc,0\nthe end",0\ne,1\nf,0\n',
     f'3: a quote (") opened in this row swallows the rows up to line 5; {CLOSE}'),
    ('text,label\n"a" b,1\n', '2: text follows a closing quote ("); write a quote inside a quoted text twice ("")'),
    ("text,label\ra,1\r", "1: a carriage return within the row; "
                          "save the file with plain line ends or put the text in quotes"),
    ("text,label\n", "1: 0 rows after the header; add rows or leave the file out"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), CSV_FAULTS)
def test_each_csv_fault_is_named_with_its_line(tmp_path, text, fault):
    assert list_faults(write_file(tmp_path / "a.csv", text)) == [fault]


def test_one_fault_does_not_stop_the_reading_of_csv(tmp_path):
    path = write_file(tmp_path / "a.csv", 'text,label\na\nb,1\n"c" x,1\nd,1\ne,2,3\n')
    assert [fault.split(":")[0] for fault in list_faults(path)] == ["2", "4", "6"]


def test_tsv_rows_quoted_as_in_csv_are_refused(tmp_path):
    path = write_file(tmp_path / "a.tsv", 'text\tlabel\n"He said ""hi"""\t1\n"b\t2\t3\n')
    assert list_faults(path) == [
        "2: text is quoted as in CSV, but a quote is a letter in TSV; save the rows as .csv or .jsonl",
        "3: fields here: 3, in the header: 2 (text, label); no text can hold a tab or line end",
    ]


def test_a_tsv_file_with_commas_is_named_so(tmp_path):
    path = write_file(tmp_path / "a.tsv", "text,label\na,1\n")
    assert list_faults(path) == [
        "1: one column 'text,label' (separated by commas?); save the file with tabs between columns"
    ]


# CoNLL and parquet


def test_conll_rows_with_another_number_of_columns_are_refused(tmp_path):
    path = write_file(tmp_path / "a.conll", "\nEU B-ORG\nx y O\n\na O\n\nb\n")
    rows = read_rows(path)
    assert next(rows) == (5, {"tokens": ["a"], "tags": ["O"]})
    assert list_faults(path) == [
        "3: columns here: 3, in line 2: 2; give all the same",
        "7: columns here: 1, in line 2: 2; give all the same",
    ]


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (fault,) = list_faults(write_file(tmp_path / "a.parquet", "PAR1 but no more than that"))
    assert fault.startswith("1: not a whole parquet file (Parquet magic bytes not found")
    assert fault.endswith("; write it again")


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    fault = "1: two columns have the same name (text, text); rename one of them"
    assert list_faults(tmp_path / "a.parquet") == [fault]


# The file itself


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".conll"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    path = write_file(tmp_path / f"a{suffix}", "")
    assert list_faults(path) == ["1: the file is empty; add rows or leave the file out"]
    path = write_file(tmp_path / f"b{suffix}", "\n \n")
    assert list_faults(path) == ["1: the file holds no rows; add rows or leave the file out"]


def test_an_array_and_a_parquet_file_without_rows_are_refused(tmp_path):
    path = write_file(tmp_path / "a.json", "[]")
    assert list_faults(path) == ["1: the file holds no rows; add rows or leave the file out"]
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), tmp_path / "a.parquet")
    assert list_faults(tmp_path / "a.parquet") == ["1: the file holds no rows; add rows or leave the file out"]


def test_a_missing_file_is_told_with_the_place_and_the_nearest_name(tmp_path, monkeypatch):
    write_file(tmp_path / "train.jsonl", "{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read_rows("trian.jsonl")
    assert str(caught.value) == (
        f'trian.jsonl: no such file, looked for {tmp_path}/trian.jsonl (did you mean "train.jsonl"?); '
        "check the name and the directory that you start from."
    )
    with pytest.raises(UserError, match="data/train.jsonl: no such directory, looked for /.*; check the name"):
        read_rows("data/train.jsonl")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a directory, not a file; name the files in it, as in .*/\*\.jsonl"):
        read_rows(tmp_path)


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no known format has the suffix '.txt'; use one of .jsonl, .json, .csv, .tsv"):
        read_rows(write_file(tmp_path / "a.txt", "a"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem can be opened but not read")
def test_a_file_that_cannot_be_read_is_told_without_traceback(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"a.jsonl: cannot be read \(Input/output error\); check the file"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_what_a_user_sees_is_the_message_and_no_traceback(tmp_path):
    path = write_file(tmp_path / "a.jsonl", '{"a" 1}')
    code = f"import common.errors as e, common.files as f; e.install_error_hook(); list(f.read_rows({str(path)!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        f"error: {path}:1:6: invalid JSON: Expecting ':' delimiter; write one whole JSON object on each line\n"
    )


# What is written is what is read

LETTERS = "ab \t\n\"',;#\\/é中😀\u3000\u00a0\u2028\u0085\ufffd\x1f{}[]-"


def draw_text(draw: random.Random, letters: str, shortest: int = 0) -> str:
    return "".join(draw.choice(letters) for _ in range(draw.randint(shortest, 12)))


@pytest.mark.parametrize("seed", range(20))
def test_random_rows_are_read_back_as_they_were_written(tmp_path, seed):
    draw = random.Random(seed)
    rows = [{"text": draw_text(draw, LETTERS), "label": draw_text(draw, LETTERS)} for _ in range(50)]
    nested = [{**row, "n": draw.random(), "list": [{"x": row["text"], "y": None}, [True, 10**12]]} for row in rows]

    write_file(tmp_path / "a.jsonl", "".join(json.dumps(row, ensure_ascii=seed % 2 == 0) + "\n" for row in nested))
    assert [row for _, row in read_rows(tmp_path / "a.jsonl")] == nested
    write_file(tmp_path / "a.json", json.dumps(nested, ensure_ascii=False, indent=seed % 3 or None))
    assert [row for _, row in read_rows(tmp_path / "a.json")] == nested
    write_file(tmp_path / "b.json", json.dumps({"v": "]", "data": nested}, ensure_ascii=False, indent=seed % 3 or None))
    assert [row for _, row in read_rows(tmp_path / "b.json")] == nested

    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], quoting=(csv.QUOTE_MINIMAL, csv.QUOTE_ALL)[seed % 2])
        writer.writeheader()
        writer.writerows(rows)
    assert [row for _, row in read_rows(tmp_path / "a.csv")] == rows

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == list(enumerate(rows, start=1))


@pytest.mark.parametrize("seed", range(20))
def test_random_sentences_are_read_back_as_they_were_written(tmp_path, seed):
    draw = random.Random(seed)
    letters = LETTERS.translate(str.maketrans("", "", " \t\n"))
    rows, text, line = [], "-DOCSTART- O\n\n", 3
    for _ in range(50):
        size = draw.randint(1, 9)
        tokens = [draw_text(draw, letters, shortest=1) for _ in range(size)]
        tags = [draw.choice(["O", "B-X", "I-X"]) for _ in range(size)]
        rows.append((line, {"tokens": tokens, "tags": tags}))
        text += "".join(f"{token}{draw.choice([' ', chr(9)])}{tag}\n" for token, tag in zip(tokens, tags, strict=True))
        text += "\n"
        line += size + 1
    assert list(read_rows(write_file(tmp_path / "a.conll", text))) == rows


# Text files that belong together line by line


def read_parallel(source: Path, target: Path | None) -> tuple[list[tuple[int, dict]], list[str]]:
    """The rows, and the lines of complaint."""
    complaints = Complaints(str(source))
    return list(read_parallel_rows(source, target, ("en", "de"), complaints)), complaints.list_lines()


def test_two_text_files_give_a_row_for_every_line(tmp_path):
    source = write_file(tmp_path / "a.en", "yes\n\nno, thanks\t\n\u2028x\x0by")
    target = write_file(tmp_path / "a.de", b"\xef\xbb\xbfja\r\n \r\nnein\r\nx\n")
    rows, faults = read_parallel(source, target)
    assert faults == []
    assert rows == [
        (1, {"en": "yes", "de": "ja"}),
        (2, {"en": "", "de": " "}),
        (3, {"en": "no, thanks\t", "de": "nein"}),
        (4, {"en": "\u2028x\x0by", "de": "x"}),
    ]


def test_without_the_other_language_the_rows_are_the_sources_alone(tmp_path):
    rows, faults = read_parallel(write_file(tmp_path / "a.en", "yes\nno\n"), None)
    assert rows == [(1, {"en": "yes"}), (2, {"en": "no"})] and faults == []


def test_files_of_different_length_are_refused_at_the_first_line_that_stands_alone(tmp_path):
    source, target = write_file(tmp_path / "a.en", "1\n2\n3\n"), write_file(tmp_path / "a.de", "1\n2\n")
    rows, faults = read_parallel(source, target)
    assert rows == [] and faults == [f"{source}:3: 3 lines here, 2 in {target}; give each line its translation"]
    rows, faults = read_parallel(target, source)
    assert rows == [] and faults == [f"{target}:3: 2 lines here, 3 in {source}; give each line its translation"]


def test_faults_of_both_files_are_told_with_their_lines(tmp_path):
    source = write_file(tmp_path / "a.en", b"yes\nn\xf6\nmaybe\nfine\n")
    target = write_file(tmp_path / "a.de", b"ja\nnein\nv\xfcr\ngut\n")
    rows, faults = read_parallel(source, target)
    assert rows == [(1, {"en": "yes", "de": "ja"}), (4, {"en": "fine", "de": "gut"})]
    assert len(faults) == 2
    own, other = sorted(faults, key=lambda fault: str(target) in fault)
    assert own.startswith(f"{source}:2:2: byte 0xf6 is not UTF-8 ")
    assert f"{target}:3:2: byte 0xfc is not UTF-8 " in other


def test_an_empty_half_is_refused(tmp_path):
    source, target = write_file(tmp_path / "a.en", ""), write_file(tmp_path / "a.de", "")
    assert read_parallel(source, target) == ([], [f"{source}:1: the file is empty; add rows or leave the file out"])
    target = write_file(tmp_path / "a.de", "ja\n")
    assert read_parallel(source, target) == ([], [f"{source}:1: the file is empty; add rows or leave the file out"])
    rows, faults = read_parallel(target, source)
    assert rows == [] and faults == [f"{target}:1: 1 lines here, 0 in {source}; give each line its translation"]


@pytest.mark.parametrize("suffix", ["en", "de"])
def test_a_file_in_utf_16_is_told_once(tmp_path, suffix):
    for name in ("en", "de"):
        text = "yes\nno\n"
        write_file(tmp_path / f"a.{name}", text.encode("utf-16") if name == suffix else text)
    rows, faults = read_parallel(tmp_path / "a.en", tmp_path / "a.de")
    assert rows == [] and len(faults) == 1 and "UTF-16" in faults[0] and f"a.{suffix}" in faults[0]


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path):
    source = write_file(tmp_path / "a.en", "yes\n")
    with pytest.raises(UserError, match=r"b\.de: no such file"):
        read_parallel(source, tmp_path / "b.de")
    with pytest.raises(UserError, match="a directory, not a file"):
        read_parallel(tmp_path, None)


def test_a_parquet_file_that_is_damaged_inside_is_refused_by_its_line(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(8) + content[12:])  # the head of the first page; Arrow says so as an OSError
    (fault,) = list_faults(path)
    assert fault.startswith("1: not a whole parquet file (") and fault.endswith("); write it again")


def test_a_message_shows_control_characters_of_the_data_as_what_they_are(tmp_path):
    path = write_file(tmp_path / "a.csv", "te\x1b[2Jxt,label\na\n")
    assert list_faults(path) == [
        "2: fields here: 1, in the header: 2 (te\\x1b[2Jxt, label); put a text that holds a comma in quotes"
    ]
    path = write_file(tmp_path / "a.jsonl", '{"a\\nb": 1, "a\\nb": 2}')
    assert list_faults(path) == ['1: the key "a\\nb" is there twice; remove one']


def test_a_parquet_file_with_a_text_that_is_not_utf_8_is_refused(tmp_path):
    """Arrow writes and reads such bytes without a look at them; Python cannot make a text of them."""
    texts = pyarrow.array([b"a", b"\xff"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    (fault,) = list_faults(tmp_path / "a.parquet")
    assert fault.startswith("1: not a whole parquet file (a text of it is not UTF-8") and fault.endswith(
        "write it again"
    )


def test_a_quoted_empty_cell_is_a_row_of_a_table_with_one_column(tmp_path):
    (tmp_path / "a.csv").write_text('text\nx\n""\n\ny\n')
    assert list(read_rows(tmp_path / "a.csv")) == [(2, {"text": "x"}), (3, {"text": ""}), (5, {"text": "y"})]
