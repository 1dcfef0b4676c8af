"""The W&B run of a training: begun by its first process, gone on with after a resume, ended with all that it left."""

import json
import math
import os
import re
import shlex
import sys
from functools import partial
from pathlib import Path

from common.arguments import PEFT_OPTIONS
from common.atomic_files import read_json, write_json
from common.console import say
from common.overview import count_parameters, count_rows_per_step, sum_counts
from common.panels import list_panels
from common.provenance import describe_data, describe_environment
from common.secret_scan import find_secrets
from common.streaming import StreamedDataset
from common.tracking import WANDB_FOLDER, name_project
from common.upload import list_public_files

import wandb
import yaml
from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

RUN_FILE = "run.json"
PREFERRED_VARIABLES = {  # what a user sets in the environment wins over the flag
    "project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "group": "WANDB_RUN_GROUP", "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES", "name": "WANDB_NAME", "id": "WANDB_RUN_ID", "resume": "WANDB_RESUME", "dir": "WANDB_DIR",
}  # fmt: skip
ENDS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")


class TrackedRun(TrainerCallback):
    """Hugging Face's WandbCallback made anew.

    That one begins another run at each resume, lists the settings of run and model side by side, keeps the last score
    instead of the best, and logs scores of whatever is predicted as test scores.
    """

    def __init__(self):
        self.run, self.excepthook = None, None
        self.rows, self.lengths, self.data = {}, {}, {}
        self.is_broken = False

    def note_rows(self, splits, lengths) -> None:
        """Keep how many rows there are in each split, and the lengths of their inputs in pieces."""
        self.rows = {
            name: "a stream" if isinstance(rows, StreamedDataset) else len(rows) for name, rows in splits.items()
        }
        self.lengths = lengths

    def begin(self, args, state, model) -> None:
        """Begin the run, or go on with the one that output_dir knows; only on the first process, and only once."""
        if self.run is not None or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / WANDB_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.excepthook = sys.excepthook
        # What W&B would keep in the home directory.
        self.placed = [name for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name not in os.environ]
        os.environ.update(dict.fromkeys(self.placed, str(folder.resolve())))
        self.run = start_run(args, folder)
        is_offline = self.run.offline
        sys.excepthook = partial(self._end_on_error, self.excepthook)  # in place of W&B's, which prints every traceback
        told = {name: getattr(self.run, name) for name in ("id", "entity", "project")}
        told["url"] = None if is_offline else self.run.url
        write_json(folder / RUN_FILE, told)
        self.data = describe_data(_read_groups(args.config_text)["data"])
        self.run.config.update(describe_settings(args, model, self.rows, self.data), allow_val_change=True)
        self.run.define_metric("train/global_step")
        self.run.define_metric("*", step_metric="train/global_step", step_sync=True)
        best = (args.metric_for_best_model or "loss").removeprefix("eval_")
        summary = "max,last" if args.greater_is_better else "min,last"
        self.run.define_metric(f"eval/{best}", step_metric="train/global_step", summary=summary)
        if told["url"]:
            say(f"tracking   {told['url']}")

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.begin(args, state, model)

    def on_predict(self, args, state, control, metrics, model=None, **kwargs):
        self.begin(args, state, model)  # of a run that does not train

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.run is None:
            return
        self.run.summary.update({name: value for name, value in logs.items() if name in ENDS})
        logged = rewrite_logs({name: value for name, value in logs.items() if name not in ENDS and _is_number(value)})
        # By the step of the training: what a resumed run logs once more is the same, and W&B drops it.
        self.run.log(logged | {"train/global_step": state.global_step}, step=state.global_step)
        broken = [name for name in ("loss", "eval_loss") if not math.isfinite(logs.get(name, 0))]
        if broken:
            self.alert_broken(f"{broken[0]} is {logs[broken[0]]} at step {state.global_step}.")

    def alert_broken(self, text: str) -> None:
        """Tell whoever watches that a loss or gradient is no number, the first time that it happens."""
        if self.run is not None and not self.is_broken:
            self.is_broken = True
            self.run.alert("The loss is no number", text, level=wandb.AlertLevel.ERROR)

    def on_train_end(self, args, state, control, **kwargs):
        if self.run is not None and state.global_step < state.max_steps:
            best = f"{args.metric_for_best_model} {state.best_metric}"
            text = f"At step {state.global_step} of {state.max_steps}; best: {best}."
            self.run.alert("Stopped early", text, level=wandb.AlertLevel.INFO)

    def finish(self, args, outcome) -> None:
        """Show what the evaluation left behind, upload what was asked for, and end the run."""
        if self.run is None:
            return
        output_dir = Path(args.output_dir)
        scores = {name.replace("_", "/", 1): value for name, value in outcome.metrics.items() if _is_number(value)}
        lengths = {f"inputs/{name} pieces": wandb.Histogram(values) for name, values in self.lengths.items()}
        self.run.log(scores | lengths | list_panels(outcome, output_dir, args.wandb_table_rows))
        self.run.config.update({"recipe": {**self.run.config["recipe"], "name": outcome.facts.get("recipe")}}, True)
        if not self.run.offline:  # it raises TypeError there
            self.run.use_artifact(make_lineage(self.data, self.rows))
        secrets = find_secrets(output_dir, list_public_files(output_dir)) if args.wandb_log_model else []
        if secrets:
            said = "; ".join(f"{place} looks like {kind}" for place, kind in secrets)
            say(f"W&B: the model is not uploaded, a secret could travel with it: {said}.")
        elif args.wandb_log_model and args.do_train:
            aliases = ["final", "best"] if args.load_best_model_at_end else ["final"]
            self.run.log_artifact(make_model_artifact(self.run.id, output_dir, scores), aliases=aliases)
        self.end(0)

    def end(self, exit_code: int) -> None:
        """End the run; offline, say how it is uploaded. A resume goes on with it whatever its exit code was."""
        if self.run is None:
            return
        run, self.run = self.run, None
        sys.excepthook = self.excepthook
        is_offline, folder = run.offline, Path(run.dir).parent.parent
        run.finish(exit_code=exit_code)
        for name in self.placed:
            del os.environ[name]
        if is_offline:
            # Each start of an offline run has a folder of its own; W&B puts them together.
            say(f"tracking     upload it with: wandb sync {shlex.quote(str(folder))}/offline-run-*-{run.id}")

    def _end_on_error(self, show, error_type, error, traceback):
        show(error_type, error, traceback)
        self.end(1)


