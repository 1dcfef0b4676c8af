"""common/memory_limits.py: the batches that are tried when there is no memory."""

from types import SimpleNamespace

from common.memory_limits import advise_smaller_batch, choose_smaller_batch, is_out_of_memory

import pytest
import torch


@pytest.mark.parametrize(
    ("rows", "accumulation", "expected"),
    [(8, 1, (4, 2)), (2, 8, (1, 16)), (6, 2, (3, 4)), (9, 1, (3, 3)), (7, 3, (1, 21)), (1, 16, None)],
)
def test_a_smaller_batch_keeps_the_rows_of_a_step(rows, accumulation, expected):
    settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    args = SimpleNamespace(**settings, max_tokens_per_batch=None)
    assert choose_smaller_batch(args) == expected


def test_the_advice_names_the_flags_and_what_to_do_with_one_row():
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "world_size": 2, "n_gpu": 0}
    args = SimpleNamespace(**settings, per_device_eval_batch_size=1, max_tokens_per_batch=None)
    said = advise_smaller_batch(args, is_evaluating=False)
    assert said == "use --per_device_train_batch_size 2 --gradient_accumulation_steps 2 (the same 8 rows a step)"
    assert advise_smaller_batch(args, is_evaluating=True).startswith("one row at a time is too much")


def test_only_what_says_so_is_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_batches_of_so_many_pieces_are_advised_half_of_them():
    args = SimpleNamespace(max_tokens_per_batch=512, per_device_train_batch_size=8, gradient_accumulation_steps=1)
    assert choose_smaller_batch(args) is None
    assert advise_smaller_batch(args, is_evaluating=False) == (
        "use --max_tokens_per_batch 256, or cut the rows (--max_seq_length)"
    )
