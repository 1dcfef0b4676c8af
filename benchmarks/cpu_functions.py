"""A training step on a CPU with PyTorch's dropout and attention, and with those that the recipes train with.

    python -m benchmarks.cpu_functions

The steps of both alternate, so that what else the machine does slows both; each batch is of random tokens, and has one
length, so that no step prepares kernels for a new shape. A ratio is of two neighbouring steps.
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


def measure_steps(name: str, length: int, dtype: torch.dtype, rows: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds of steps with PyTorch's functions, and of the steps with ours that came next."""
    model_class, config_class, size = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config_class(**size, vocab_size=VOCAB_SIZE)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(5, VOCAB_SIZE, (rows, length))
    pairs = []
    for _ in range(WARM + repeats):
        pair = []
        for functions in (contextlib.nullcontext, quick_functions):
            begun = time.perf_counter()
            with functions():
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            pair.append(time.perf_counter() - begun)
        pairs.append((pair[0], pair[1]))
    return pairs[WARM:]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 128, 256, 512], help="Tokens of a row.")
    parser.add_argument("--rows", type=int, default=16, help="Rows of a batch. Default: %(default)s")
    parser.add_argument("--repeats", type=int, default=9, help="Steps of each kind. Default: %(default)s")
    args = parser.parse_args(arguments)
    table, figures = [["model", "dtype", "length", "ms a step, PyTorch's", "ours", "times as fast"]], []
    for name in MODELS:
        for dtype in (torch.bfloat16, torch.float32):
            for length in args.lengths:
                pairs = measure_steps(name, length, dtype, args.rows, args.repeats)
                ratios = [theirs / ours for theirs, ours in pairs]
                medians = [f"{1000 * statistics.median(side):.0f}" for side in zip(*pairs, strict=True)]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                kind = str(dtype).removeprefix("torch.")
                table.append([name, kind, str(length), *medians, ratio])
                figures.append({"model": name, "dtype": kind, "length": length, "seconds": pairs})
    say("\n".join(draw_table(table, texts=2)))
    write_json(OUTPUT, {"threads": torch.get_num_threads(), "rows": args.rows, "figures": figures})


if __name__ == "__main__":
    main()
