"""The result directory: the same files for every recipe, each written whole or not at all.

Weights, tokenizer and `config.json` at the top load with the matching Auto class. Beside them: `recipe.json` (what
prediction needs to know), `config.yaml` (running it again gives the same run), `predictions_<split>.jsonl`,
`history.csv`, `plots/`, `report.html`, `README.md` (the model card) and, written last, `metrics.json`: a directory with
it holds a finished run.
"""

import copy
import csv
import io
import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from common.adapters import ADAPTER_DIRECTORY, has_ranks_to_prune, mark_kept_ranks, merge_adapter, put_adapter
from common.console import say
from common.model_card import write_model_card
from common.models import choose_frozen_dtype, load_weights
from common.plots import plot_bars, plot_confusions, plot_learning_curve
from common.provenance import PACKAGES
from common.report import write_report
from common.sharding import whole_state_dict

import torch
import transformers
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

CONFIG_FILE, METRICS_FILE, RECIPE_FILE = "config.yaml", "metrics.json", "recipe.json"


@dataclass
class Outcome:
    """What a recipe hands over at its end; everything that is written about the run is made from it."""

    task: str  # the Hub's name of the task, as in pipeline()
    headline: list[str]  # the scores that are shown first
    facts: dict = field(default_factory=dict)  # what prediction must know: labels, lengths, prefixes, ...
    metrics: dict[str, float] = field(default_factory=dict)  # validation_<name>, test_<name>
    bars: dict[str, dict[str, float]] = field(default_factory=dict)  # a bar chart for each title: label -> value
    slices: dict[str, dict[str, float]] = field(default_factory=dict)  # likewise, drawn in the order given
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
        save_model(trainer, model_args)
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
        "command": " ".join(["accelerate", "launch", *sys.argv]),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    write_json(output_dir / RECIPE_FILE, recipe)
    plots = []
    if args.do_train:
        write_history(output_dir / "history.csv", trainer.state.log_history)
        path = _name_plot(output_dir, "learning curve")
        plots += plot_learning_curve(trainer.state.log_history, path, outcome.headline)
    for title, values in outcome.bars.items():
        plots += plot_bars(title, values, _name_plot(output_dir, title))
    for title, values in outcome.slices.items():
        plots += plot_bars(title, values, _name_plot(output_dir, title), in_order=True)
    for title, (labels, counts) in outcome.matrices.items():
        plots += plot_confusions(title, labels, counts, _name_plot(output_dir, title))
    write_report(output_dir / "report.html", outcome, recipe, plots, args)
    if args.do_train:
        write_model_card(output_dir, outcome, recipe, args)
    write_json(output_dir / METRICS_FILE, outcome.metrics)
    say_scores(output_dir, outcome)
    if trainer.tracked_run is not None:
        trainer.tracked_run.finish(args, outcome)


def _name_plot(output_dir: Path, title: str) -> Path:
    return output_dir / "plots" / f"{title.lower().replace(' ', '_')}.png"


def save_model(trainer, model_args) -> None:
    """Write weights and tokenizer so that the Auto class loads them; an adapter merged, and as it is in `adapter/`.

    An adapter alone does not hold the labels of the head, and `pipeline()` would load it wrongly. Virtual tokens cannot
    be merged: then there are no weights at the top, so that nobody takes those of the base for the trained ones.
    """
    output_dir = Path(trainer.args.output_dir)
    if not model_args.use_peft:
        with whole_state_dict(trainer.accelerator):
            trainer.save_model(str(output_dir))
    else:
        if has_ranks_to_prune(trainer.model):
            mark_kept_ranks(trainer.model)
        with whole_state_dict(trainer.accelerator):
            trainer.save_model(str(output_dir / ADAPTER_DIRECTORY))
        if trainer.args.should_save:
            save_adapted(trainer, model_args, output_dir)
    if trainer.args.should_save:
        # A pickle of all arguments: nothing reads it, and it would travel with the model.
        for pickled in (output_dir / "training_args.bin", output_dir / ADAPTER_DIRECTORY / "training_args.bin"):
            pickled.unlink(missing_ok=True)


def save_adapted(trainer, model_args, output_dir: Path) -> None:
    """Write the adapted model whole: the adapter merged into weights that are loaded anew.

    Those in memory may be rounded to 4 bits, or divided between processes; merging would round the adapter off too.
    """
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    live = adapted.get_base_model()
    config = copy.deepcopy(live.config)
    if model_args.quantizes:
        del config.quantization_config
    trainer.processing_class.save_pretrained(output_dir)
    if adapted.active_peft_config.is_prompt_learning:
        config.architectures = [type(live).__name__]
        config.save_pretrained(output_dir)
        if live.can_generate():
            live.generation_config.save_pretrained(output_dir)
        return
    # Else from_pretrained would divide what only this process loads.
    unset_hf_deepspeed_config()
    dtype = torch.float32 if model_args.quantizes else choose_frozen_dtype(trainer.args)
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # that the base has no such head was said when training began
    base = load_weights(type(live), model_args, config, dtype).float()  # bfloat16 would round the adapter off too
    transformers.utils.logging.set_verbosity(verbosity)
    merged = merge_adapter(put_adapter(base, output_dir / ADAPTER_DIRECTORY))
    if live.can_generate():
        merged.generation_config = live.generation_config
    merged.save_pretrained(output_dir)


def save_predictions(training_args, split: str, rows: Iterable[dict]) -> None:
    """Write `predictions_<split>.jsonl`, one line a row, in the order of the rows."""
    if training_args.should_save:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(Path(training_args.output_dir) / f"predictions_{split}.jsonl", "".join(lines))


def write_history(path: Path, log_history: list[dict]) -> None:
    """Everything that was logged while training, a line a step, as a table."""
    names = sorted({name for entry in log_history for name in entry} - {"step", "epoch"})
    table = io.StringIO()
    writer = csv.DictWriter(table, ["step", "epoch", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(log_history)
    write_text(path, table.getvalue())


def say_scores(output_dir: Path, outcome: Outcome) -> None:
    """The scores that matter and the files to open, as the last lines of a run."""
    say()
    baselines = outcome.list_headline_scores("baseline_")
    for split, scores in outcome.list_headline_scores().items():
        for title, values in ((split, scores), ("  baseline", baselines.get(split, {}))):
            if values:
                say(f"{title:<12} " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    say(f"results      {output_dir}")
    say(f"report       {output_dir / 'report.html'}")
    for path in sorted(output_dir.glob("predictions_*.jsonl")):
        say(f"predictions  {path}")


def write_text(path: Path, text: str) -> None:
    """Write `text` under another name first, so that a reader or a crash never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, content) -> None:
    """Write `content` as JSON that people can read."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path):
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
