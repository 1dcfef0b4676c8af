"""Faults of the data: what is wrong with a file, or with one row of an otherwise good one (group C)."""

from functools import partial
from pathlib import Path

from tests.faults.fault import RECIPES, Case, Fault, Finding, judge_refusal, list_flags, run_recipe


def refuse_empty_file(recipe: str, folder: Path) -> Finding:
    path = folder / "train.jsonl"
    path.write_text("")
    run = run_recipe(recipe, *list_flags(recipe, folder, "--train_file", path))
    return judge_refusal(run, rf"{path}:1: the file is empty; ", absent=[folder / "result"])


FAULTS = [
    Fault(
        "C1", "an empty file", plain="obscure", wanted="clear",
        cases=tuple(Case(recipe, partial(refuse_empty_file, recipe)) for recipe in RECIPES),
    ),
]  # fmt: skip
