"""The files of a result directory, read: by what shows finished runs, without importing what trains."""

import json
from pathlib import Path

from common.atomic_files import read_json
from common.errors import UserError

CONFIG_FILE, METRICS_FILE, RECIPE_FILE = "config.yaml", "metrics.json", "recipe.json"


def read_predictions(output_dir: Path, split: str) -> list[dict]:
    """The rows of `predictions_<split>.jsonl`."""
    with (output_dir / f"predictions_{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def is_finished(output_dir: Path) -> bool:
    """Whether a run has written all of its result there, in files that can be read."""
    try:
        return all(isinstance(read_json(output_dir / name), dict) for name in (METRICS_FILE, RECIPE_FILE))
    except (FileNotFoundError, ValueError):
        return False


def read_result(output_dir: Path) -> tuple[dict, dict]:
    """What `recipe.json` and `metrics.json` of a finished run say; a UserError where there is none."""
    if not output_dir.is_dir():
        what = "a file, not a directory" if output_dir.exists() else "no such directory"
        raise UserError(f"{output_dir}: {what}; give the output_dir of a finished run.")
    if not (output_dir / METRICS_FILE).is_file() or not (output_dir / RECIPE_FILE).is_file():
        if (output_dir / CONFIG_FILE).is_file():
            raise UserError(f"{output_dir}: the run is not finished; the command that began it goes on with it.")
        raise UserError(f"{output_dir}: not a result directory; give the output_dir of a finished run.")
    try:
        recipe, metrics = read_json(output_dir / RECIPE_FILE), read_json(output_dir / METRICS_FILE)
    except ValueError as error:
        raise UserError(f"{output_dir}: {RECIPE_FILE} or {METRICS_FILE} is damaged: {error}.") from error
    if not isinstance(recipe, dict) or not isinstance(metrics, dict) or not {"task", "headline"} <= recipe.keys():
        raise UserError(f"{output_dir}: its {RECIPE_FILE} is not from a run of these recipes.")
    return recipe, metrics
