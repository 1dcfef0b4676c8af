"""Faults of the values in a file's rows: texts, labels, rows that return (group C, what all recipes share)."""

import json
import random
from functools import partial
from pathlib import Path

from tests.faults.fault import Fault, Finding, spread
from tests.faults.samples import (
    INPUTS,
    OUTPUTS,
    change,
    drop,
    evaluate,
    judge_words,
    list_rows,
    read_predictions,
    refuse,
    try_training,
    write_csv,
    write_file,
)

# What a recipe calls the column whose text it refuses.
NAMES = INPUTS | {"translation": "source"}
PAIR = ("ner", "dialogue")
UNSEEN = "\u202e"  # what follows is written from right to left


def refuse_missing_column(column: str, recipe: str, folder: Path) -> Finding:
    """The column is there by a name that is nearly the right one."""
    rows = [{f"{name}x" if name == column else name: value for name, value in row.items()} for row in list_rows(recipe)]
    found = ", ".join(rows[0])
    pattern = rf':1: no column .*"{column}".*, the columns are {found} \(did you mean "{column}x"\?\), '
    if recipe == "dialogue":
        pattern = (
            rf":1: .*({'no dialogue, the columns are' if column == 'prompt' else 'nothing to learn'}|speaks first)"
        )
    return refuse(recipe, folder, rows, pattern)


def refuse_number(recipe: str, folder: Path) -> Finding:
    """In one row the text is a number."""
    rows = change(list_rows(recipe), 14, **{INPUTS[recipe]: 5})
    what = "it is '5'; write a list of words" if recipe == "ner" else "it is 5; write a text"
    return refuse(recipe, folder, rows, f":14: {NAMES[recipe]}: {what}")


def refuse_numbers(recipe: str, folder: Path) -> Finding:
    """In all rows."""
    rows = [row | {INPUTS[recipe]: number} for number, row in enumerate(list_rows(recipe))]
    return refuse(recipe, folder, rows, rf":1: {NAMES[recipe]}: .*; write a (text|list of words)")


def refuse_missing_value(recipe: str, folder: Path) -> Finding:
    pattern = f':14: "{INPUTS[recipe]}" is missing; give every row a value'
    if recipe == "dialogue":
        pattern = ":14: completion: the assistant speaks first; let the user begin"
    return refuse(recipe, folder, drop(list_rows(recipe), 14, INPUTS[recipe]), pattern)


def refuse_null(recipe: str, folder: Path) -> Finding:
    pattern = f':14: "{INPUTS[recipe]}" is null; give every row a value'
    if recipe == "dialogue":
        pattern = ":14: completion: the assistant speaks first; let the user begin"
    return refuse(recipe, folder, change(list_rows(recipe), 14, **{INPUTS[recipe]: None}), pattern)


def refuse_empty(text: str, recipe: str, folder: Path) -> Finding:
    what = (
        "it is .+; write a list of words"
        if recipe == "ner"
        else f"it is {'empty' if not text else repr(text)}; write a"
    )
    rows = change(list_rows(recipe), 14, **{INPUTS[recipe]: text})
    return refuse(recipe, folder, rows, f":14: {NAMES[recipe]}: {what}")


def refuse_null_answer(recipe: str, folder: Path) -> Finding:
    pattern = f':14: "{OUTPUTS[recipe]}" is null; give every row a value'
    if recipe == "dialogue":
        pattern = ":14: no message of the assistant, nothing to learn; add its reply"
    return refuse(recipe, folder, change(list_rows(recipe), 14, **{OUTPUTS[recipe]: None}), pattern)


def refuse_typo(recipe: str, folder: Path) -> Finding:
    """A label in other capitals, with a space behind it, would be a third class."""
    rows = change(list_rows(recipe), 14, label="Positive ")
    return refuse(recipe, folder, rows, ":14: label 'Positive' is 'positive' in other rows; write both alike, or name "
                  "all labels in class_names if they differ")  # fmt: skip


def refuse_typo_of_named(recipe: str, folder: Path) -> Finding:
    """Where the labels are named, every other one is refused."""
    rows = change(list_rows(recipe), 14, label="positve")
    pattern = (
        r":14: label 'positve' is not one of negative, neutral, positive \(did you mean \"positive\"\?\); correct it"
    )
    return refuse(recipe, folder, rows, pattern, "--class_names", "negative", "neutral", "positive")


def refuse_typed_type(recipe: str, folder: Path) -> Finding:
    rows = change(list_rows(recipe), 2, tokens="Ada", tags="B-prod")
    return refuse(recipe, folder, rows, ":2: tags: the type prod of word 1 is PROD in other rows; write both alike")


