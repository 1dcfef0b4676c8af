"""How much of the machine's arithmetic a training uses: FLOPs of its real tokens over the peak of matrix products.

    python -m benchmarks.utilization

measures the peak alone; `python -m benchmarks.speed` relates the runs to it.
"""

import argparse
import time
from pathlib import Path

from benchmarks.tokens import Sides
from common.atomic_files import write_json
from common.console import draw_table, say
from common.errors import UserError, install_error_hook

import torch
from torch import nn

SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
PASSES = 3  # a training step costs a forward pass and a backward pass of twice that
OUTPUT = Path("outputs/benchmarks/utilization.json")


def count_step_flops(model: nn.Module, sides: Sides) -> int:
    """FLOPs of training on these tokens: 6 for each weight and real token, and what attention costs.

    An embedding that is only looked up costs nothing; the layer that gives the logits of a language model counts,
    tied or not. Attention costs 4 x hidden size for each pair of tokens, forward, in each layer; in a decoder half the
    pairs.
    """
    config = model.config.get_text_config()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    output = 0 if head is None else head.weight.numel()
    weights = sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)
    if output and id(head.weight) not in tables:
        weights -= output
    layers, width = config.num_hidden_layers, config.hidden_size
    if not config.is_encoder_decoder:
        pairs = sides.source_squares * layers
        pairs = pairs // 2 if output else pairs
        return 2 * PASSES * (weights + output) * sides.source + 4 * PASSES * width * pairs
    encoder = sum(weight.numel() for weight in model.get_encoder().parameters() if id(weight) not in tables)
    dense = encoder * sides.source + (weights - encoder + output) * sides.target
    pairs = config.encoder_layers * sides.source_squares
    pairs += config.decoder_layers * (sides.target_squares // 2 + sides.products)
    return 2 * PASSES * dense + 4 * PASSES * width * pairs


def measure_peak(dtype: torch.dtype, device: str, seconds: float = 1.0) -> float:
    """FLOP/s of the fastest of several sizes of torch.matmul, each repeated for so long; the best repeat counts."""
    best = 0.0
    for size in SIZES["cpu" if device == "cpu" else "cuda"]:
        left = torch.randn(size, size, device=device).to(dtype)
        right = torch.randn(size, size, device=device).to(dtype)
        torch.matmul(left, right)
        synchronize()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            begun = time.perf_counter()
            torch.matmul(left, right)
            synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def synchronize() -> None:
    """Wait until the device has done what it was given; nothing to wait for on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    peaks = {name: measure_peak(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    say("\n".join(draw_table([["dtype", "GFLOP/s"], *([name, f"{peak / 1e9:.1f}"] for name, peak in peaks.items())])))
    write_json(OUTPUT, {"device": device, "threads": torch.get_num_threads(), "peak_flops": peaks})


def choose_device(wanted: str) -> str:
    """What `auto` is on this machine."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here. Leave it out, or set it to cpu.")
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    install_error_hook()
    main()
