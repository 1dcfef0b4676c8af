"""A table of finished runs, the best first: `python -m common.leaderboard outputs/*`.

Runs that differ in nothing but their seed are one line, with the mean of each score and its spread over the seeds.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

from common.console import draw_table, say
from common.errors import UserError, install_error_hook
from common.lines import shorten
from common.recovery_arguments import NOT_PART_OF_A_RUN
from common.result_files import CONFIG_FILE, read_result
from common.tables import draw_csv

import yaml

SPLITS = ("validation", "test")
LONGEST = 60  # characters of the settings in a table; a csv has all


@dataclass
class Group:
    """Finished runs with the same settings but for the seed."""

    task: str
    headline: list[str]
    settings: dict
    directories: list[Path] = field(default_factory=list)
    recipes: list[dict] = field(default_factory=list)
    metrics: list[dict] = field(default_factory=list)

    def list_scores(self, name: str) -> list[float]:
        """The score of each run that has it, as of validation_f1."""
        return [metrics[name] for metrics in self.metrics if metrics.get(name) is not None]

    def find_mean(self, name: str) -> float | None:
        """The mean of a score over the runs, None where no run has it."""
        scores = self.list_scores(name)
        return statistics.mean(scores) if scores else None

    def find_spread(self, name: str) -> float | None:
        """The sample standard deviation, None of fewer than two runs."""
        scores = self.list_scores(name)
        return statistics.stdev(scores) if len(scores) > 1 else None

    def list_seeds(self) -> list[str]:
        """The seed of each run."""
        return [str(recipe.get("seed")) for recipe in self.recipes]

    def find_seconds(self) -> float | None:
        """How long a training took, on average."""
        seconds = [recipe["train_seconds"] for recipe in self.recipes if recipe.get("train_seconds") is not None]
        return statistics.mean(seconds) if seconds else None

    def find_parameters(self) -> dict[str, int]:
        """How many weights were trained, and how many there are; {} where no run says so."""
        return next((recipe["parameters"] for recipe in self.recipes if recipe.get("parameters")), {})


def group_runs(directories: list[Path]) -> tuple[list[Group], list[str]]:
    """The runs by task and settings, and for each directory that is left out a sentence why.

    Two runs with the same settings and seed are one run made twice: the second tells nothing of the spread.
    """
    groups: dict[str, Group] = {}
    skipped = []
    for directory in directories:
        try:
            recipe, metrics = read_result(directory)
            settings = read_settings(directory)
        except UserError as error:
            skipped.append(str(error))
            continue
        key = json.dumps([recipe["task"], recipe["headline"], settings], sort_keys=True, default=str)
        group = groups.setdefault(key, Group(recipe["task"], recipe["headline"], settings))
        if str(recipe.get("seed")) in group.list_seeds():
            first = group.directories[group.list_seeds().index(str(recipe.get("seed")))]
            skipped.append(f"{directory}: the run of {first} once more, with the same settings and seed.")
            continue
        group.directories.append(directory)
        group.recipes.append(recipe)
        group.metrics.append(metrics)
    return list(groups.values()), skipped


def read_settings(directory: Path) -> dict:
    """What makes a run what it is: config.yaml without the seed, and without where it was written and watched."""
    try:
        config = yaml.safe_load((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{directory}: its {CONFIG_FILE} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(config, dict):
        raise UserError(f"{directory}: its {CONFIG_FILE} is not that of a run.")
    return {name: value for name, value in config.items() if name not in {"seed", *NOT_PART_OF_A_RUN}}


def sort_groups(groups: list[Group]) -> dict[str, list[Group]]:
    """The groups of each task, the best first: by the first headline score of validation or, without one, of test."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return {task: sorted(members, key=_rank) for task, members in sorted(tasks.items())}


def _rank(group: Group) -> tuple:
    means = [group.find_mean(f"{split}_{name}") for split in SPLITS for name in group.headline[:1]]
    known = [mean for mean in means if mean is not None]
    return (means[0] is None, -known[0] if known else 0.0, str(group.directories[0]))


