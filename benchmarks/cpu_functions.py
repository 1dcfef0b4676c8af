"""A training step on a CPU with PyTorch's dropout and attention, and with those that the recipes train with.

    python -m benchmarks.cpu_functions

The steps of both alternate, so that what else the machine does slows both; each batch is of random tokens, and has one
length, so that no step prepares kernels for a new shape. A ratio is of two neighbouring steps. Beside them stands what
the gradients lose in bfloat16.
"""

import argparse
import contextlib
import statistics
import time
from pathlib import Path

from common.atomic_files import write_json
from common.console import draw_table, say
from common.cpu_functions import quick_functions
from common.from_scratch import DECODER_PRESETS, ENCODER_PRESETS

import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

OUTPUT = Path("outputs/benchmarks/cpu_functions.json")
VOCAB_SIZE = 8000
WARM = 2  # steps of each kind that are not measured
# A model with dropout, also of attention's weights, and one without.
MODELS = {
    "encoder_small": (BertForMaskedLM, BertConfig, ENCODER_PRESETS["encoder_small"]),
    "decoder_small": (LlamaForCausalLM, LlamaConfig, DECODER_PRESETS["decoder_small"]),
}


def make_step(name: str, length: int, rows: int):
    """A new model and a batch for it: always the same."""
    model_class, config_class, size = MODELS[name]
    torch.manual_seed(0)
    return model_class(config_class(**size, vocab_size=VOCAB_SIZE)), torch.randint(5, VOCAB_SIZE, (rows, length))


def compute_gradients(model, ids: torch.Tensor, dtype: torch.dtype) -> None:
    """Forward and backward pass of a step in this dtype."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()


def measure_steps(name: str, length: int, dtype: torch.dtype, rows: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds of steps with PyTorch's functions, and of the steps with ours that came next."""
    model, ids = make_step(name, length, rows)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)
    pairs = []
    for _ in range(WARM + repeats):
        pair = []
        for functions in (contextlib.nullcontext, quick_functions):
            begun = time.perf_counter()
            with functions():
                compute_gradients(model, ids, dtype)
            optimizer.step()
            optimizer.zero_grad()
            pair.append(time.perf_counter() - begun)
        pairs.append((pair[0], pair[1]))
    return pairs[WARM:]


def measure_errors(name: str, length: int, rows: int) -> list[float]:
    """How far gradients in bfloat16 are from those in float32, as a share of their norm: with PyTorch's, and with ours.

    Without dropout, of which no two drop the same.
    """
    model, ids = make_step(name, length, rows)
    model.eval()
    found = []
    for functions, dtype in (
        (contextlib.nullcontext, torch.float32),
        (contextlib.nullcontext, torch.bfloat16),
        (quick_functions, torch.bfloat16),
    ):
        with functions():
            compute_gradients(model, ids, dtype)
        found.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
        model.zero_grad()
    return [((gradients - found[0]).norm() / found[0].norm()).item() for gradients in found[1:]]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 128, 256, 512], help="Tokens of a row.")
    parser.add_argument("--rows", type=int, default=16, help="Rows of a batch. Default: %(default)s")
    parser.add_argument("--repeats", type=int, default=9, help="Steps of each kind. Default: %(default)s")
    args = parser.parse_args(arguments)
    head = ["model", "dtype", "length", "ms a step, PyTorch's", "ours", "times as fast", "error %, PyTorch's", "ours"]
    table, figures = [head], []
    for name in MODELS:
        for dtype in (torch.bfloat16, torch.float32):
            for length in args.lengths:
                pairs = measure_steps(name, length, dtype, args.rows, args.repeats)
                ratios = [theirs / ours for theirs, ours in pairs]
                medians = [f"{1000 * statistics.median(side):.0f}" for side in zip(*pairs, strict=True)]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                kind = str(dtype).removeprefix("torch.")
                errors = measure_errors(name, length, args.rows) if dtype == torch.bfloat16 else []
                shares = [f"{100 * error:.2f}" for error in errors] or ["", ""]
                table.append([name, kind, str(length), *medians, ratio, *shares])
                figures.append({"model": name, "dtype": kind, "length": length, "seconds": pairs, "errors": errors})
    say("\n".join(draw_table(table, texts=2)))
    say("error: the distance of bfloat16's gradients to those of float32, of their norm, without dropout")
    write_json(OUTPUT, {"threads": torch.get_num_threads(), "rows": args.rows, "figures": figures})


if __name__ == "__main__":
    main()
