"""Rows to spoil: a few of each recipe's sample, written flat, and what a run does about a file of them."""

import csv
import io
import json
import re
from pathlib import Path

from tests.conftest import ROOT, read_jsonl
from tests.faults.fault import Finding, judge_refusal, judge_survival, list_flags, run_recipe
from tests.faults.forked import Run

# The column that a model reads, and the one that it learns to give.
INPUTS = {
    "sentiment": "text", "ner": "tokens", "translation": "en", "summarization": "document", "qa": "question",
    "dialogue": "prompt",
}  # fmt: skip
OUTPUTS = {
    "sentiment": "label", "ner": "tags", "translation": "de", "summarization": "summary", "qa": "answers",
    "dialogue": "completion",
}  # fmt: skip
# The readers are one for all recipes: a pair of them tries each quickly, the six of them all.
PAIR = ("sentiment", "dialogue")
LINES = 24  # of a file that is good but for the fault


def list_rows(recipe: str, number: int = LINES, split: str = "train") -> list[dict]:
    """The first sample rows as users of spreadsheets have them: every value is a text."""
    return [_flatten(recipe, row) for row in read_jsonl(ROOT / "recipes" / recipe / "sample" / f"{split}.jsonl")][
        :number
    ]


def _flatten(recipe: str, row: dict) -> dict:
    if recipe == "translation":
        return {name: row["translation"][name] for name in ("en", "de")}
    if recipe == "ner":
        return {name: " ".join(row[name]) for name in ("tokens", "tags")}
    if recipe == "qa":
        return {"question": row["question"], "context": row["context"], "answers": json.dumps(row["answers"])}
    if recipe == "dialogue":
        spoken = [message["content"] for message in row["messages"] if message["role"] != "system"]
        return {"prompt": spoken[0], "completion": spoken[1]}
    return {name: row[name] for name in (INPUTS[recipe], OUTPUTS[recipe])}


def change(rows: list[dict], line: int, **values: object) -> list[dict]:
    """The rows with other values in the one on this line of the file."""
    return [*rows[: line - 1], rows[line - 1] | values, *rows[line:]]


def drop(rows: list[dict], line: int, name: str) -> list[dict]:
    """The rows without a value in the one on this line of the file."""
    kept = {key: value for key, value in rows[line - 1].items() if key != name}
    return [*rows[: line - 1], kept, *rows[line:]]


def write_json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_csv(rows: list[dict], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_file(path: Path, content: list[dict] | str | bytes) -> Path:
    """The file, written: rows as JSON lines, anything else as it is."""
    content = write_json_lines(content) if isinstance(content, list) else content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refuse(
    recipe: str,
    folder: Path,
    content: list[dict] | str | bytes,
    pattern: str,
    *flags: object,
    name: str = "train.jsonl",
    split: str = "train",
) -> Finding:
    """What a run says of a file that it should refuse: `path` and `pattern` begin its message, and no model was made.

    A line of the start screen would be there if one had been.
    """
    path = write_file(folder / name, content)
    run = run_recipe(recipe, *list_flags(recipe, folder, f"--{split}_file", path, *flags))
    if "parameters" in run.stdout:
        return Finding("obscure", f"a model was made: {run.tail()}")
    return judge_refusal(run, "^error: " + re.escape(str(path)) + pattern, absent=[folder / "result"])


def evaluate(
    recipe: str, folder: Path, content: list[dict] | str | bytes, *flags: object, name: str = "validation.jsonl"
) -> Run:
    """A run of one step that scores and predicts the file."""
    path = write_file(folder / name, content)
    return run_recipe(recipe, *list_flags(recipe, folder, "--max_steps", "1", "--validation_file", path, *flags))


def try_training(recipe: str, folder: Path, content: list[dict] | str | bytes, name: str = "train.jsonl") -> Run:
    """All that comes before training: a run that stops where its data and its model are made."""
    path = write_file(folder / name, content)
    return run_recipe(recipe, *list_flags(recipe, folder, "--do_eval", "false", "--dry_run", "--train_file", path))


def read_predictions(folder: Path) -> list[dict]:
    path = folder / "result" / "predictions_validation.jsonl"
    return read_jsonl(path) if path.exists() else []


def read_metrics(folder: Path) -> dict:
    path = folder / "result" / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else {}


def judge_rows(recipe: str, folder: Path, rows: list[dict], content: str | bytes, name: str) -> Finding:
    """survives where the predictions are of these rows, in their order."""
    run = evaluate(recipe, folder, content, name=name)
    return judge_survival(run, list_inputs(recipe, read_predictions(folder)) == [row[INPUTS[recipe]] for row in rows])


def list_inputs(recipe: str, predictions: list[dict]) -> list[str]:
    """What was read of each row that was predicted."""
    if recipe == "dialogue":
        return [row["replies"][0]["prompt"] for row in predictions]
    if recipe == "ner":
        return [" ".join(row["tokens"]) for row in predictions]
    return [row["source" if recipe == "translation" else INPUTS[recipe]] for row in predictions]


def judge_words(run: Run, *patterns: str, is_right: bool = True) -> Finding:
    """survives where the run ended well and said all of this."""
    missing = [pattern for pattern in patterns if not re.search(pattern, run.stdout)]
    return judge_survival(run, is_right and not missing, f"not said: {missing}: {run.stdout[:1500]}" if missing else "")
