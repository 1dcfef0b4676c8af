"""Steps that take more memory than there is: smaller batches with the same rows a step, which give the same losses."""

import gc

from common.overview import count_rows_per_step

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


def choose_smaller_batch(training_args) -> tuple[int, int] | None:
    """Half the rows of a batch or fewer, and the accumulation that keeps the rows of a step; None from one row on."""
    rows, accumulation = training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps
    if training_args.max_tokens_per_batch:
        return None
    # The largest that divides them: half of 6 rows is 3, of 9 it is 3 too.
    smaller = next((number for number in range(rows // 2, 0, -1) if rows % number == 0), None)
    return None if smaller is None else (smaller, accumulation * (rows // smaller))


def advise_smaller_batch(training_args, is_evaluating: bool) -> str:
    """What to set so that a run that ran out of memory fits, in words."""
    if is_evaluating:
        rows = training_args.per_device_eval_batch_size
        if rows > 1:
            return f"use --per_device_eval_batch_size {rows // 2}; scores do not depend on it"
    if training_args.max_tokens_per_batch and not is_evaluating:
        return (
            f"use --max_tokens_per_batch {training_args.max_tokens_per_batch // 2}, or cut the rows (--max_seq_length)"
        )
    pair = None if is_evaluating else choose_smaller_batch(training_args)
    if pair is None:
        return "one row at a time is too much: cut them (--max_seq_length), or use --activation_checkpointing or LoRA"
    flags = f"--per_device_train_batch_size {pair[0]} --gradient_accumulation_steps {pair[1]}"
    same = f"the same {count_rows_per_step(training_args)} rows a step"
    automatic = "" if training_args.world_size > 1 else ", or --auto_find_batch_size, which finds such a pair by itself"
    return f"use {flags} ({same}){automatic}"


def free_memory() -> None:
    """Give back what the step that failed has left behind."""
    gc.collect()
    clear_device_cache(garbage_collection=True)
