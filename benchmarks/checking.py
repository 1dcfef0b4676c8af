"""What it costs to read and check the rows of a file before a model is loaded: seconds for 100,000 rows of each recipe.

    python -m benchmarks.checking

The rows are those of the recipe's sample, again and again, each with an id of its own.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from common.console import draw_table
from tests.conftest import ROOT, read_jsonl
from tests.fuzz.recipes import RECIPES, read_split

import datasets


def main() -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checking", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each recipe (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts (default: %(default)s)")
    parser.add_argument("--output", default="outputs/benchmarks/checking.json", help="default: %(default)s")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    datasets.disable_progress_bars()
    figures = {}
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            write_rows(path, recipe, args.rows)
            figures[recipe] = {"rows": args.rows, "bytes": path.stat().st_size}
            figures[recipe] |= min(
                (measure_reading(path, recipe, args.rows) for _ in range(args.repeats)),
                key=lambda measured: measured["seconds"],
            )
    table = [["recipe", "rows", "MB", "seconds", "of a processor"]]
    for recipe, found in figures.items():
        table.append(
            [
                recipe,
                f"{found['rows']:,}",
                *(f"{value:.1f}" for value in (found["bytes"] / 1e6, found["seconds"], found["processor_seconds"])),
            ]
        )
    print("\n".join(draw_table(table)))
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=1) + "\n")


def write_rows(path: Path, recipe: str, count: int) -> None:
    """So many rows of the recipe's sample."""
    sample = itertools.cycle(read_jsonl(ROOT / "recipes" / recipe / "sample" / "train.jsonl"))
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(itertools.islice(sample, count)):
            file.write(json.dumps(row | {"id": f"row-{number}"}, ensure_ascii=False) + "\n")


def measure_reading(path: Path, recipe: str, count: int) -> dict[str, float]:
    """The seconds that it takes the recipe to read and check the rows, and those of a processor among them."""
    start = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        rows, _ = read_split(recipe, "train", [str(path)])
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    assert len(rows) == count
    return dict(zip(("seconds", "processor_seconds"), seconds, strict=True))


if __name__ == "__main__":
    main()
