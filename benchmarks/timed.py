"""Run a script that trains with a Trainer, and write what its training and evaluation took.

    python -m benchmarks.timed --measures FILE [--count] recipes/ner/run.py FLAGS

The clock is the same for every script: it is in transformers.Trainer, below whatever the script makes of it. With
`--count` nothing is computed: the batches of one epoch and of the evaluation are made, and their tokens counted.
"""

import argparse
import resource
import runpy
import sys
import time
from collections import deque
from functools import partial, wraps
from pathlib import Path

from benchmarks.tokens import Sides, count_tokens
from benchmarks.utilization import count_step_flops, synchronize
from common.atomic_files import write_json

import torch
import transformers
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Watches the Trainer of this process; `measures` is what is written.

    Tokens are counted where batches are collated, on the CPU, so that a GPU is not waited for. Batches are collated
    ahead of their step: each waits in `collated` until its step.
    """

    def __init__(self, begun: float):
        self.begun = begun  # when the process was started, by time.time()
        self.collated, self.trained, self.first = deque(), Sides(), Sides()
        self.evaluated = Sides()
        self.evaluation_seconds, self.evaluations = 0.0, 0
        self.measures = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.collated.clear()
        self.train_begun = time.perf_counter()
        self.measures["train_begun"] = time.time() - self.begun
        self.measures["dtype"] = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
        self.measures["device"] = args.device.type

    def on_step_end(self, args, state, control, **kwargs):
        if "first_step" not in self.measures:
            synchronize()
            self.measures["first_step"] = time.time() - self.begun
            self.first_ended, self.first = time.perf_counter(), self.trained
        if state.global_step >= state.max_steps:
            synchronize()
            self.train_ended = time.perf_counter()
            self.measures["steps"] = state.global_step
            self._measure_training(kwargs["model"])

    def _measure_training(self, model):
        one_step = self.measures["steps"] == 1
        since = self.train_begun if one_step else self.first_ended
        rest = self.trained if one_step else Sides(
            **{name: value - getattr(self.first, name) for name, value in vars(self.trained).items()}
        )  # fmt: skip
        seconds = self.train_ended - since
        self.measures |= {
            "training_seconds": seconds,
            "timed_share": rest.real / self.trained.real,  # of the real tokens: those after the first step
            "real_tokens_per_second": rest.real / seconds,
            "flops_per_second": count_step_flops(model, rest) / seconds,
        }

    def note_step(self) -> None:
        """Called for each batch that is trained on."""
        self.trained += self.collated.popleft()

    def finish(self) -> None:
        """Complete `measures` at the end of the script."""
        self.measures["seconds"] = time.time() - self.begun
        self.measures["training_tokens"] = vars(self.trained)
        self.measures["evaluation_tokens"] = vars(self.evaluated)
        if self.evaluations:
            self.measures["evaluation_seconds"] = self.evaluation_seconds / self.evaluations
        self.measures["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if torch.cuda.is_available():
            self.measures["peak_device_memory"] = torch.cuda.max_memory_allocated()


def watch_collator(trainer, dataloader, note) -> None:
    """Have every batch of the dataloader counted; its workers, if it had any, would count for themselves."""
    assert dataloader.num_workers == 0, "the benchmarks count batches in the process that trains"
    owner = getattr(dataloader, "base_dataloader", dataloader)
    owner.collate_fn = partial(_collate, owner.collate_fn, trainer, note)


def _collate(collate, trainer, note, rows):
    batch = collate(rows)
    tokenizer = trainer.processing_class
    has_targets = bool(getattr(trainer.model.config, "is_encoder_decoder", False))
    note(count_tokens(batch, getattr(tokenizer, "pad_token_id", None), has_targets))
    return batch


def wrap_trainer(clock: Clock, only_counts: bool) -> None:
    """Put the clock into transformers.Trainer, whose methods every script's Trainer calls at its own bottom."""
    base = transformers.Trainer
    for name, watch in (
        ("__init__", _watch_init),
        ("get_train_dataloader", _watch_train_dataloader),
        ("training_step", _watch_training_step),
        ("train", _count_training if only_counts else None),
        ("evaluation_loop", _count_evaluation if only_counts else _watch_evaluation),
    ):
        if watch is not None:
            inner = getattr(base, name)
            setattr(base, name, bind(inner, watch, clock))


def bind(inner, watch, clock):
    """A method that calls `watch` with the clock and the method that it stands for, which is bound, and the Trainer."""

    @wraps(inner)
    def method(trainer, *args, **kwargs):
        return watch(clock, partial(inner, trainer), trainer, *args, **kwargs)

    return method


def _watch_init(clock, inner, trainer, *args, **kwargs):
    inner(*args, **kwargs)
    trainer.add_callback(clock)


def _watch_train_dataloader(clock, inner, trainer):
    dataloader = inner()
    watch_collator(trainer, dataloader, clock.collated.append)
    return dataloader


def _watch_training_step(clock, inner, trainer, *args, **kwargs):
    clock.note_step()
    return inner(*args, **kwargs)


def _watch_evaluation(clock, inner, trainer, dataloader, *args, **kwargs):
    watch_collator(trainer, dataloader, partial(_note_evaluated, clock))
    # Some scripts score here and others behind it: scoring is left out for all.
    score, scoring = trainer.compute_metrics, []
    if score is not None:
        trainer.compute_metrics = partial(_time_scoring, score, scoring)
    synchronize()
    begun = time.perf_counter()
    try:
        return inner(dataloader, *args, **kwargs)
    finally:
        synchronize()
        clock.evaluation_seconds += time.perf_counter() - begun - sum(scoring)
        clock.evaluations += 1
        trainer.compute_metrics = score


def _time_scoring(score, scoring: list[float], *args, **kwargs):
    begun = time.perf_counter()
    try:
        return score(*args, **kwargs)
    finally:
        scoring.append(time.perf_counter() - begun)


def _note_evaluated(clock, sides: Sides) -> None:
    clock.evaluated += sides


def _count_training(clock, inner, trainer, *args, **kwargs):
    trainer._train_batch_size = trainer.args.train_batch_size
    for _ in trainer.get_train_dataloader():
        clock.note_step()


def _count_evaluation(clock, inner, trainer, dataloader, *args, **kwargs):
    watch_collator(trainer, dataloader, partial(_note_evaluated, clock))
    for _ in dataloader:
        pass
    raise SystemExit(0)


def run_script(script: str, flags: list[str]) -> None:
    """Run it in this process, as Python would, to its end."""
    sys.argv = [script, *flags]
    sys.path[0] = str(Path(script).resolve().parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def main(arguments: list[str] | None = None) -> None:
    """Run the script to its end and write the measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measures", type=Path, required=True, help="The file that is written.")
    parser.add_argument("--begun", type=float, default=time.time(), help="When the process started, by time.time().")
    parser.add_argument("--count", action="store_true", help="Count tokens only.")
    parser.add_argument("script")
    parser.add_argument("flags", nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    clock = Clock(args.begun)
    wrap_trainer(clock, args.count)
    run_script(args.script, args.flags)
    clock.finish()
    write_json(args.measures, clock.measures)


if __name__ == "__main__":
    main()
