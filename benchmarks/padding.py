"""How many of the tokens that are computed are real: the six recipes, upstream's defaults, and its best flags.

    python -m benchmarks.padding --data DIRECTORY

The batches are those that each contestant's own Trainer makes; nothing is computed on them. Both sides of an
encoder-decoder count, of what is generated only the rows that it starts from and their targets.
"""

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.contestants import CONTESTANTS, TASKS, describe_data, prepare_model, prepare_rows, run_contestant
from benchmarks.tokens import Sides
from common.atomic_files import write_json
from common.console import draw_table, say
from common.errors import install_error_hook

OUTPUT = Path("outputs/benchmarks/padding.json")


def main(arguments: list[str] | None = None) -> None:
    """Count, print the table of percentages, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--data", type=Path, help="Directory with <task>/<set>/train.jsonl and validation.jsonl.")
    parser.add_argument("--encoder", help="Directory of a pretrained encoder. Default: a new encoder_small.")
    parser.add_argument("--samples", type=int, help="Use only the first rows of each split. Default: all.")
    parser.add_argument("--batch_size", type=int, default=16, help="Rows of a training batch; default: %(default)s")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    args = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    describe_data(args.data)
    figures = {}
    for name in args.recipe:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = count_recipe(name, args, Path(folder))
    table = [["recipe", *(f"{what}, {name}" for what in ("training", "evaluation") for name in CONTESTANTS)]]
    for name, found in figures.items():
        shares = [
            Sides(**found[contestant][f"{what}_tokens"]).share
            for what in ("training", "evaluation")
            for contestant in CONTESTANTS
        ]
        table.append([name, *(f"{100 * share:.1f} %" for share in shares)])
    say("\n".join(draw_table(table)))
    write_json(args.output, figures)


def count_recipe(name: str, args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """The tokens of every contestant's batches."""
    task = TASKS[name]
    prepare_rows(task, args.data, folder, (args.samples, args.samples))
    model = prepare_model(task, args.encoder, folder)
    settings = {"num_train_epochs": "1", "learning_rate": task.learning_rate, "seed": "42", "use_cpu": "true"}
    settings["per_device_train_batch_size"] = str(args.batch_size)
    found = {}
    for contestant in CONTESTANTS:
        found[contestant] = run_contestant(contestant, task, model, folder, settings, only_counts=True)
        say(f"counted {name}, {contestant}")
    return found


if __name__ == "__main__":
    install_error_hook()
    main()