def refuse_new_label(recipe: str, folder: Path) -> Finding:
    rows = change(list_rows(recipe, 8, "validation"), 3, label="mixed")
    pattern = ":3: label 'mixed' is not one of negative, neutral, positive; correct it or set class_names"
    return refuse(recipe, folder, rows, pattern, name="some.jsonl", split="validation")


def refuse_label(value: object, what: str, recipe: str, folder: Path) -> Finding:
    return refuse(recipe, folder, change(list_rows(recipe), 14, label=value), f":14: label: {what}")


def refuse_fractions(recipe: str, folder: Path) -> Finding:
    rows = [row | {"label": 0.5 + number} for number, row in enumerate(list_rows(recipe))]
    return refuse(recipe, folder, rows, ":1: label: '0.5' is no label; write a text or a whole number")


def refuse_not_a_number(recipe: str, folder: Path) -> Finding:
    rows = change(list_rows(recipe), 14, label=float("nan"))
    return refuse(recipe, folder, rows, r":14:\d+: NaN is no JSON number; write a number or null")


def refuse_single_label(recipe: str, folder: Path) -> Finding:
    rows = [row | {"label": "good"} for row in list_rows(recipe)]
    return refuse(recipe, folder, rows, r":1: the 24 training rows have only one label \(good\), there is nothing to "
                  "learn; add rows with another label, or name all labels in class_names")  # fmt: skip


def warn_of_single_label(recipe: str, folder: Path) -> Finding:
    rows = [row | {"label": "positive"} for row in list_rows(recipe, 8, "validation")]
    run = evaluate(recipe, folder, rows)
    said = r"Warning: all 8 labelled validation rows have one label \(positive\): scores say little"
    return judge_words(run, said, is_right=len(read_predictions(folder)) == 8)


def warn_of_missing_entities(recipe: str, folder: Path) -> Finding:
    rows = [row | {"tags": " ".join("O" for _ in row["tags"].split())} for row in list_rows(recipe, 8, "validation")]
    said = "Warning: no entity in the 8 tagged validation rows: scores say little"
    return judge_words(evaluate(recipe, folder, rows), said, is_right=len(read_predictions(folder)) == 8)


def refuse_texts_as_labels(recipe: str, folder: Path) -> Finding:
    rows = [{"text": f"text {number}", "label": f"label {number}"} for number in range(5000)]
    content, more = write_csv(rows), ("--max_train_samples", "5000")
    labels = (
        r"5,000 different labels \(label 0, .*\), as texts have; set label_column_name to the column of the labels,"
    )
    return refuse(recipe, folder, content, f":2: the 5,000 training rows have {labels}", *more, name="train.csv")


def warn_of_repeated_rows(recipe: str, folder: Path) -> Finding:
    """Three of the rows that are scored were trained on."""
    train = list_rows(recipe)
    path = write_file(folder / "train.jsonl", train)
    rows = list_rows(recipe, 5, "validation") + train[:3]
    run = evaluate(recipe, folder, rows, "--train_file", path)
    said = "Warning: 3 of 8 validation rows are also training rows: they flatter the scores"
    return judge_words(run, said, is_right=len(read_predictions(folder)) == 8)


def tell_unseen_characters(recipe: str, folder: Path) -> Finding:
    """Two rows hold one; the text that is predicted has it still."""
    rows = list_rows(recipe, 8, "validation")
    for row in (rows[2], rows[5]):
        row |= {INPUTS[recipe]: f"{row[INPUTS[recipe]]} {UNSEEN}x"}
        row |= {"tags": f"{row['tags']} O"} if recipe == "ner" else {}
    run = evaluate(recipe, folder, rows)
    said = r"Note: validation: 2 of 8 rows hold control characters, which are kept: the first is U\+202E in .*:3\."
    predicted = read_predictions(folder)
    held = [number for number, row in enumerate(predicted) if UNSEEN in json.dumps(row, ensure_ascii=False)]
    return judge_words(run, said, is_right=held == [2, 5] and len(predicted) == 8)


def read_long_text(gap: str, recipe: str, folder: Path) -> Finding:
    """A million characters, with and without spaces: the run says how many rows it cuts."""
    rows = list_rows(recipe)
    letters = random.Random(0).choices("abcdefgh", k=1_000_000)
    long = gap.join("".join(letters[start : start + 4]) for start in range(0, len(letters), 4))
    if recipe == "qa":
        rows[3] |= {"context": f"{rows[3]['context']} {long}"}
    else:
        rows[3] |= {INPUTS[recipe]: long}
        rows[3] |= {"tags": " ".join("O" for _ in long.split())} if recipe == "ner" else {}
    return judge_words(try_training(recipe, folder, rows), CUT[recipe])


