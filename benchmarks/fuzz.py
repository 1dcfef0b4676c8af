"""How many inputs that nobody wrote every reader takes or refuses, and that no other error leaves one.

    python -m benchmarks.fuzz --examples 100000

Ends with exit code 1 where an input led to another error than a refusal, or to rows that are not those of the input.
"""

import argparse
import os
import time

from common.console import draw_table
from tests.fuzz.reader import fuzz
from tests.fuzz.table import READERS

import datasets


def main() -> None:
    """Try the inputs, reader by reader, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000, help="inputs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs (default: %(default)s)")
    parser.add_argument("--only", default="", help="readers whose name holds this text")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    datasets.disable_progress_bars()
    readers = [reader for reader in READERS if args.only in reader.name]
    shares = sum(reader.share for reader in readers)
    table = [["reader", "tried", "accepted", "refused", "other errors", "seconds"]]
    total, errors = [0, 0, 0, 0, 0.0], []
    for number, reader in enumerate(readers):
        start = time.perf_counter()
        # Rounded so that the inputs of all readers are as many as asked for.
        before = sum(each.share for each in readers[:number])
        examples = args.examples * (before + reader.share) // shares - args.examples * before // shares
        tally = fuzz(reader, examples, args.seed, keep_going=True)
        counts = [tally.tried, tally.accepted, tally.refused, tally.failed, time.perf_counter() - start]
        total = [one + other for one, other in zip(total, counts, strict=True)]
        table.append([reader.name, *format_counts(counts)])
        errors += [f"{reader.name}: {count} x {name}, as for {shown}" for name, (count, shown) in tally.errors.items()]
        print(f"{reader.name}: {tally.tried:,} in {counts[-1]:.0f} s", flush=True)
    table.append(["all", *format_counts(total)])
    print("\n".join(["", *draw_table(table), "", *errors]))
    raise SystemExit(1 if errors else 0)


def format_counts(counts: list[float]) -> list[str]:
    """The cells of a line of the table."""
    return [f"{count:,.0f}" for count in counts]


if __name__ == "__main__":
    main()
