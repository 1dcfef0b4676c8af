"""Whether one run is better than another: `python -m common.compare outputs/a outputs/b`.

The rows that both predicted are scored anew from their predictions files: each headline score with the difference, its
interval and its p value, and the rows that one does better than the other.
"""

import argparse
import json
from pathlib import Path

from common.atomic_files import write_text
from common.console import draw_table, say
from common.errors import UserError, install_error_hook
from common.intervals import RESAMPLES, SHUFFLES, Difference, compare_tallies
from common.lines import name_some, shorten
from common.result_files import read_predictions, read_result
from common.tallies import GOLDS, ROW_SCORES, TEXTS, Tallied, name_unit, show_entry, tally_predictions

import numpy as np

SCORED_BY = ("language", "target_lang", "bleu_tokenizer")  # facts that decide how texts are compared
LONGEST = 200  # characters of a text that is shown


def read_runs(directories: list[Path], split: str) -> tuple[list[dict], list[dict], list[list[dict]]]:
    """The recipe.json, the metrics.json and the rows of a split of two runs, the second's in the order of the first."""
    recipes, metrics = zip(*map(read_result, directories), strict=True)
    first, second = recipes
    if first["task"] != second["task"]:
        raise UserError(f"{directories[0]} is a run of {first['task']}, {directories[1]} of {second['task']}.")
    if first["task"] not in GOLDS:
        raise UserError(f"{first['task']} is no task of these recipes: only {', '.join(GOLDS)} can be compared.")
    only = set(first.get("labels") or []) ^ set(second.get("labels") or [])
    if only and first["task"] == "text-classification":
        raise UserError(f"The runs know different labels: only one of them has {name_some(sorted(only))}.")
    rows = []
    for directory in directories:
        if not (directory / f"predictions_{split}.jsonl").is_file():
            there = sorted(path.stem.removeprefix("predictions_") for path in directory.glob("predictions_*.jsonl"))
            raise UserError(
                f"{directory} has no predictions for {split}: "
                + (f"give --split {there[0]}." if there else "none at all.")
            )
        try:
            rows.append(read_predictions(directory, split))
        except ValueError as error:
            raise UserError(f"{directory}/predictions_{split}.jsonl is damaged: {error}.") from error
    return list(recipes), list(metrics), [rows[0], align_rows(first["task"], *rows)]


def align_rows(task: str, first: list[dict], second: list[dict]) -> list[dict]:
    """The rows of the second in the order of the first, by id, or by place where rows have no ids.

    A UserError names the first row that is not in both, or has another text or gold answer there.
    """
    ids, others = ([row.get("id") for row in rows] for rows in (first, second))
    if ids != others and None not in (*ids, *others):
        for one, other, has, lacks in ((ids, others, "first", "second"), (others, ids, "second", "first")):
            known = set(other)
            missing = [name for name in one if name not in known]
            if missing:
                raise UserError(
                    f"The runs predicted different rows: {len(missing)} of the {has} run are not in the {lacks}, as id "
                    f"{missing[0]}. Compare runs on the same file."
                )
        places = {name: place for place, name in enumerate(others)}
        second = [second[places[name]] for name in ids]
    if len(first) != len(second):
        raise UserError(
            f"The runs predicted different rows: {len(first)} and {len(second)}. Compare runs on the same file."
        )
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        for name in ("replies",) if task == "text-generation" else (*TEXTS[task], "text_pair", *GOLDS[task]):
            values = [_list_given(row.get(name)) for row in (one, other)]
            if values[0] != values[1]:
                where = f"row {place + 1}" + (f" (id {one['id']})" if "id" in one else "")
                shown = " and ".join(shorten(json.dumps(value, ensure_ascii=False), LONGEST) for value in values)
                raise UserError(f"The runs predicted different rows: {name} of {where} is {shown}.")
    return second


