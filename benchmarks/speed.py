"""How fast the recipes train and evaluate, against plain Trainer scripts with upstream's defaults and its best flags.

    python -m benchmarks.speed --data DIRECTORY --encoder DIRECTORY

Each contestant runs as a process of its own, one after the other in every round, on the same rows, from the same
weights, with the same epochs, batch size and seed. A ratio is of two runs of one round. Without flags it takes about
half an hour on two CPU cores; a CUDA device is found by itself, and gets larger batches and more rows.
"""

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import (
    CONTESTANTS,
    TASKS,
    describe_data,
    describe_machine,
    prepare_model,
    prepare_rows,
    run_contestant,
)
from benchmarks.utilization import choose_device, measure_peak
from common.atomic_files import write_json
from common.console import draw_table, say
from common.errors import install_error_hook

import torch

RIVALS = CONTESTANTS[1:]
BATCH_SIZES = {"cpu": 16, "cuda": 64}
MORE_ROWS = {"cpu": 1, "cuda": 8}  # times the rows of a task's `samples`
# What is measured: its name in the table, its digits, and whether the greater is the better.
COLUMNS = {
    "training_samples_per_second": ("train samples/s", 1, True),
    "real_tokens_per_second": ("real tokens/s", 0, True),
    "evaluation_samples_per_second": ("eval samples/s", 1, True),
    "first_step": ("s to first step", 1, False),
    "seconds": ("s in all", 1, False),
    "peak_megabytes": ("peak MB", 0, False),
    "utilization": ("MFU %", 1, True),
    "score": ("score", 3, True),
}
# Of which ratios are drawn up; above 1 the recipe is the better.
COMPARED = [name for name in COLUMNS if name not in ("score", "utilization")]


def complete_measures(found: dict, counts: dict[str, int], epochs: float, peaks: dict[str, float]) -> dict[str, float]:
    """The figures of the table from what the clock measured.

    The first step is left out of the training, by its share of the real tokens: it may be of the longest rows.
    """
    rows = counts["train"] * epochs * found["timed_share"]
    megabytes = found.get("peak_device_memory") if found["device"] == "cuda" else found["peak_memory"]
    return found | {
        "training_samples_per_second": rows / found["training_seconds"],
        "evaluation_samples_per_second": counts["validation"] / found["evaluation_seconds"],
        "peak_megabytes": megabytes / 1e6,
        "utilization": 100 * found["flops_per_second"] / peaks[found["dtype"]],
    }


def compare_rounds(ours: Sequence[float], theirs: Sequence[float], more_is_better: bool = True) -> dict[str, float]:
    """Median, lowest and highest of the ratios of each round; above 1 ours is the better."""
    ratios = [one / other if more_is_better else other / one for one, other in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def average_ratios(ratios: Sequence[float]) -> float:
    """Their geometric mean."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def list_ratios(rounds: list[dict[str, dict]]) -> dict[str, dict[str, dict[str, float]]]:
    """For each rival and figure: the ratios of ours to it."""
    return {
        rival: {
            name: compare_rounds(
                [found["ours"][name] for found in rounds], [found[rival][name] for found in rounds], COLUMNS[name][2]
            )
            for name in COMPARED
        }
        for rival in RIVALS
    }


def say_figures(rounds: dict[str, list[dict[str, dict]]]) -> None:
    """Print the medians of every recipe and contestant."""
    table = [["recipe", "contestant", *(title for title, _, _ in COLUMNS.values())]]
    for recipe, found in rounds.items():
        for contestant in CONTESTANTS:
            cells = []
            for name, (_, digits, _) in COLUMNS.items():
                values = [one[contestant][name] for one in found]
                cells.append("-" if None in values else f"{statistics.median(values):,.{digits}f}")
            table.append([recipe, contestant, *cells])
    say("\n".join(draw_table(table, texts=2)))


def say_ratios(ratios: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Print how many times better ours is, median (lowest to highest); the geometric means over the recipes."""
    means = {}
    for rival in RIVALS:
        means[rival] = {
            name: average_ratios([found[rival][name]["median"] for found in ratios.values()]) for name in COMPARED
        }
        table = [[f"ours / {rival}", *(COLUMNS[name][0] for name in COMPARED)]]
        for recipe, found in ratios.items():
            cells = (found[rival][name] for name in COMPARED)
            table.append([recipe, *("{median:.2f} ({lowest:.2f} to {highest:.2f})".format(**cell) for cell in cells)])
        table.append(["geometric mean", *(f"{means[rival][name]:.2f}" for name in COMPARED)])
        say()
        say("\n".join(draw_table(table)))
    return means


def main(arguments: list[str] | None = None) -> None:
    """Run all contestants, print the tables, and write every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--data", type=Path, help="Directory with <task>/<set>/train.jsonl and validation.jsonl.")
    parser.add_argument("--encoder", help="Directory of a pretrained encoder. Default: a new encoder_small.")
    parser.add_argument("--samples", type=int, help="Training rows; half as many of validation. Default: by recipe.")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--epochs", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, help=f"Rows of a training batch. Default: {BATCH_SIZES}")
    parser.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/speed.json"), help="%(default)s")
    args = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    describe_data(args.data)
    device = choose_device(args.device)
    args.batch_size = args.batch_size or BATCH_SIZES[device]
    peaks = {name: measure_peak(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    rounds, ratios = {}, {}
    for name in args.recipe:
        with tempfile.TemporaryDirectory() as folder:
            rounds[name] = measure_recipe(name, args, device, peaks, Path(folder))
        ratios[name] = list_ratios(rounds[name])
    say_figures(rounds)
    means = say_ratios(ratios)
    facts = describe_machine() | {"device": device, "peak_flops": peaks}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    figures = {"machine": facts, "settings": settings, "rounds": rounds, "ratios": ratios, "geometric_means": means}
    write_json(args.output, figures)


def measure_recipe(name: str, args, device: str, peaks: dict[str, float], folder: Path) -> list[dict[str, dict]]:
    """A round after the other, in each of which every contestant runs once."""
    task = TASKS[name]
    samples = tuple(MORE_ROWS[device] * count for count in task.samples)
    if args.samples:
        samples = args.samples, max(args.samples // 2, 1)
    counts = prepare_rows(task, args.data, folder, samples)
    model = prepare_model(task, args.encoder, folder)
    settings = {
        "num_train_epochs": str(args.epochs),
        "learning_rate": task.learning_rate,
        "per_device_train_batch_size": str(args.batch_size),
        "seed": str(args.seed),
        "use_cpu": "true" if device == "cpu" else "false",
    }
    rounds = []
    for number in range(args.rounds):
        found = {}
        for contestant in CONTESTANTS:
            measured = run_contestant(contestant, task, model, folder, settings)
            found[contestant] = complete_measures(measured, counts, args.epochs, peaks)
            rate = found[contestant]["training_samples_per_second"]
            say(f"round {number + 1}: {name}, {contestant}: {rate:.1f} training samples/s")
        rounds.append(found)
    return rounds


if __name__ == "__main__":
    install_error_hook()
    main()
