"""`python -m benchmarks.reliability`: brings every fault of the table about, and prints how each run took it.

A row is as bad as the worst of its cases. Beside our verdicts stand those on Hugging Face's own scripts (transformers
5.23, its examples of January 2026 and TRL 1.16 for dialogues), which were measured once, on another machine, and are
not run here. Exit code 1 where a fault does harm.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.atomic_files import write_json
from common.console import draw_table, say
from tests.faults.fault import VERDICTS, Fault, Finding
from tests.faults.table import FAULTS

OUTPUT = Path("outputs/reliability.json")


def try_fault(fault: Fault, quick: bool) -> dict:
    """The worst verdict on a fault over its cases, what each of them showed, and the seconds that it took."""
    findings, begun = {}, time.perf_counter()
    for case in fault.cases:
        if quick and case.is_slow:
            continue
        with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as folder:
            try:
                findings[case.name] = case.attempt(Path(folder))
            except Exception as error:  # the case itself went wrong, which must not end the others
                findings[case.name] = Finding("obscure", f"{type(error).__name__}: {error}")
    verdict = max((finding.verdict for finding in findings.values()), key=VERDICTS.index, default="not tried")
    return {
        "fault": fault.number,
        "what": fault.what,
        "plain": fault.plain,
        "ours": verdict,
        "cases": {name: vars(finding) for name, finding in findings.items()},
        "untried": fault.untried,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def count_verdicts(rows: list[dict], column: str) -> list[str]:
    """How many rows have each verdict, and how many none."""
    counts = Counter(row[column] for row in rows)
    others = sum(number for verdict, number in counts.items() if verdict not in VERDICTS)
    return [str(counts[verdict]) for verdict in VERDICTS] + [str(others)]


def main(arguments: list[str] | None = None) -> int:
    """Try the faults that are asked for, print and write the scoreboard; 1 where one does harm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="Groups or faults, with commas: A,B,C14. Default: all.")
    parser.add_argument("--quick", action="store_true", help="Leave out what `make test` leaves out.")
    parser.add_argument("--workers", type=int, default=2, help="Faults that are tried at the same time.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="Where the findings are written.")
    args = parser.parse_args(arguments)
    wanted = args.only.split(",") if args.only else []
    faults = [fault for fault in FAULTS if not wanted or fault.number in wanted or fault.number[0] in wanted]
    with ThreadPoolExecutor(args.workers) as pool:
        rows = []
        for row in pool.map(lambda fault: try_fault(fault, args.quick), faults):
            rows.append(row)
            said = row["untried"] or ("" if row["ours"] in ("survives", "clear") else str(row["cases"]))
            say(f"{row['fault']:<5} {row['ours']:<15} {row['what']}  {said}".rstrip())
    write_json(args.output, rows)
    say()
    table = [["group", "faults", *VERDICTS, "not tried or measured"]]
    for letter in (*dict.fromkeys(row["fault"][0] for row in rows), ""):
        group = [row for row in rows if row["fault"].startswith(letter)]
        for column, name in (("ours", "these recipes"), ("plain", "Hugging Face's scripts")):
            table.append([f"{letter or 'all'}, {name}", str(len(group)), *count_verdicts(group, column)])
    say("\n".join(draw_table(table)))
    say(f"findings   {args.output}")
    return int(any(row["ours"] not in ("survives", "clear", "not tried") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