def list_columns(groups: list[Group]) -> list[str]:
    """The scores that any of the groups has, validation first, as of validation_f1."""
    names = [f"{split}_{name}" for split in SPLITS for group in groups for name in group.headline]
    return [name for name in dict.fromkeys(names) if any(group.list_scores(name) for group in groups)]


def list_differences(groups: list[Group]) -> list[str]:
    """For each group the settings in which the groups differ, as `learning_rate 0.0003, lora_r 8`."""
    names = sorted({name for group in groups for name in group.settings})
    varied = [name for name in names if len({str(group.settings.get(name)) for group in groups}) > 1]
    return [
        ", ".join(f"{name} {group.settings[name]}" for name in varied if group.settings.get(name) is not None)
        for group in groups
    ]


def draw_groups(groups: list[Group]) -> list[list[str]]:
    """Head and lines of a table for people, a line for each group."""
    columns = list_columns(groups)
    head = ["run", "seeds", "settings that differ", *(name.replace("_", " ", 1) for name in columns)]
    table = [[*head, "seconds", "weights trained", "of"]]
    for group, settings in zip(groups, list_differences(groups), strict=True):
        seconds, parameters = group.find_seconds(), group.find_parameters()
        more = f" and {len(group.directories) - 1} more" if len(group.directories) > 1 else ""
        table.append(
            [
                str(group.directories[0]) + more,
                " ".join(group.list_seeds()),
                shorten(settings, LONGEST),
                *(_show_score(group, name) for name in columns),
                "-" if seconds is None else f"{seconds:,.0f}",
                *(f"{parameters[name]:,}" if parameters else "-" for name in ("trained", "total")),
            ]
        )
    return table


def _show_score(group: Group, name: str) -> str:
    mean, spread = group.find_mean(name), group.find_spread(name)
    return "-" if mean is None else f"{mean:.4f}" + ("" if spread is None else f" ±{spread:.4f}")


def write_markdown(table: list[list[str]]) -> list[str]:
    """The lines of a table in Markdown; texts stand left, numbers right."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return [lines[0], "|" + "---|" * 3 + "---:|" * (len(table[0]) - 3), *lines[1:]]


def write_csv(tasks: dict[str, list[Group]]) -> str:
    """All tasks as one table, with a column for each mean and each spread; a score that a task lacks stays empty."""
    rows = []
    for task, groups in tasks.items():
        for group, settings in zip(groups, list_differences(groups), strict=True):
            row = {"task": task, "runs": " ".join(map(str, group.directories)), "seeds": " ".join(group.list_seeds())}
            row["settings"] = settings
            for name in list_columns(groups):
                row |= {name: group.find_mean(name), f"{name}_spread": group.find_spread(name)}
            parameters = {f"parameters_{name}": number for name, number in group.find_parameters().items()}
            rows.append(row | {"train_seconds": group.find_seconds(), **parameters})
    return draw_csv(list(dict.fromkeys(name for row in rows for name in row)), rows)


def read_command_line(arguments: list[str] | None = None) -> argparse.Namespace:
    """The directories and how the table is written."""
    parser = argparse.ArgumentParser(
        prog="python -m common.leaderboard",
        description="A table of finished runs, the best first; runs that differ in their seed alone are one line.",
        allow_abbrev=False,
    )
    parser.add_argument("directories", nargs="+", type=Path, help="output_dirs of runs, as outputs/*")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--csv", action="store_true", help="as csv, all tasks in one table")
    kinds.add_argument("--markdown", action="store_true", help="as tables for a README")
    return parser.parse_args(arguments)


def main() -> None:
    """Print the table of the runs that the command line names."""
    install_error_hook()
    flags = read_command_line()
    groups, skipped = group_runs(flags.directories)
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr, flush=True)
    if not groups:
        raise UserError("no finished run among these directories: there is nothing to show.")
    tasks = sort_groups(groups)
    if flags.csv:
        say(write_csv(tasks), end="")
        return
    for number, (task, members) in enumerate(tasks.items()):
        table = draw_groups(members)
        say(("\n" if number else "") + (f"**{task}**\n" if flags.markdown else f"{task}\n"))
        for line in write_markdown(table) if flags.markdown else draw_table(table, texts=3):
            say(line)


if __name__ == "__main__":
    main()