CUT = {
    "sentiment": r"the end of longer texts is cut off \(train 1 of 24\)",
    "ner": r"no word is left out, [01] are cut short",
    "translation": r"the end of longer sources is cut off \(train 1 of 24\)",
    "summarization": r"the end of longer sources is cut off \(train 1 of 24\)",
    "qa": r"up to 384 pieces, \d[\d,]+ more than questions; 0 answers fit into no window",
    "dialogue": r"the start of the last exchange cut off \(train 1 of 24\)",
}


def refuse_endless_text(recipe: str, folder: Path) -> Finding:
    column = "context" if recipe == "qa" else INPUTS[recipe]
    rows = change(list_rows(recipe), 14, **{column: "ab " * 3_400_000})
    name = (
        "messages"
        if recipe == "dialogue"
        else column
        if recipe == "qa"
        else {"translation": "source"}.get(recipe, column)
    )
    pattern = (
        rf":14: {name}: 10,2\d\d,\d\d\d characters, more than the 2,000,000 of max_chars .*; divide the row, or set"
    )
    return refuse(recipe, folder, rows, pattern)


LABELLED = ("sentiment",)
WRITERS = ("translation", "summarization", "dialogue")  # others read a word of 100 letters as unknown
FAULTS = [
    Fault(
        "C4",
        "a column that is missing",
        "obscure",
        "clear",
        spread("input", lambda recipe, folder: refuse_missing_column(INPUTS[recipe], recipe, folder), quick=PAIR)
        + spread(
            "output", lambda recipe, folder: refuse_missing_column(OUTPUTS[recipe], recipe, folder), quick=("qa",)
        ),
    ),
    Fault(
        "C5",
        "texts that are numbers",
        "obscure",
        "clear",
        spread("one", refuse_number, quick=PAIR) + spread("all", refuse_numbers, quick=("sentiment",)),
    ),
    Fault("C6", "a field that is missing in one row", "obscure", "clear", spread("", refuse_missing_value, quick=PAIR)),
    Fault(
        "C7", "a text that is null", "obscure", "clear", spread("", refuse_null, quick=("sentiment", "qa", "dialogue"))
    ),
    Fault(
        "C8",
        "a text that is empty, or all spaces",
        "survives",
        "clear",
        spread("empty", partial(refuse_empty, ""), quick=("ner", "qa", "dialogue"))
        + spread("spaces", partial(refuse_empty, "  "), quick=("translation",)),
    ),
    Fault(
        "C9",
        "a label, or an answer, that is null",
        "silently wrong",
        "clear",
        spread("", refuse_null_answer, quick=("sentiment", *PAIR)),
    ),
    Fault(
        "C10",
        "a label that is spelt in another way",
        "silently wrong",
        "clear",
        spread("capitals", refuse_typo, LABELLED)
        + spread("labels are named", refuse_typo_of_named, LABELLED)
        + spread("types", refuse_typed_type, ("ner",)),
    ),
    Fault("C11", "a label that only validation has", "survives", "clear", spread("", refuse_new_label, LABELLED)),
    Fault(
        "C12",
        "labels of several types",
        "obscure",
        "clear",
        spread("number", partial(refuse_label, 1, "1 is a number, in earlier rows it was a text; write all"), LABELLED)
        + spread(
            "list", partial(refuse_label, ["a"], "'a' is a list of labels, each a text, in earlier rows"), LABELLED
        ),
    ),
    Fault("C13", "labels with a decimal point", "silently wrong", "clear", spread("", refuse_fractions, LABELLED)),
    Fault("C14", "a label that is not a number", "silently wrong", "clear", spread("", refuse_not_a_number, LABELLED)),
    Fault("C15", "one label in all training rows", "clear", "clear", spread("", refuse_single_label, LABELLED)),
    Fault(
        "C16",
        "one label in all validation rows",
        "silently wrong",
        "survives",
        spread("", warn_of_single_label, LABELLED) + spread("no entity", warn_of_missing_entities, ("ner",)),
    ),
    Fault("C17", "as many labels as rows", "survives", "clear", spread("", refuse_texts_as_labels, LABELLED)),
    Fault(
        "C18",
        "training rows in validation",
        "silently wrong",
        "survives",
        spread("", warn_of_repeated_rows, quick=("sentiment", "qa")),
    ),
    Fault(
        "C26",
        "characters that nobody sees",
        "survives",
        "survives",
        spread("", tell_unseen_characters, quick=("sentiment", "ner")),
    ),
    Fault(
        "C27",
        "a text of a million characters",
        "survives",
        "survives",
        spread("with spaces", partial(read_long_text, " "), quick=("sentiment",))
        + spread("without", partial(read_long_text, ""), WRITERS, ()),
    ),
    Fault(
        "C28",
        "a text of ten million characters",
        "survives",
        "clear",
        spread("", refuse_endless_text, quick=("summarization",)),
    ),
]
