"""Where a run is watched from: trackers are checked before anything is loaded, and keep their files in output_dir."""

import contextlib
import os
import socket
import sys
import tempfile
import threading
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from common.console import say
from common.errors import UserError
from common.guarded_tracker import GuardedTracker
from common.tracking_arguments import TrackingArguments

import yaml
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    get_available_reporting_integrations,
)

PROBE_SECONDS = 3
WANDB_FOLDER = "_wandb"  # in output_dir: push_to_hub leaves out what begins with _


def check_trackers(training_args) -> None:
    """UserError for a tracker that is unknown, not installed or refuses the key; without a key W&B goes offline."""
    for name in training_args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(f"report_to {name} is unknown: choose from none, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in get_available_reporting_integrations():
            raise UserError(f"report_to {name}: it is not installed; run `pip install {name}`, or leave it out.")
    if "wandb" in training_args.report_to:
        if os.environ.get("RANK", "0") == "0":
            _choose_mode(training_args)
    elif not training_args.dry_run:
        ignored = [part.name for part in fields(TrackingArguments) if getattr(training_args, part.name) != part.default]
        if ignored:
            said = f"{', '.join(ignored)} {'has' if len(ignored) == 1 else 'have'}"
            say(f"{said} no effect: report_to does not name wandb.")


def _choose_mode(training_args) -> None:
    """See to it that W&B will start: asked to be offline or off, with a key that it accepts, or offline without one."""
    for name in ("WANDB_WATCH", "WANDB_LOG_MODEL"):
        if os.environ.get(name, "false").lower() not in ("", "false"):
            say(f"{name} has no effect here: `wandb_log_model: true` uploads the saved model.")
    mode, obstacle = _ask_wandb()
    if mode == "disabled":
        training_args.report_to = [name for name in training_args.report_to if name != "wandb"]
    if mode == "online" and obstacle:
        mode = "offline"
        say(f"W&B: {obstacle}: offline; what to run to upload it is said at the end.")
    training_args.wandb_mode = mode


def _ask_wandb() -> tuple[str, str | None]:
    """The mode that environment and settings choose, and what is in the way of W&B's server; a key may be typed in.

    What W&B starts for the answer is ended again: it prints tracebacks of a user's mistakes, and writes a log, which is
    to be neither in the home directory nor in an output_dir that may yet be refused.
    """
    import wandb  # only here is it known to be installed

    excepthook, cache = sys.excepthook, os.environ.get("WANDB_CACHE_DIR")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["WANDB_CACHE_DIR"] = folder
        try:
            settings = wandb.setup().settings
            if settings.mode != "online":
                return settings.mode, None
            if not wandb.login(prompt=sys.stdin.isatty() and sys.stderr.isatty(), verify=False):
                return "online", "no API key (WANDB_API_KEY or `wandb login`)"
            if not is_reachable(settings.base_url):
                return "online", f"{settings.base_url} cannot be reached"
            wandb.login(prompt=False)  # asks the server whether the key is good
            return "online", None
        except ValueError as error:  # a variable that is no choice, like WANDB_MODE=ofline
            raise UserError(f"W&B: {' '.join(str(error).split())}") from None
        except wandb.errors.Error as error:
            raise UserError(
                f"W&B: {' '.join(str(error).split())}; log in with `wandb login --relogin`, or set WANDB_MODE=offline."
            ) from None
        finally:
            wandb.teardown()
            sys.excepthook = excepthook
            os.environ.pop("WANDB_CACHE_DIR")
            os.environ.update({} if cache is None else {"WANDB_CACHE_DIR": cache})


def is_reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether something answers there, or at the proxy that leads there."""
    address, proxies = urlsplit(url), getproxies()
    if address.scheme in proxies and not proxy_bypass(address.hostname):
        address = urlsplit(proxies[address.scheme])
    place = address.hostname, address.port or (80 if address.scheme == "http" else 443)
    answers = []
    # In a thread: looking up the name of a host takes as long as it takes.
    probe = threading.Thread(target=_connect, args=(place, seconds, answers), daemon=True)
    probe.start()
    probe.join(seconds)
    return bool(answers)


def _connect(place: tuple[str, int], seconds: float, answers: list) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(place, timeout=seconds).close()
        answers.append(place)


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


class _TrackioRun(TrackioCallback):
    """Hugging Face's, which would begin another run for each split that is predicted, and call all of them test."""

    def on_predict(self, *args, **kwargs):
        pass


def name_project() -> str:
    """The project of a recipe's runs where none is named: it is called by the folder of run.py."""
    return f"trainer-recipes-{Path(sys.argv[0]).resolve().parent.name}"


def place_trackers(trainer):
    """The W&B run of this training in place of Hugging Face's callback, None without.

    TensorBoard's files are in runs/, and Trackio's run is called by output_dir, so that both go on after a resume.
    """
    args = trainer.args
    if "trackio" in args.report_to:
        args.run_name = args.run_name or Path(args.output_dir).name
        if args.project == "huggingface":  # its default
            args.project = name_project()
        trainer.remove_callback(TrackioCallback)
        trainer.add_callback(_TrackioRun())
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            # Hugging Face's folder is named by host and time: after a resume it would be another curve.
            callback.logging_dir = str(Path(args.output_dir) / "runs")
    if "wandb" in args.report_to:
        from common.tracked_run import TrackedRun  # imports wandb, which need not be installed

        trainer.remove_callback(WandbCallback)
        trainer.add_callback(TrackedRun())
    callbacks, tracked = trainer.callback_handler.callbacks, None
    for index, callback in enumerate(callbacks):
        name = find_tracker(callback)
        if name is not None:
            callbacks[index] = GuardedTracker(callback, name, args.tracker_seconds)
            tracked = callbacks[index] if name == "wandb" else tracked
    return tracked


def find_tracker(callback) -> str | None:
    """The name of the tracker, as in report_to, that a callback is of."""
    if type(callback).__name__ == "TrackedRun":
        return "wandb"
    return next((name for name, kind in INTEGRATION_TO_CALLBACK.items() if isinstance(callback, kind)), None)
