"""The start screen: everything about a run that can be wrong before it starts, on one page."""

import itertools
from collections.abc import Callable, Iterator

from common.console import say
from common.control_tokens import describe_control_tokens
from common.errors import UserError
from common.models import name_precision
from common.optimization import describe_rates
from common.parts import find_shape, has_tied_head, locate_parameters
from common.sampling import measure_rows
from common.streaming import StreamedDataset

import numpy as np
from datasets import Dataset, DatasetDict

EXAMPLES = 2


def describe_run(
    trainer, splits: DatasetDict, features: DatasetDict, facts: dict[str, str], show_example: Callable[[dict], str]
) -> None:
    """Print data, labels, lengths, model, precision, batch, steps and two examples as the model gets them.

    `facts` are the recipe's own lines; `show_example` turns one row of a collated batch into text.
    """
    if "train" in splits and isinstance(splits["train"], StreamedDataset) != isinstance(
        features["train"], StreamedDataset
    ):
        raise UserError(
            "streaming: the training rows lost their stream on the way to the trainer, which would train on the first "
            "block alone: make them with map_splits, map_rows or a function under @for_each_block."
        )
    lines = {"data": ", ".join(f"{name} {_count_rows(rows)}" for name, rows in splits.items())}
    lengths = {name: measure_rows(rows)[:, 0] for name, rows in features.items()}
    lines["lengths"] = "pieces: " + "; ".join(f"{name} {_summarise(values)}" for name, values in lengths.items())
    lines |= facts
    control_tokens = describe_control_tokens(trainer.processing_class, splits)
    lines |= {"control": f"tokens: {control_tokens}"} if control_tokens else {}
    lines |= _describe_model(trainer)
    if trainer.args.do_train:
        lines |= _describe_steps(trainer)
    trackers = ", ".join(trainer.args.report_to) or "files only"
    lines["output"] = f"{trainer.args.output_dir} (tracking: {trackers})"
    say()
    for name, text in lines.items():
        say(f"{name:<10} {text}")
    trainer.train_origins = splits["train"]["origin"] if "train" in splits else None
    if trainer.tracked_run is not None:
        trainer.tracked_run.note_rows(splits, lengths)
    rows = next(iter(features.values()))
    # One pass over one loader: each draws from the random state that training begins with.
    batches = trainer.get_test_dataloader(rows.select(range(min(EXAMPLES, len(rows)))))
    for number, example in enumerate(itertools.islice(_list_rows(batches), EXAMPLES), start=1):
        say(f"example {number}  {show_example(example)}")
    say()


def _count_rows(rows: Dataset) -> str:
    return f"a stream, the first {len(rows):,} rows" if isinstance(rows, StreamedDataset) else f"{len(rows):,} rows"


def _list_rows(batches) -> Iterator[dict[str, list]]:
    """Yield each row of collated batches by itself."""
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            yield {name: values[row].tolist() for name, values in batch.items()}


def _summarise(lengths: np.ndarray) -> str:
    median, ninety, ninety_nine = np.percentile(lengths, [50, 90, 99]).round().astype(int)
    return f"median {median}, 90 % {ninety}, 99 % {ninety_nine}, longest {lengths.max()}"


def _describe_model(trainer) -> dict[str, str]:
    model, args = trainer.model, trainer.args
    counts = count_parameters(model)
    trainable, total = sum_counts(counts)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad})
    return {
        "model": f"{type(base).__name__}, {total:,} parameters, {trainable:,} trained ({trainable / total:.1%})",
        "trained": "; ".join(f"{kind} {number:,} of {whole:,}" for kind, (number, whole) in counts.items())
        + (" (the lm_head is tied to the embeddings)" if has_tied_head(base) else ""),
        "precision": f"computes in {name_precision(args)}, trained weights in {', '.join(dtypes)}, "
        f"{base.config._attn_implementation} attention",
        "device": f"{args.device.type}, {args.world_size} process{'es' if args.world_size > 1 else ''}",
    }


def sum_counts(counts: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """How many weights are trained, and how many there are, from `count_parameters`."""
    trained, total = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    return trained, total


def count_parameters(model) -> dict[str, tuple[int, int]]:
    """How many weights are trained, and how many there are, in the embeddings, the layers, the head and the adapter."""
    counts = dict.fromkeys(("embeddings", "layers", "head", "adapter"), (0, 0))
    parts = locate_parameters(model)
    for name, parameter in model.named_parameters():
        if name in parts:
            number = find_shape(parameter).numel()
            trained, whole = counts[parts[name].kind]
            counts[parts[name].kind] = (trained + number * parameter.requires_grad, whole + number)
    return {kind: numbers for kind, numbers in counts.items() if numbers[1]}


def count_devices(training_args) -> int:
    """On how many devices a step is computed, over all processes."""
    return training_args.world_size * max(training_args.n_gpu, 1)


def count_rows_per_step(training_args) -> int:
    """The effective batch: the rows that an optimizer step sees, over accumulation and devices."""
    rows = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    return rows * count_devices(training_args)


def _describe_steps(trainer) -> dict[str, str]:
    args = trainer.args
    devices, rows = count_devices(args), count_rows_per_step(args)
    filled = f"{rows} rows a step = {args.per_device_train_batch_size} a device"
    steps_per_epoch = max(-(-len(trainer.train_dataset) // rows), 1)
    lengths = f", {args.length_groups_per_step} lengths a step" if args.length_groups_per_step > 1 else ""
    if args.max_tokens_per_batch:
        filled = f"up to {args.max_tokens_per_batch:,} pieces with their padding a device"
        steps_per_epoch = -(-len(trainer._get_train_sampler()) // args.gradient_accumulation_steps)
    steps = args.max_steps if args.max_steps > 0 else int(np.ceil(args.num_train_epochs * steps_per_epoch))
    epochs = f"{steps / steps_per_epoch:g} epochs"
    if isinstance(trainer.train_dataset, StreamedDataset):
        epochs = f"{steps * rows:,} rows"
    warmup = args.get_warmup_steps(steps)
    warning = f"warmup_steps is {warmup}, but the run ends after {steps}: learning_rate is never reached; lower it"
    return {
        "batch": f"{filled} x {devices} x {args.gradient_accumulation_steps} accumulation, "
        f"sampling {args.train_sampling_strategy}{lengths}",
        "steps": f"{steps:,} ({epochs}), {warmup} warmup, "
        f"{args.optim.value} {describe_rates(trainer.model, args)} {args.lr_scheduler_type.value}, seed {args.seed}",
        **({"warning": warning} if warmup > steps else {}),
    }
