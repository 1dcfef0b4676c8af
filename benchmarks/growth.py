"""What 4 and 16 times the rows cost each recipe: time until training starts, time of the evaluation, and peak memory.

    python -m benchmarks.growth --data DIRECTORY

The rows are the first ones of the data, repeated under other ids, in both splits; two steps are trained, and every
validation row is evaluated. Nothing prepared is kept, so that each run prepares all its rows.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks.contestants import TASKS, describe_data, describe_machine, prepare_model, prepare_rows, run_contestant
from common.atomic_files import write_json
from common.console import draw_table, say
from common.errors import install_error_hook

TIMES = (1, 4, 16)
ROWS = {"train": 512, "validation": 128}
GENERATED = 32  # rows of validation where texts are generated, which takes longer
OUTPUT = Path("outputs/benchmarks/growth.json")
# What the clock measures, and how it is shown.
COLUMNS = {"train_begun": "s to training", "evaluation_seconds": "s of evaluation", "peak_memory": "peak MB"}
UNITS = {"peak_memory": 1e-6}


def repeat_rows(path: Path, times: int) -> None:
    """Write the rows of the file so many times; from the second time on under other ids, also if it is done again."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows * times):
            if number >= len(rows) and "id" in row:
                row = row | {"id": f"{row['id']}-{number}"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure_recipe(name: str, args: argparse.Namespace, folder: Path) -> dict[int, dict[str, float]]:
    """The measures of each number of times that the rows are there."""
    task = TASKS[name]
    validation = GENERATED if task.preset != "encoder_small" else ROWS["validation"]
    prepare_rows(task, args.data, folder, (ROWS["train"], validation))
    model = prepare_model(task, args.encoder, folder)
    settings = {"max_steps": "2", "per_device_train_batch_size": "8", "use_cpu": "true", "overwrite_cache": "true"}
    found, before = {}, 1
    for times in TIMES:
        for split in ROWS:
            repeat_rows(folder / f"{split}.jsonl", times // before)
        before = times
        found[times] = run_contestant("ours", task, model, folder, settings)
        say(f"{name}, {times} x: {', '.join(f'{title} {_show(found[times], key)}' for key, title in COLUMNS.items())}")
    return found


def _show(measures: dict[str, float], key: str) -> str:
    return f"{measures[key] * UNITS.get(key, 1):,.{0 if key in UNITS else 1}f}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--data", type=Path, help="Directory with <task>/<set>/train.jsonl and validation.jsonl.")
    parser.add_argument("--encoder", help="Directory of a pretrained encoder. Default: a new encoder_small.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    args = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    describe_data(args.data)
    figures = {}
    for name in args.recipe:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = measure_recipe(name, args, Path(folder))
    table = [["recipe", *(f"{title}, {times} x" for title in COLUMNS.values() for times in TIMES)]]
    for name, found in figures.items():
        table.append([name, *(_show(found[times], key) for key in COLUMNS for times in TIMES)])
    say("\n".join(draw_table(table)))
    write_json(args.output, {"machine": describe_machine(), "figures": figures})


if __name__ == "__main__":
    install_error_hook()
    main()
