"""Faults of pairs of texts: translations and summaries that lack a side, or are cut (group C)."""

from functools import partial
from pathlib import Path

from common.metrics.summaries import Summaries
from common.metrics.translations import Translations
from tests.conftest import ROOT, read_jsonl
from tests.faults.fault import Case, Fault, Finding, judge_survival, spread
from tests.faults.samples import (
    INPUTS,
    OUTPUTS,
    change,
    evaluate,
    judge_words,
    list_rows,
    read_metrics,
    read_predictions,
    refuse,
    write_file,
)


def list_pairs(number: int = 24) -> list[dict]:
    """Pairs as the Hub has them."""
    rows = read_jsonl(ROOT / "recipes" / "translation" / "sample" / "train.jsonl")[:number]
    return [{"translation": {name: row["translation"][name] for name in ("en", "de")}} for row in rows]


def refuse_missing_language(recipe: str, folder: Path) -> Finding:
    rows = change(list_pairs(), 6, translation={"en": "A cat."})
    return refuse(recipe, folder, rows, ':6: "de" is missing; give every row a value')


def refuse_other_language(recipe: str, folder: Path) -> Finding:
    """The files have English and German, and French is asked for."""
    pattern = (
        ':1: no column "fr" or "target", the columns are en, de, the first row is .*; rename it in the data or set'
    )
    return refuse(recipe, folder, list_pairs(), pattern, "--target_lang", "fr")


def refuse_side(value: object, what: str, split: str, recipe: str, folder: Path) -> Finding:
    """A pair whose second text is nothing, in the rows that are learnt or in those that are scored."""
    column = OUTPUTS[recipe]
    rows = change(list_rows(recipe, 8, split), 7, **{column: value})
    name = {"translation": "target"}.get(recipe, column)
    pattern = {
        "null": f':7: "{column}" is null; give every row a value',
        "empty": f":7: {name}: it is empty; write a text",
    }[what]
    return refuse(recipe, folder, rows, pattern, name="some.jsonl", split=split)


def warn_of_copies(recipe: str, folder: Path) -> Finding:
    """In nine of 24 rows both sides are the same: more than a fifth."""
    rows = list_rows(recipe)
    for row in rows[:9]:
        row[OUTPUTS[recipe]] = row[INPUTS[recipe]]
    train = write_file(folder / "train.jsonl", rows)
    run = evaluate(recipe, folder, list_rows(recipe, 8, "validation"), "--train_file", train)
    names = {"translation": "source and target", "summarization": "document and summary"}[recipe]
    said = f"Warning: train: 9 of 24 rows have the same text as {names}"
    return judge_words(run, said, is_right="Warning: validation" not in run.stdout)


def score_long_references(recipe: str, folder: Path) -> Finding:
    """References of 500 words where targets are cut to 16 pieces: the scores are those against all their words."""
    column = {"translation": "target", "summarization": "summary"}[recipe]
    rows = list_rows(recipe, 4, "validation")
    rows[1][OUTPUTS[recipe]] = " ".join(f"word{number}" for number in range(500))
    run = evaluate(recipe, folder, rows, "--max_target_length", "16")
    predicted = read_predictions(folder)
    if run.code or [row[column] for row in predicted] != [row[OUTPUTS[recipe]] for row in rows]:
        return judge_survival(run, False)
    texts, golds = ([row[name] for row in predicted] for name in (f"predicted_{column}", column))
    metric, name = (Translations("de", None, False), "chrf") if recipe == "translation" else (Summaries(None), "rougeL")
    expected = metric.compute(predictions=texts, references=golds)[name]
    said = r"the end of longer targets is cut off \(train \d+ of 32, validation \d of 4\)"
    return judge_words(run, said, is_right=read_metrics(folder)[f"validation_{name}"] == expected)


def refuse_missing_summary_column(recipe: str, folder: Path) -> Finding:
    rows = [{"document": row["document"], "summery": row["summary"]} for row in list_rows(recipe)]
    pattern = ':1: no column "summary" or "highlights" or "title", the columns are document, summery '
    return refuse(recipe, folder, rows, pattern + r'\(did you mean "summery"\?\), .*; rename it in the data or set')


def refuse_list(recipe: str, folder: Path) -> Finding:
    rows = change(list_rows(recipe), 7, document=["One.", "Two."])
    return refuse(recipe, folder, rows, r":7: document: it is \['One.', 'Two.'\]; write a text")


BOTH, TRANSLATION, SUMMARIZATION = ("translation", "summarization"), ("translation",), ("summarization",)


def spread_sides(what: str, value: object, recipes: tuple[str, ...]) -> tuple[Case, ...]:
    return spread(f"{what}, train", partial(refuse_side, value, what, "train"), recipes) + spread(
        f"{what}, validation", partial(refuse_side, value, what, "validation"), recipes
    )


FAULTS = [
    Fault(
        "C61",
        "a language that is missing in one row",
        "obscure",
        "clear",
        spread("", refuse_missing_language, TRANSLATION),
    ),
    Fault(
        "C62",
        "another language than the files have",
        "obscure",
        "clear",
        spread("", refuse_other_language, TRANSLATION),
    ),
    Fault("C63", "a translation without text", "survives", "clear", spread_sides("empty", "", TRANSLATION)),
    Fault("C64", "a translation that is null", "obscure", "clear", spread_sides("null", None, TRANSLATION)),
    Fault("C65", "the same text on both sides", "survives", "survives", spread("", warn_of_copies, BOTH, TRANSLATION)),
    Fault(
        "C66",
        "references that are longer than targets may be",
        "silently wrong",
        "survives",
        spread("", score_long_references, BOTH),
    ),
    Fault(
        "C67",
        "a summary that is empty or null",
        "silently wrong",
        "clear",
        spread_sides("empty", "", SUMMARIZATION) + spread_sides("null", None, SUMMARIZATION),
    ),
    Fault(
        "C68", "no column with summaries", "clear", "clear", spread("", refuse_missing_summary_column, SUMMARIZATION)
    ),
    Fault("C69", "a document that is a list", "obscure", "clear", spread("", refuse_list, SUMMARIZATION)),
]
