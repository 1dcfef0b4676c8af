"""The result directory: the same files for every recipe, each written whole or not at all.

Weights, tokenizer and `config.json` at the top load with the matching Auto class. Beside them: `recipe.json` (what
prediction needs to know), `config.yaml` (running it again gives the same run), `training_args.json` (what Hugging Face
made of it), `predictions_<split>.jsonl`, `history.csv`, `plots/`, `report.html`, `README.md` (the model card) and,
written last, `metrics.json`: a directory with it holds a finished run.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common.atomic_files import write_json, write_lines, write_text
from common.checkpoints import seal_directory
from common.console import say
from common.disk import describe_write_failure
from common.errors import UserError
from common.guarded_tracker import note_success
from common.intervals import format_interval
from common.locking import release_directory
from common.overview import count_parameters, sum_counts
from common.provenance import list_versions
from common.result_files import CONFIG_FILE, METRICS_FILE, RECIPE_FILE
from common.saving import list_model_files, save_model
from common.stopping import forget_signals
from common.tables import draw_csv
from common.upload import upload_result


@dataclass
class Outcome:
    """What a recipe hands over at its end; everything that is written about the run is made from it."""

    task: str  # the Hub's name of the task, as in pipeline()
    headline: list[str]  # the scores that are shown first
    facts: dict = field(default_factory=dict)  # what prediction must know: labels, lengths, prefixes, ...
    metrics: dict = field(default_factory=dict)  # <split>_<name>; <split>_intervals: name -> [low, high]
    bars: dict[str, dict[str, float]] = field(default_factory=dict)  # a bar chart for each title: label -> value
    slices: dict[str, dict[str, float]] = field(default_factory=dict)  # likewise, drawn in the order given
    spreads: dict[str, list[float]] = field(default_factory=dict)  # a histogram for each title: the score of each row
    reliabilities: dict[str, tuple] = field(default_factory=dict)  # for each title: probabilities, which are right
    tables: dict[str, list[dict]] = field(default_factory=dict)  # a table for each title: its rows
    matrices: dict[str, tuple] = field(default_factory=dict)  # for each title: labels, counts (gold down)

    def add_scores(self, split: str, scores: dict[str, float]) -> None:
        """Keep the scores of a split."""
        self.metrics |= {f"{split}_{name}": value for name, value in scores.items()}

    def add_baseline(self, split: str, scores: dict[str, float]) -> None:
        """Keep the headline scores that something simpler reaches, to be shown beside the model's."""
        kept = {name: scores[name] for name in self.headline if name in scores}
        self.metrics |= {f"{split}_baseline_{name}": value for name, value in kept.items()}

    def add_confusions(self, split: str, label_names: list[str], counts: list[list[int]]) -> None:
        """Keep how many rows of each label (down) were given each label (across)."""
        self.metrics[f"{split}_confusion_matrix"] = counts
        self.matrices[f"{split} confusion matrix"] = (label_names, counts)

    def list_intervals(self, split: str) -> dict[str, list[float]]:
        """[low, high] of those headline scores of a split that have an interval."""
        return self.metrics.get(f"{split}_intervals", {})

    def list_headline_scores(self, source: str = "") -> dict[str, dict[str, float]]:
        """The headline scores by split, splits without scores left out; those of the `source` baseline_ on request."""
        by_split = {
            split: {
                name: self.metrics[f"{split}_{source}{name}"]
                for name in self.headline
                if f"{split}_{source}{name}" in self.metrics
            }
            for split in ("validation", "test")
        }
        return {split: scores for split, scores in by_split.items() if scores}


def finish_run(trainer, outcome: Outcome, model_args, data_args) -> None:
    """Write the result directory, say the scores and where to look."""
    args = trainer.args
    output_dir = Path(args.output_dir)
    if args.do_train:
        try:
            save_model(trainer, model_args)
        except Exception as error:
            reason = describe_write_failure(error)
            if reason is None:
                raise
            raise UserError(
                f"{output_dir}: the trained model could not be written: {reason}. Make room: the same command goes on "
                "from the last checkpoint."
            ) from error
    if not args.should_save:
        return
    write_text(output_dir / CONFIG_FILE, args.config_text)
    recipe = {
        "task": outcome.task,
        "headline": outcome.headline,
        **outcome.facts,
        "base_model": model_args.model_name_or_path or f"from scratch ({model_args.from_scratch})",
        "dataset": data_args.dataset_name or data_args.train_file or data_args.test_file,
        "language": data_args.language,
        "seed": args.seed,
        **(_measure_training(trainer) if args.do_train else {}),
        "command": " ".join(["accelerate", "launch", *sys.argv]),
        **list_versions(),
    }
    write_json(output_dir / RECIPE_FILE, recipe)
    if args.do_train:
        write_history(output_dir / "history.csv", trainer.state.log_history)
    # What draws and resamples takes seconds to import, which the first step of a run would otherwise wait for.
    from common.presentation import present_result

    present_result(trainer, outcome, recipe, model_args)
    if args.do_train:
        seal_directory(output_dir, [*list_model_files(output_dir), output_dir / RECIPE_FILE], args.identity)
    write_json(output_dir / METRICS_FILE, outcome.metrics)
    release_directory(output_dir)
    forget_signals()
    say_scores(output_dir, outcome)
    if trainer.tracked_run is not None:
        trainer.tracked_run.finish(args, outcome)
    note_success()
    if args.push_to_hub:
        upload_result(output_dir, trainer.hub_model_id, args)


def _measure_training(trainer) -> dict:
    """How many weights were trained of how many, and the seconds that it took, after a resume those since then."""
    trained, total = sum_counts(count_parameters(trainer.model))
    seconds = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    return {
        "parameters": {"trained": trained, "total": total},
        "train_seconds": seconds[-1] if seconds else None,
        "weights": trainer.weights,
        "skipped_steps": trainer.guard.skipped,
    }


def save_predictions(training_args, split: str, rows: Iterable[dict]) -> None:
    """Write `predictions_<split>.jsonl`, one line a row, in the order of the rows."""
    if training_args.should_save:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_lines(Path(training_args.output_dir) / f"predictions_{split}.jsonl", lines)


def write_history(path: Path, log_history: list[dict]) -> None:
    """Everything that was logged while training, a line a step, as a table."""
    names = sorted({name for entry in log_history for name in entry} - {"step", "epoch"})
    write_text(path, draw_csv(["step", "epoch", *names], log_history))


def say_scores(output_dir: Path, outcome: Outcome) -> None:
    """The scores that matter and the files to open, as the last lines of a run."""
    say()
    baselines = outcome.list_headline_scores("baseline_")
    for split, scores in outcome.list_headline_scores().items():
        for title, values in ((split, scores), ("  baseline", baselines.get(split, {}))):
            intervals = outcome.list_intervals(split) if values is scores else {}
            if values:
                said = (f"{name} {value:.4f}{format_interval(intervals.get(name))}" for name, value in values.items())
                say(f"{title:<12} " + "  ".join(said))
    say(f"results      {output_dir}")
    say(f"report       {output_dir / 'report.html'}")
    for path in sorted(output_dir.glob("predictions_*.jsonl")):
        say(f"predictions  {path}")
