"""Faults of tables: CSV and TSV files, and the columns of CoNLL (group C)."""

from pathlib import Path

from tests.faults.fault import Fault, Finding, judge_survival, spread
from tests.faults.samples import (
    INPUTS,
    PAIR,
    evaluate,
    judge_rows,
    list_rows,
    read_predictions,
    refuse,
    write_csv,
    write_file,
)


def refuse_bare_header(recipe: str, folder: Path) -> Finding:
    header = write_csv(list_rows(recipe)).splitlines()[0] + "\n"
    return refuse(recipe, folder, header, ":1: 0 rows after the header; add rows", name="train.csv")


def refuse_latin_1_table(recipe: str, folder: Path) -> Finding:
    content = write_csv(list_rows(recipe)).encode() + b"\xe9t\xe9,x\n"
    lines = content.count(b"\n")
    pattern = rf":{lines}:1: byte 0xe9 is not UTF-8 .*looks like latin-1.*; save the file as UTF-8"
    return refuse(recipe, folder, content, pattern, name="train.csv")


def refuse_utf_16(recipe: str, folder: Path) -> Finding:
    content = write_csv(list_rows(recipe)).encode("utf-16")
    return refuse(recipe, folder, content, ":1:1: the file is UTF-16; save the file as UTF-8", name="train.csv")


def read_table(recipe: str, folder: Path) -> Finding:
    rows = list_rows(recipe, 8, "validation")
    return judge_rows(recipe, folder, rows, write_csv(rows), "validation.csv")


def read_quoted_newlines(recipe: str, folder: Path) -> Finding:
    """Texts of several lines; the places after them are those of an editor."""
    rows = list_rows(recipe, 8, "validation")
    text = 'She said:\n"Never,\nnever again."'
    rows[2] |= {INPUTS[recipe]: text}
    return judge_rows(recipe, folder, rows, write_csv(rows), "validation.csv")


def refuse_open_quote(recipe: str, folder: Path) -> Finding:
    """A quote opened in line 12 is never closed."""
    lines = write_csv([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(26)]).splitlines(keepends=True)
    lines[11] = '"' + lines[11]
    return refuse(recipe, folder, "".join(lines), r":12: a quote \(\"\) opened in this row is never closed, up to line "
                  r"27; close it", name="train.csv")  # fmt: skip


def refuse_swallowed_rows(recipe: str, folder: Path) -> Finding:
    """A quote opened in line 12 is closed by a stray one in line 23: twelve rows would be one text."""
    lines = write_csv([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(26)]).splitlines(keepends=True)
    lines[11] = '"' + lines[11]
    lines[22] = 'text 21",b\n'
    return refuse(recipe, folder, "".join(lines), r":12: a quote \(\"\) opened in this row swallows the rows up to "
                  r"line 23; close it", name="train.csv")  # fmt: skip


def refuse_extra_field(recipe: str, folder: Path) -> Finding:
    rows = list_rows(recipe)
    text = write_csv(rows[:1]) + "one,two,three,four\n"
    line = text.count("\n")
    fields = len(rows[0])
    return refuse(recipe, folder, text, rf":{line}: fields here: 4, in the header: {fields} \(.*\); put a text that",
                  name="train.csv")  # fmt: skip


def read_words_for_nothing(recipe: str, folder: Path) -> Finding:
    """NA, None and null are texts like any other."""
    rows = [row | {INPUTS[recipe]: text} for row, text in
            zip(list_rows(recipe, 4, "validation"), ["NA", "None", "null", "nan"], strict=True)]  # fmt: skip
    if recipe == "ner":
        rows = [row | {"tags": "O"} for row in rows]
    return judge_rows(recipe, folder, rows, write_csv(rows), "validation.csv")


def read_labels_for_nothing(recipe: str, folder: Path) -> Finding:
    """A label that is spelt as other programs write a missing value."""
    train = [{"text": f"text {n}", "label": ["NA", "None"][n % 2]} for n in range(8)]
    path = write_file(folder / "train.csv", write_csv(train))
    run = evaluate(recipe, folder, write_csv(train), "--train_file", path, name="validation.csv")
    return judge_survival(run, [row["label"] for row in read_predictions(folder)] == ["NA", "None"] * 4)


def refuse_semicolons(recipe: str, folder: Path) -> Finding:
    text = write_csv(list_rows(recipe), ";")
    return refuse(recipe, folder, text, r":1: one column .*\(separated by semicolons\?\); save the file with commas",
                  name="train.csv")  # fmt: skip


def read_tabs(recipe: str, folder: Path) -> Finding:
    rows = [
        {name: value if value.startswith("{") else value.replace('"', "'") for name, value in row.items()}
        for row in list_rows(recipe, 8, "validation")
    ]
    text = "\n".join("\t".join(values) for values in [list(rows[0]), *(row.values() for row in rows)]) + "\n"
    return judge_rows(recipe, folder, rows, text, "validation.tsv")


def read_columns(recipe: str, folder: Path) -> Finding:
    """CoNLL: a word and its tag a line, an empty line between sentences."""
    rows = list_rows(recipe, 8, "validation")
    sentences = (zip(row["tokens"].split(), row["tags"].split(), strict=True) for row in rows)
    text = "\n".join("".join(f"{word} {tag}\n" for word, tag in sentence) for sentence in sentences)
    return judge_rows(recipe, folder, rows, text, "validation.conll")


FAULTS = [
    Fault("C2", "a CSV file of nothing but its header", "obscure", "clear", spread("", refuse_bare_header, quick=PAIR)),
    Fault(
        "C24",
        "a byte of latin-1 in CSV; UTF-16",
        "obscure",
        "clear",
        spread("latin-1", refuse_latin_1_table, quick=("qa",))
        + spread("UTF-16", refuse_utf_16, quick=("translation",)),
    ),
    Fault("C29", "a sound CSV file", "obscure", "survives", spread("", read_table, quick=("sentiment", "qa"))),
    Fault(
        "C30",
        "line ends and quotes within a field of CSV",
        "obscure",
        "survives",
        spread("", read_quoted_newlines, tuple(recipe for recipe in INPUTS if recipe != "ner"), quick=("qa",)),
    ),
    Fault(
        "C31",
        "a quote that is not closed, or closed rows later",
        "silently wrong",
        "clear",
        spread("open", refuse_open_quote, ("sentiment",))
        + spread("closed later", refuse_swallowed_rows, ("sentiment",)),
    ),
    Fault("C32", "a field too many in a row of CSV", "obscure", "clear", spread("", refuse_extra_field, quick=PAIR)),
    Fault(
        "C33",
        "NA, None and null as texts and labels",
        "obscure",
        "survives",
        spread("texts", read_words_for_nothing, quick=("ner",))
        + spread("labels", read_labels_for_nothing, ("sentiment",)),
    ),
    Fault("C34", "semicolons between the columns", "obscure", "clear", spread("", refuse_semicolons, quick=PAIR)),
    Fault(
        "C35",
        "JSON lines, tabs and CoNLL",
        "clear",
        "survives",
        spread("tabs", read_tabs, quick=("sentiment",)) + spread("CoNLL", read_columns, ("ner",)),
    ),
]
