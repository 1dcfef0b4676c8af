"""How many inputs that nobody wrote every reader takes or refuses, and that no other error leaves one.

    python -m benchmarks.fuzz --examples 100000

Ends with exit code 1 where an input led to another error than a refusal, or to rows that are not those of the input.
"""

import argparse
import itertools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from common.console import draw_table
from tests.fuzz.reader import Tally, fuzz
from tests.fuzz.table import READERS

import datasets


def main() -> None:
    """Try the inputs and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000, help="inputs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share the readers (default: %(default)s)"
    )
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    shares = list(itertools.accumulate((reader.share for reader in READERS), initial=0))
    # Rounded so that the inputs of all readers are as many as asked for.
    borders = [args.examples * share // shares[-1] for share in shares]
    examples = [end - start for start, end in itertools.pairwise(borders)]
    table = [["reader", "tried", "accepted", "refused", "other errors", "seconds"]]
    total, errors = [0, 0, 0, 0, 0.0], []
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
        tried = pool.map(try_reader, range(len(READERS)), examples, itertools.repeat(args.seed))
        for reader, (tally, seconds) in zip(READERS, tried, strict=True):
            counts = [tally.tried, tally.accepted, tally.refused, tally.failed, seconds]
            total = [one + other for one, other in zip(total, counts, strict=True)]
            table.append([reader.name, *format_counts(counts)])
            errors += [
                f"{reader.name}: {count} x {name}, as for {shown}" for name, (count, shown) in tally.errors.items()
            ]
            print(f"{reader.name}: {tally.tried:,} in {seconds:.0f} s", flush=True)
    table.append(["all", *format_counts(total)])
    print("\n".join(["", *draw_table(table), "", *errors]))
    raise SystemExit(1 if errors else 0)


def try_reader(number: int, examples: int, seed: int) -> tuple[Tally, float]:
    """What became of so many inputs of a reader, and the seconds that it took."""
    datasets.disable_progress_bars()
    start = time.perf_counter()
    return fuzz(READERS[number], examples, seed, keep_going=True), time.perf_counter() - start


def format_counts(counts: list[float]) -> list[str]:
    """The cells of a line of the table."""
    return [f"{count:,.0f}" for count in counts]


if __name__ == "__main__":
    main()