def start_run(args, folder: Path) -> wandb.Run:
    """A run on W&B's server, or an offline one where the server does not take it, which is said."""
    choices = {**choose_settings(args, folder), "reinit": "finish_previous"}
    if args.wandb_mode != "offline":
        try:
            settings = wandb.Settings(quiet=True, init_timeout=args.tracker_seconds / 2)
            return wandb.init(**choices, mode=args.wandb_mode, settings=settings)
        except wandb.errors.Error as error:
            said = " ".join(str(error).split())[:200]
            say(f"W&B: {said}: offline; what to run to upload it is said at the end.")
    return wandb.init(**choices, mode="offline", settings=wandb.Settings(quiet=True, silent=True))


def choose_settings(args, folder: Path) -> dict:
    """Where the run belongs, for wandb.init; what the environment or a sweep has settled is left out."""
    known = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    settings = {
        "project": args.wandb_project or name_project(), "entity": args.wandb_entity,
        "group": args.wandb_group, "tags": args.wandb_tags, "notes": args.wandb_notes, "name": args.run_name,
        "id": known.get("id"), "resume": "allow", "dir": str(folder),
    }  # fmt: skip
    if os.environ.get("WANDB_SWEEP_ID"):
        return {"dir": settings["dir"]}  # WANDB_DIR is the agent's choice there: the current directory
    return {name: value for name, value in settings.items() if not os.environ.get(PREFERRED_VARIABLES[name])}


def describe_settings(args, model, rows: dict[str, int], data: dict) -> dict[str, dict]:
    """Every setting of the run that is set, in groups; training arguments as Hugging Face has completed them."""
    groups = _read_groups(args.config_text)
    training = args.to_dict()
    named = {"use_peft", "peft_method", *PEFT_OPTIONS}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = dict(zip(("trained_parameters", "parameters"), sum_counts(count_parameters(model)), strict=True))
    adapter = {name: groups["model"].pop(name) for name in named}
    described = {
        "recipe": {"folder": Path(sys.argv[0]).resolve().parent.name, **groups.get("task", {})},
        "model": {"class": type(base).__name__, "type": base.config.model_type, **parameters, **groups["model"]},
        "data": {"rows": rows, **data, **groups["data"]},
        "peft": adapter if adapter["use_peft"] else {"use_peft": False},
        "training": {name: training[name] for name in (groups["run"] | groups["training"]) if name in training}
        | {"effective_batch": count_rows_per_step(args), "mixed_precision": args.mixed_precision},
        "environment": describe_environment(args),
    }
    commit = getattr(base.config, "_commit_hash", None)
    if commit:
        described["model"]["commit"] = commit
    return {
        group: {name: value for name, value in values.items() if value is not None}
        for group, values in described.items()
    }


def _read_groups(config_text: str) -> dict[str, dict]:
    """The settings of config.yaml under the headings that it has as comments."""
    parts = re.split(r"^# (\w+)\n", config_text, flags=re.MULTILINE)[1:]
    return {name.lower(): yaml.safe_load(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def make_lineage(data: dict, rows: dict[str, int | str]) -> wandb.Artifact:
    """The data of the run, as digests and revision alone: no row is uploaded."""
    described = {**data, "rows": rows}
    artifact = wandb.Artifact("data", type="dataset", metadata=described)
    with artifact.new_file("data.json", encoding="utf-8") as file:
        json.dump(described, file, ensure_ascii=False, indent=2)
    return artifact


def make_model_artifact(run_id: str, output_dir: Path, scores: dict[str, float]) -> wandb.Artifact:
    """The saved model with its card and its settings, without checkpoints, predictions and private files."""
    artifact = wandb.Artifact(f"model-{run_id}", type="model", metadata=scores)
    for name in list_public_files(output_dir):
        if not name.startswith("plots/"):
            # Immutable: read from where it lies, not from a second copy.
            artifact.add_file(str(output_dir / name), name, skip_cache=True, policy="immutable")
    return artifact


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
