"""Runs that are killed at random moments, started again until they end, and compared with the run left alone.

    python -m benchmarks.kills                      # 20 kills over the six recipes
    python -m benchmarks.kills --kills 200 --seed 1
    python -m benchmarks.kills --recipe ner qa

A kill is SIGKILL for a run's whole process group, at a moment drawn evenly from the time that a run left alone takes:
it hits the start, training, saving, evaluation, or the writing of the result. The same command then goes on; it may be
killed again. What ends must agree with the run left alone in every bit of its weights, of the checkpoints that are
left, of the predictions and of the losses in its history. The exit code is 1 where one does not.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fault import NEEDED_FLAGS, RECIPES
from tests.faults.forked import Run, start_recipe
from tests.interruption import describe_result, list_short_flags, list_steps

LIMIT = 300  # seconds: a start that takes longer hangs
# Where a kill has hit, by what it left behind.
PLACES = ("before step 2", "training", "saving", "writing the result", "after the end")
ENDS = ("exact", "inexact", "refused", "hung")


@dataclass
class Campaign:
    """What became of the killed runs of a recipe."""

    recipe: str
    places: Counter = field(default_factory=Counter)  # of the kills
    ends: Counter = field(default_factory=Counter)  # of the starts after a kill, by the end of the run
    runs: int = 0
    seconds: float = 0.0  # of the run left alone
    failures: list[str] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        return self.ends["exact"] == self.places.total() and not self.failures


def list_flags(recipe: str, output: Path, *flags: object) -> list[object]:
    """Fourteen steps in three epochs, a checkpoint after every second one, as small as they can be."""
    model = [*NEEDED_FLAGS[recipe][:2], "--vocab_size", "600"]
    faster = ["--predict_with_generate", "false"] if "encoder_tiny" not in NEEDED_FLAGS[recipe] else []
    every = ["--max_steps", "14", "--save_steps", "2", "--eval_steps", "2"]
    return list_short_flags(recipe, model, output, *every, *faster, *flags)


def kill(started) -> None:
    """End a run and all that it has started at once, as no program can prevent."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(started.process.pid, signal.SIGKILL)
        os.killpg(started.process.pid, signal.SIGKILL)


def find_place(output: Path) -> str:
    """What a run was doing when it was killed."""
    if (output / "metrics.json").exists():
        return "after the end"
    steps = list_steps(output)
    if steps and not (output / f"checkpoint-{steps[-1]}" / "manifest.json").exists():
        return "saving"
    if not steps:
        return "before step 2"
    return "writing the result" if steps[-1] == 14 else "training"


def judge_end(run: Run, output: Path, whole: dict[str, object]) -> tuple[str, str]:
    """Which of ENDS a run has come to, and the words or files that show it."""
    if run.timed_out:
        return "hung", run.tail()
    if run.code != 0:
        return "refused", run.tail()
    found = describe_result(output)
    # Rotation has deleted older checkpoints.
    different = [name for name, value in found.items() if value != whole[name]]
    return ("inexact", ", ".join(different)) if different else ("exact", "")


def run_until_it_ends(campaign: Campaign, flags: list, output: Path, whole: dict, drawn: random.Random, kills: int):
    """Start a run, kill it up to `kills` times, each time at a random moment, and judge what it comes to."""
    shutil.rmtree(output, ignore_errors=True)
    campaign.runs += 1
    killed = 0
    while True:
        started = start_recipe(campaign.recipe, *flags)
        if killed < kills:
            started.process.join(drawn.uniform(0, campaign.seconds))
            if started.process.exitcode is None:
                kill(started)
                started.finish()
                campaign.places[find_place(output)] += 1
                killed += 1
                continue
        end, evidence = judge_end(started.finish(LIMIT), output, whole)
        campaign.ends[end] += killed
        if end != "exact":
            campaign.failures.append(f"{campaign.recipe}, run {campaign.runs}: {end}: {evidence}")
            output.rename(output.with_name(f"{end}-{campaign.runs}"))
        return


def run_campaign(recipe: str, kills: int, seed: int, folder: Path) -> Campaign:
    """What becomes of a recipe's runs that are killed this often in all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output, campaign, drawn = folder / "result", Campaign(recipe), random.Random(f"{seed} {recipe}")
    start_recipe(recipe, "--help").finish(LIMIT)  # the first one waits until the libraries are loaded
    start = time.perf_counter()
    run = start_recipe(recipe, *list_flags(recipe, output)).finish(LIMIT)
    campaign.seconds = time.perf_counter() - start
    if run.code != 0:
        raise SystemExit(f"{recipe}: the run left alone fails: {run.tail()}")
    whole = describe_result(output)
    # The same place for all: a run's config.yaml names it.
    output.rename(folder / "whole")
    flags = list_flags(recipe, output, "--save_total_limit", "3")
    while campaign.places.total() < kills:
        run_until_it_ends(campaign, flags, output, whole, drawn, kills - campaign.places.total())
    return campaign


def share_kills(kills: int, recipes: list[str]) -> dict[str, int]:
    """How many kills each recipe gets: as many as any other, the first ones one more."""
    return {recipe: kills // len(recipes) + (place < kills % len(recipes)) for place, recipe in enumerate(recipes)}


def draw_table(campaigns: list[Campaign]) -> str:
    """A line for each recipe, and one for all of them, in Markdown."""
    whole = Campaign("all")
    for campaign in campaigns:
        whole.places += campaign.places
        whole.ends += campaign.ends
        whole.runs += campaign.runs
    lines = ["| recipe | runs | kills | " + " | ".join((*PLACES, *ENDS)) + " |", "|---" * 12 + "|"]
    for one in [*campaigns, whole]:
        counts = [one.runs, one.places.total(), *(one.places[name] for name in PLACES), *(one.ends[e] for e in ENDS)]
        lines.append(f"| {one.recipe} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the campaigns, print the table, keep it as JSON; 1 where a run did not come to the same end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=20, help="how many in all (20)")
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES), help="which recipes (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/kills"), help="where runs are and kills.json")
    args = parser.parse_args()
    campaigns = []
    for recipe, kills in share_kills(args.kills, args.recipe).items():
        campaigns.append(run_campaign(recipe, kills, args.seed, args.output_dir.resolve() / recipe))
        print(f"{recipe}: {dict(campaigns[-1].places)} -> {dict(campaigns[-1].ends)}", flush=True)
        print(*campaigns[-1].failures, sep="\n", flush=True)
    print(draw_table(campaigns))
    content = {"kills": args.kills, "seed": args.seed, "campaigns": [vars(campaign) for campaign in campaigns]}
    (args.output_dir / "kills.json").write_text(json.dumps(content, indent=2) + "\n")
    return 0 if all(campaign.is_exact for campaign in campaigns) else 1


if __name__ == "__main__":
    sys.exit(main())
