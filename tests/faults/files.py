"""Faults of data files: empty ones, broken JSON and text, and one that changes unseen (group C)."""

import json
import os
from pathlib import Path

from tests.faults.fault import Case, Fault, Finding, judge_survival, list_flags, run_recipe, spread
from tests.faults.samples import (
    INPUTS,
    LINES,
    OUTPUTS,
    PAIR,
    judge_rows,
    list_inputs,
    list_rows,
    read_predictions,
    refuse,
    try_training,
    write_file,
    write_json_lines,
)


def refuse_empty_file(recipe: str, folder: Path) -> Finding:
    return refuse(recipe, folder, "", ":1: the file is empty; add rows")


def refuse_empty_validation(recipe: str, folder: Path) -> Finding:
    return refuse(recipe, folder, "[]", ":1: the file holds no rows; add rows", name="some.json", split="validation")


def spoil_line(recipe: str, line: int, old: str, new: str) -> str:
    """The file with one line changed."""
    lines = write_json_lines(list_rows(recipe)).splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return "".join(lines)


def refuse_missing_comma(recipe: str, folder: Path) -> Finding:
    text = spoil_line(recipe, 14, f', "{OUTPUTS[recipe]}"', f' "{OUTPUTS[recipe]}"')
    column = text.splitlines()[13].index(f'"{OUTPUTS[recipe]}"') + 1
    return refuse(recipe, folder, text, rf":14:{column}: invalid JSON: Expecting ',' delimiter; write one whole")


def refuse_list_of_defects(recipe: str, folder: Path) -> Finding:
    """All lines but the first are wrong: twenty are shown, and the others counted."""
    lines = write_json_lines(list_rows(recipe, 30)).splitlines(keepends=True)
    path = folder / "train.jsonl"
    found = refuse(recipe, folder, lines[0] + "".join("{" + line for line in lines[1:]), ":2:2: ")
    told = [line.split(": ")[0] for line in found.evidence.removeprefix("error: ").splitlines()]
    wanted = [*(f"{path}:{line}:2" for line in range(2, 22)), str(path)]
    is_whole = told == wanted and found.evidence.endswith(": and 9 more; mend these and run it again")
    return found if is_whole else Finding("obscure", found.evidence)


def refuse_truncated_file(recipe: str, folder: Path) -> Finding:
    text = write_json_lines(list_rows(recipe))[:-10]
    return refuse(recipe, folder, text, rf":{LINES}:\d+: invalid JSON: .*; the file ends inside this line, copy")


def refuse_repeated_key(recipe: str, folder: Path) -> Finding:
    text = spoil_line(recipe, 3, "{", f'{{"{INPUTS[recipe]}": "twice", ')
    return refuse(recipe, folder, text, f':3: the key "{INPUTS[recipe]}" is there twice; remove one')


def read_bom_and_blank_lines(recipe: str, folder: Path) -> Finding:
    """A byte order mark, Windows' line ends and blank lines: every row is predicted, with its own text."""
    rows = list_rows(recipe, 8, "validation")
    text = write_json_lines(rows).replace("\n", "\r\n\r\n")
    return judge_rows(recipe, folder, rows, b"\xef\xbb\xbf" + text.encode(), "validation.jsonl")


def read_array(recipe: str, folder: Path) -> Finding:
    rows = list_rows(recipe, 8, "validation")
    return judge_rows(recipe, folder, rows, json.dumps(rows, indent=2), "validation.json")


def refuse_latin_1(recipe: str, folder: Path) -> Finding:
    """The eighth byte of the fourteenth row is an é as Western Windows writes it."""
    lines = write_json_lines(list_rows(recipe)).encode().splitlines(keepends=True)
    lines[13] = b'{"a": "\xe9", ' + lines[13][1:]
    content = b"".join(lines)
    return refuse(recipe, folder, content, ":14:8: byte 0xe9 is not UTF-8 .*looks like latin-1.*; save the file as UTF")


def refuse_raw_null(recipe: str, folder: Path) -> Finding:
    text = spoil_line(recipe, 5, "{", '{"a": "\0", ')
    return refuse(recipe, folder, text, r":5:8: byte 0x00 is not text .*; save the file as UTF-8")


def refuse_lone_surrogate(recipe: str, folder: Path) -> Finding:
    text = spoil_line(recipe, 5, "{", '{"a": "\\ud83d", ')
    return refuse(recipe, folder, text, r":5:8: \\ud83d is half a character .*; write the whole character")


def refuse_unknown_format(recipe: str, folder: Path) -> Finding:
    return refuse(recipe, folder, "x", r": no known format has the suffix '.xlsx'; use one of .jsonl, .json, .csv",
                  name="train.xlsx")  # fmt: skip


def train_on_two_rows(recipe: str, folder: Path) -> Finding:
    rows = list_rows(recipe)
    two = (
        rows[:2] if recipe != "sentiment" else [rows[0], next(row for row in rows if row["label"] != rows[0]["label"])]
    )
    run = try_training(recipe, folder, two)
    return judge_survival(run, "train 2 rows" in run.stdout)


def read_changed_file(recipe: str, folder: Path) -> Finding:
    """The rows of a file change, its name, size and time do not: the second run predicts the new rows."""
    rows = list_rows(recipe, 8, "validation")
    first, second = rows[:4] + rows[4:], rows[4:] + rows[:4]
    path = write_file(folder / "validation.jsonl", first)
    flags = list_flags(recipe, folder, "--validation_file", path, "--max_steps", "1")
    cache = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "home")}
    run = run_recipe(recipe, *flags, "--output_dir", folder / "first", **cache)
    before = path.stat()
    write_file(path, second)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if run.code == 0:
        run = run_recipe(recipe, *flags, **cache)
    is_new = list_inputs(recipe, read_predictions(folder)) == [row[INPUTS[recipe]] for row in second]
    return judge_survival(run, is_new)


FAULTS = [
    Fault("C1", "an empty file", "obscure", "clear", spread("", refuse_empty_file, quick=PAIR)),
    Fault("C3", "a validation file without rows", "obscure", "clear", spread("", refuse_empty_validation, quick=PAIR)),
    Fault(
        "C19",
        "one line is no JSON",
        "obscure",
        "clear",
        spread("", refuse_missing_comma, quick=PAIR)
        + (Case("sentiment, 29 lines", lambda folder: refuse_list_of_defects("sentiment", folder)),),
    ),
    Fault(
        "C20", "the file ends within its last line", "obscure", "clear", spread("", refuse_truncated_file, quick=PAIR)
    ),
    Fault("C21", "a key is there twice", "obscure", "clear", spread("", refuse_repeated_key, quick=PAIR)),
    Fault(
        "C22",
        "byte order mark, CRLF, blank lines; a JSON array",
        "survives",
        "survives",
        spread("", read_bom_and_blank_lines, quick=("sentiment",)) + spread("array", read_array, quick=("ner",)),
    ),
    Fault("C23", "a byte of latin-1 in JSON lines", "obscure", "clear", spread("", refuse_latin_1, quick=PAIR)),
    Fault(
        "C25",
        "a NUL byte; half a surrogate pair",
        "obscure",
        "clear",
        spread("NUL", refuse_raw_null, quick=("summarization",))
        + spread("surrogate", refuse_lone_surrogate, quick=("ner",)),
    ),
    Fault("C36", "two training rows", "obscure", "survives", spread("", train_on_two_rows, quick=("sentiment",))),
    Fault(
        "C76",
        "other rows in a file of the same name, size and time",
        "silently wrong",
        "survives",
        spread("", read_changed_file, quick=("ner",)),
    ),
]
