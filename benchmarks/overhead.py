"""What our Trainer adds to a training step: the recipes against a bare PyTorch loop over the same batches.

    python -m benchmarks.overhead --data DIRECTORY --encoder DIRECTORY

Both run where the recipe would train, from the same weights and random state: the same model, batches, precision,
optimizer, schedule and, on a CPU, dropout and attention, the model's own loss against ours. Each run is a process of
its own, since the second in a process finds memory and kernels prepared by the first; which of the two is the first
changes from round to round. Of a round the median over its steps counts, each against the same step of the other run:
a mean would be that of what else the machine did.
"""

import argparse
import contextlib
import inspect
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.contestants import ROOT, TASKS, describe_data, describe_machine, prepare_model, prepare_rows
from benchmarks.timed import bind, run_script
from benchmarks.utilization import synchronize
from common.atomic_files import write_json
from common.console import draw_table, say
from common.cpu_functions import choose_functions
from common.errors import UserError, install_error_hook
from common.nonfinite import ROW_NUMBER

import torch
import torch.nn.functional as F
import transformers
from transformers import TrainerCallback, set_seed

OUTPUT = Path("outputs/benchmarks/overhead.json")
WARM = 2  # steps of every run that are not measured


class Steps(TrainerCallback):
    """When each step of a training ended, and what it lost."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each step, the first ones left out."""
        return [end - begin for begin, end in itertools.pairwise(self.ends[WARM - 1 :])]


def compute_loss(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own loss; of spans PyTorch's, since the model's own counts padded positions, as ours does not."""
    if "start_positions" not in inspect.signature(model.forward).parameters:
        return model(**batch).loss
    starts, ends = batch.pop("labels").unbind(1)
    outputs = model(**batch)
    return (F.cross_entropy(outputs.start_logits, starts) + F.cross_entropy(outputs.end_logits, ends)) / 2


def train_bare(trainer) -> tuple[list[float], float]:
    """Seconds of each step, and the mean loss of a loop that does what training needs and no more."""
    args, model = trainer.args, trainer.model
    set_seed(args.seed)
    trainer._train_batch_size = args.train_batch_size
    steps, losses = Steps(), []
    batches = trainer.get_train_dataloader()
    trainer.create_optimizer_and_scheduler(args.max_steps)
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    kind = torch.bfloat16 if args.bf16 else None
    model.train()
    while len(steps.ends) < args.max_steps:
        for batch in batches:
            batch.pop(ROW_NUMBER, None)
            batch = {name: value.to(args.device) for name, value in batch.items()}
            with choose_functions(args):
                with torch.autocast(args.device.type, kind) if kind else contextlib.nullcontext():
                    loss = compute_loss(model, batch)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            steps.on_step_end(args, None, None)
            if len(steps.ends) == args.max_steps:
                break
    return steps.seconds, torch.stack(losses).float().mean().item()


def train_ours(trainer, train) -> tuple[list[float], float]:
    """The same of the Trainer of a recipe."""
    set_seed(trainer.args.seed)
    steps = Steps()
    trainer.add_callback(steps)
    outcome = train()
    return steps.seconds, outcome.training_loss


def measure(which: str, measures: dict, inner, trainer, *args, **kwargs):
    """In the place of transformers.Trainer.train, below what a recipe makes of it: the one asked for."""
    run = train_bare if which == "bare" else partial(train_ours, train=inner)
    measures[which], measures[f"{which}_loss"] = run(trainer)
    raise SystemExit(0)


def run_inside(path: Path, which: str, script: str, flags: list[str]) -> None:
    """In a process of its own: the recipe up to its training, which is measured."""
    measures = {}
    transformers.Trainer.train = bind(transformers.Trainer.train, partial(measure, which), measures)
    run_script(script, flags)
    write_json(path, measures)


def compare_steps(ours: list[float], bare: list[float]) -> float:
    """The median ratio of two runs' times for the same step."""
    return statistics.median(one / other for one, other in zip(ours, bare, strict=True))


def measure_recipe(name: str, args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Start the recipe twice for each round, and what was measured."""
    task, measures = TASKS[name], folder / "measures.json"
    prepare_rows(task, args.data, folder, (args.batch_size * args.steps, 8))
    model = prepare_model(task, args.encoder, folder)
    start = [sys.executable, "-m", "benchmarks.overhead", "--inside", measures]
    command = [ROOT / "recipes" / name / "run.py", "--model_name_or_path", model, "--do_train", *task.flags]
    command += ["--train_file", folder / "train.jsonl", "--max_steps", args.steps, "--save_strategy", "no"]
    command += ["--per_device_train_batch_size", args.batch_size, "--output_dir", folder / "result"]
    rounds = []
    for number in range(args.rounds):
        found = {}
        for which in ("ours", "bare") if number % 2 else ("bare", "ours"):
            whole = [str(word) for word in (*start, which, *command)]
            run = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)
            if run.returncode or not measures.is_file():
                raise UserError(f"{name} ended with exit code {run.returncode}:\n{(run.stdout + run.stderr)[-3000:]}")
            found |= json.loads(measures.read_text())
            measures.unlink()
            shutil.rmtree(folder / "result", ignore_errors=True)
        rounds.append(found)
    return {"rounds": rounds}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--data", type=Path, help="Directory with <task>/<set>/train.jsonl.")
    parser.add_argument("--encoder", help="Directory of a pretrained encoder. Default: a new encoder_small.")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.inside:
        path, which = args.inside
        run_inside(Path(path), which, args.script[0], args.script[1:])
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    describe_data(args.data)
    figures = {}
    table = [["recipe", "ms a step, bare", "ms a step, ours", "ours / bare", "loss, bare", "loss, ours"]]
    for name in args.recipe:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = measure_recipe(name, args, Path(folder))
        rounds = figures[name]["rounds"]
        times, losses = {}, {}
        for key in ("bare", "ours"):
            times[key] = 1000 * statistics.median(statistics.median(found[key]) for found in rounds)
            losses[key] = statistics.median(found[f"{key}_loss"] for found in rounds)
        ratios = [compare_steps(found["ours"], found["bare"]) for found in rounds]
        shown = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        row = [name, f"{times['bare']:.0f}", f"{times['ours']:.0f}", shown]
        table.append([*row, f"{losses['bare']:.3f}", f"{losses['ours']:.3f}"])
        say(f"measured {name}: {shown}")
    say("\n".join(draw_table(table)))
    write_json(args.output, {"machine": describe_machine(), "figures": figures})


if __name__ == "__main__":
    install_error_hook()
    main()
