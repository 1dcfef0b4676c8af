"""Where a run is watched from: trackers are checked before anything is loaded, and keep their files in output_dir."""

import os
import sys
from dataclasses import fields
from pathlib import Path

from common.console import say
from common.errors import UserError
from common.tracking_arguments import TrackingArguments

import yaml
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    WandbCallback,
    get_available_reporting_integrations,
)

WANDB_FOLDER = "_wandb"  # in output_dir: push_to_hub leaves out what begins with _


def check_trackers(training_args) -> None:
    """UserError for a tracker that is unknown, not installed or refuses the key; without a key W&B goes offline."""
    for name in training_args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(f"report_to {name} is unknown: choose from none, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in get_available_reporting_integrations():
            raise UserError(f"report_to {name}: it is not installed; run `pip install {name}`, or leave it out.")
    if "wandb" in training_args.report_to:
        _choose_mode(training_args)
    elif not training_args.dry_run:
        ignored = [part.name for part in fields(TrackingArguments) if getattr(training_args, part.name) != part.default]
        if ignored:
            said = f"{', '.join(ignored)} {'has' if len(ignored) == 1 else 'have'}"
            say(f"{said} no effect: report_to does not name wandb.")


def _choose_mode(training_args) -> None:
    """See to it that W&B will start: asked to be offline or off, with a key that it accepts, or offline without one."""
    import wandb  # only here is it known to be installed

    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        # Else in the home directory. Set before wandb starts: it complains of variables that change later.
        os.environ.setdefault(name, str(Path(training_args.output_dir).resolve() / WANDB_FOLDER))
    try:
        mode = training_args.wandb_mode = wandb.setup().settings.mode
    except ValueError as error:  # a variable that is no choice, like WANDB_MODE=ofline
        raise UserError(f"W&B: {' '.join(str(error).split())}") from None
    if mode == "disabled":
        training_args.report_to = [name for name in training_args.report_to if name != "wandb"]
    for name in ("WANDB_WATCH", "WANDB_LOG_MODEL"):
        if os.environ.get(name, "false").lower() not in ("", "false"):
            say(f"{name} has no effect here: `wandb_log_model: true` uploads the saved model.")
    if mode != "online" or os.environ.get("RANK", "0") != "0":
        return
    has_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    try:
        has_key = wandb.login(prompt=has_terminal)
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B: {' '.join(str(error).split())}; log in with `wandb login --relogin`, or set WANDB_MODE=offline."
        ) from None
    if not has_key:
        training_args.wandb_mode = "offline"
        say("W&B: no API key (WANDB_API_KEY or `wandb login`): offline; what to run to upload it is said at the end.")


def separate_trial(training_args) -> None:
    """Give each trial of a W&B sweep a directory of its own, named by its run, within output_dir."""
    trial = os.environ.get("WANDB_RUN_ID")
    if not os.environ.get("WANDB_SWEEP_ID") or not trial:
        return
    whole = training_args.output_dir
    training_args.output_dir = str(Path(whole) / trial)
    before, after = (yaml.safe_dump({"output_dir": path}) for path in (whole, training_args.output_dir))
    training_args.config_text = training_args.config_text.replace(f"\n{before}", f"\n{after}")
    say(f"A trial of a sweep: output_dir is {training_args.output_dir}.")


def place_trackers(trainer):
    """The W&B run of this training in place of Hugging Face's callback, None without; TensorBoard's files in runs/."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            # Hugging Face's folder is named by host and time: after a resume it would be another curve.
            callback.logging_dir = str(Path(trainer.args.output_dir) / "runs")
    if "wandb" not in trainer.args.report_to:
        return None
    from common.tracked_run import TrackedRun  # imports wandb, which need not be installed

    trainer.remove_callback(WandbCallback)
    tracked = TrackedRun()
    trainer.add_callback(tracked)
    return tracked