def _list_given(value):
    """A value of a row without what was predicted: of the replies of a dialogue, turn, prompt and true reply."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{name: reply.get(name) for name in ("turn", "prompt", "reply")} for reply in value]
    return value


def list_changes(first: Tallied, second: Tallied) -> list[dict]:
    """The rows, of dialogues the replies, that have another score in the second run; the greatest changes first."""
    task, scores = first.task, [part.score_each() for part in (first, second)]
    changes = []
    for place in np.flatnonzero(np.abs(scores[1] - scores[0]) > 1e-9).tolist():
        one, other = (part.entries[place] for part in (first, second))
        shown = show_entry(task, one)
        change = {"row": one["row"] + 1} | {name: one[name] for name in ("id", "turn") if name in one}
        change |= {"score_a": round(float(scores[0][place]), 4), "score_b": round(float(scores[1][place]), 4)}
        change |= {"text": shown["text"], "gold": shown["gold"], "predicted_a": shown["predicted"]}
        changes.append(change | {"predicted_b": show_entry(task, other)["predicted"]})
    return sorted(changes, key=lambda change: -abs(change["score_b"] - change["score_a"]))


def draw_differences(recipe: dict, metrics: list[dict], split: str, differences: dict[str, Difference]) -> list[str]:
    """A table of the headline scores; those that the predictions alone do not give stand without interval."""
    table = [["score", "A", "B", "B - A", "95 % interval", "p"]]
    for name in recipe["headline"]:
        found = differences.get(name)
        if found is not None:
            bounds = f"[{found.low:+.4f}, {found.high:+.4f}]"
            numbers = [f"{found.first:.4f}", f"{found.second:.4f}", f"{found.value:+.4f}"]
            table.append([name, *numbers, bounds, f"{found.p_value:.4f}"])
        elif all(f"{split}_{name}" in part for part in metrics):
            first, second = (part[f"{split}_{name}"] for part in metrics)
            table.append([name, f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}", "-", "-"])
    return draw_table(table)


def say_changes(changes: list[dict], task: str, most: int) -> None:
    """How many rows, of dialogues replies, each run does better, and the greatest changes of each kind."""
    one, many = ("reply", "replies") if task == "text-generation" else ("row", "rows")
    for better, worse in ("AB", "BA"):
        kind = [row for row in changes if row[f"score_{better.lower()}"] > row[f"score_{worse.lower()}"]]
        shown = f", the first {most}" if most and len(kind) > most else ""
        number = f"{len(kind)} {one if len(kind) == 1 else many}"
        say(f"\n{better} has the higher {ROW_SCORES[task]} in {number}{shown}{':' if kind and most else ''}")
        for row in kind[:most]:
            place = f"row {row['row']}" + "".join(f", {part} {row[part]}" for part in ("id", "turn") if part in row)
            say(f"\n  {place}: {row['score_a']:g} -> {row['score_b']:g}")
            for title, column in (("text", "text"), ("gold", "gold"), ("A", "predicted_a"), ("B", "predicted_b")):
                say(f"    {title:<5} {shorten(' '.join(row[column].split()), LONGEST)}")


def read_command_line(arguments: list[str] | None = None) -> argparse.Namespace:
    """The two directories and the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m common.compare",
        description="Compare two runs on the rows that both predicted: differences with intervals and p values.",
        allow_abbrev=False,
    )
    parser.add_argument("first", metavar="RUN_A", type=Path, help="the output_dir of a finished run")
    parser.add_argument("second", metavar="RUN_B", type=Path, help="that of another run of the same task")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="which rows (default: test)")
    parser.add_argument("--examples", type=int, default=5, help="rows that are shown of each kind (default: 5)")
    parser.add_argument("--output", type=Path, help="a jsonl file for all rows that one run does better")
    flags = parser.parse_args(arguments)
    if flags.examples < 0:
        parser.error("--examples must be 0 or more")
    return flags


def main() -> None:
    """Compare the runs that the command line names."""
    install_error_hook()
    flags = read_command_line()
    directories = [flags.first, flags.second]
    if flags.output is not None and flags.output.is_dir():
        raise UserError(f"--output {flags.output} is a directory: give a file.")
    recipes, metrics, rows = read_runs(directories, flags.split)
    # Both by the settings of the first: by two measures they could not be compared.
    tallied = [tally_predictions(recipes[0], part) for part in rows]
    if not tallied[0].entries:
        raise UserError(f"No row of {flags.split} has a gold answer: there is nothing to compare.")
    changes = list_changes(*tallied)
    first, second = (part.group_by_row() for part in tallied)
    headline = [name for name in recipes[0]["headline"] if name in first]
    differences = compare_tallies({name: first[name] for name in headline}, {name: second[name] for name in headline})
    for letter, directory, recipe in zip("AB", directories, recipes, strict=True):
        say(f"{letter}  {directory} ({recipe.get('base_model')}, seed {recipe.get('seed')})")
    unit = name_unit(recipes[0]["task"])
    say(f"{flags.split}: {len(rows[0])} {unit}, of which {len(next(iter(first.values())).counts)} have a gold answer\n")
    for line in draw_differences(recipes[0], metrics, flags.split, differences):
        say(line)
    say(
        f"\nIntervals: paired bootstrap, {RESAMPLES} draws of {unit}; p: approximate randomisation, {SHUFFLES} draws, "
        "two-sided. Both tell of these rows only: another seed may change more (see common.leaderboard)."
    )
    for name in SCORED_BY:
        if recipes[0].get(name) != recipes[1].get(name):
            say(f"Both are scored with {name} {recipes[0].get(name)}; B was with {recipes[1].get(name)}.")
    say_changes(changes, recipes[0]["task"], flags.examples)
    if flags.output is not None:
        write_text(flags.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in changes))
        say(f"\n{len(changes)} rows written to {flags.output}")


if __name__ == "__main__":
    main()
