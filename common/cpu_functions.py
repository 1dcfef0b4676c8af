"""Dropout and attention in the training steps of a CPU: what PyTorch's functions do, in a fraction of the time."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DROPOUT, ATTENTION = F.dropout, F.scaled_dot_product_attention
LEVELS = 2**16  # 16 random bits a number: it is dropped with a multiple of 1 / LEVELS
LONGEST = 256  # keys up to which written-out attention without dropout is the faster, and its scores are small


def choose_functions(training_args) -> contextlib.AbstractContextManager[None]:
    """What a training step runs in: `quick_functions` on a CPU, but for compiled steps, which write their own."""
    is_quick = training_args.device.type == "cpu" and not training_args.torch_compile
    return quick_functions() if is_quick else contextlib.nullcontext()


@contextlib.contextmanager
def quick_functions() -> Iterator[None]:
    """Within it every model's dropout and attention on a CPU are `drop` and `attend`.

    Forward and backward pass belong into it together: gradient checkpointing computes the one again in the other.
    """
    F.dropout, F.scaled_dot_product_attention = drop, attend
    try:
        yield
    finally:
        F.dropout, F.scaled_dot_product_attention = DROPOUT, ATTENTION


def drop(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As torch.nn.functional.dropout, whose random numbers cost a CPU seven times as much (torch 2.13)."""
    is_quick = training and not inplace and type(input) is Tensor and input.device.type == "cpu"
    if not is_quick or not input.is_floating_point() or not can_draw(p):
        return DROPOUT(input, p, training, inplace)
    kept, share = draw_kept(input.shape, p, input.dtype)
    return input * kept.mul_(1 / share)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch.nn.functional.scaled_dot_product_attention, written out where that is the faster.

    On a CPU (torch 2.13) attention with dropout is computed in float32 whatever it is given, and the backward pass of
    the fused one in bfloat16 takes up to ten times as long as that of the matrix products. These keep the scores:
    with dropout half as much as PyTorch does, without it only where there are few.
    """
    if not _is_slow(query, key, attn_mask, dropout_p, is_causal):
        return ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (heads.repeat_interleave(groups, -3) for heads in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query if scale == 1 else query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype)
    weights = scores.softmax(-1)
    if not dropout_p:
        return torch.matmul(weights, value)
    kept, share = draw_kept(weights.shape, dropout_p, weights.dtype)
    return torch.matmul(weights * kept, value) * (1 / share)


def can_draw(p: float) -> bool:
    """Whether `draw_kept` drops some, and not all, with this probability."""
    return 0 < round(p * LEVELS) < LEVELS


def draw_kept(shape: torch.Size, p: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """1 for what is kept and 0 for what is dropped, and the share that is kept: 1 - p, to 1 / LEVELS.

    The bits are those of NumPy's fastest generator, seeded by PyTorch's: whoever goes back to a random state of PyTorch
    drops the same again.
    """
    numbers, dropped = shape.numel(), round(p * LEVELS)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    bits = np.random.SFC64(seed).random_raw(-(-numbers // 4)).view(np.int16)
    kept = torch.from_numpy(bits)[:numbers] >= dropped - LEVELS // 2
    return kept.to(dtype).view(shape), 1 - dropped / LEVELS


def _is_slow(query: Tensor, key: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool) -> bool:
    """Whether PyTorch's attention is slower than the one written out here, which must be able to take its place."""
    if type(query) is not Tensor or query.device.type != "cpu" or (is_causal and attn_mask is not None):
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    if not (can_draw(dropout_p) if dropout_p else dtype == torch.bfloat16 and key.shape[-2] <= LONGEST):
        return False
    # A query that may look at nothing gets zeros of PyTorch; a softmax over nothing is not a number.
    if attn_mask is None:
        return True
    may_look = attn_mask.any(-1) if attn_mask.dtype == torch.bool else attn_mask.amax(-1) > -torch.inf
    return bool(may_look.all())
