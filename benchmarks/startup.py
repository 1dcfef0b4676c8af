"""What it saves that imported modules are not searched for garbage: seconds to the first step, and in all, of a demo.

    python -m benchmarks.startup --recipe ner --rounds 5

Each round is a run as users get it, and one in which Python searches as it does by itself; which is first changes.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contestants import ROOT, describe_machine
from common.atomic_files import write_json
from common.console import draw_table, say
from common.errors import UserError, install_error_hook

OUTPUT = Path("outputs/benchmarks/startup.json")
AS_PYTHON_DOES = """
import runpy, sys
import common.garbage
common.garbage.search_as_usual()
common.garbage.settle_imports = lambda: None
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def time_run(recipe: str, is_ours: bool) -> dict[str, float]:
    """The seconds of one epoch of a recipe's demo until its first step has been said, and to its end."""
    folder = ROOT / "recipes" / recipe
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-u", *([] if is_ours else ["-c", AS_PYTHON_DOES]), folder / "run.py"]
        command += ["--config", folder / "configs" / "demo.yaml", "--output_dir", f"{output}/result"]
        command += ["--num_train_epochs", "1", "--logging_steps", "1", "--report_to", "none"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        begun, first = time.perf_counter(), None
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = []
        for line in process.stdout:
            said.append(line)
            if first is None and line.startswith("step 1/"):
                first = time.perf_counter() - begun
        if process.wait() or first is None:
            raise UserError(f"{recipe}: the run ended with exit code {process.returncode}: {''.join(said[-5:])}")
        return {"first step": first, "in all": time.perf_counter() - begun}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table of medians with lowest and highest, and write every figure."""
    install_error_hook()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="ner", help="Default: %(default)s.")
    parser.add_argument("--rounds", type=int, default=5, help="Default: %(default)s.")
    args = parser.parse_args(arguments)
    figures = {"as Python does": [], "ours": []}
    for number in range(args.rounds):
        for name in sorted(figures, reverse=number % 2 == 1):
            figures[name].append(time_run(args.recipe, name == "ours"))
    table = [["searches", "s to first step", "s in all"]]
    for name, runs in figures.items():
        columns = [sorted(run[column] for run in runs) for column in runs[0]]
        table.append([name, *(f"{statistics.median(c):.1f} ({c[0]:.1f} to {c[-1]:.1f})" for c in columns)])
    say("\n".join(draw_table(table)))
    write_json(OUTPUT, {"machine": describe_machine(), "recipe": args.recipe, "runs": figures})


if __name__ == "__main__":
    main()
