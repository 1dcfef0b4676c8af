"""What it costs to seal a checkpoint when it is saved, and to check it before a run goes on from it.

    python -m benchmarks.sealing

Files of random bytes as large as weights and optimizer of a model; written is what saving takes without a seal.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from common.atomic_files import write_json
from common.checkpoints import find_defect, seal_checkpoint
from common.console import draw_table, say

MEGABYTE = 1_000_000
OUTPUT = Path("outputs/benchmarks/sealing.json")


def time_call(function, *arguments) -> float:
    """The seconds that a call takes."""
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def write_files(directory: Path, megabytes: int) -> None:
    """A third of the bytes in a file of weights, two thirds in one of the optimizer, some small files beside them."""
    sizes = {"model.safetensors": megabytes * MEGABYTE // 3, "optimizer.pt": megabytes * MEGABYTE * 2 // 3}
    sizes |= {"scheduler.pt": 1500, "rng_state.pth": 14_000, "trainer_state.json": 5000, "config.json": 1000}
    for name, size in sizes.items():
        with (directory / name).open("wb") as file:
            for start in range(0, size, MEGABYTE):
                file.write(os.urandom(min(MEGABYTE, size - start)))


def measure(megabytes: int, folder: Path) -> dict[str, float]:
    """The seconds of one checkpoint of this size: written, sealed, checked."""
    directory = folder / "checkpoint-1"
    directory.mkdir()
    seconds = {"written": time_call(write_files, directory, megabytes)}
    seconds["sealed"] = time_call(seal_checkpoint, directory)
    seconds["checked"] = time_call(find_defect, directory)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table of medians with lowest and highest, and write every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[6, 100, 1000], help="Sizes of the checkpoints.")
    parser.add_argument("--repeats", type=int, default=5, help="Checkpoints of each size.")
    args = parser.parse_args(arguments)
    table, figures = [["MB", "seconds to write", "to seal", "to check"]], []
    for megabytes in args.megabytes:
        rows = []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(megabytes, Path(folder)))
        figures += [{"megabytes": megabytes, **row} for row in rows]
        cells = []
        for name in rows[0]:
            values = sorted(row[name] for row in rows)
            cells.append(f"{values[len(values) // 2]:.3f} ({values[0]:.3f} to {values[-1]:.3f})")
        table.append([str(megabytes), *cells])
    say("\n".join(draw_table(table)))
    write_json(OUTPUT, figures)


if __name__ == "__main__":
    main()
