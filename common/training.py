"""The run around the Trainer: checks before it, resume and stop within it, predictions after it."""

import contextlib
import logging
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.allocator import keep_freed_memory
from common.atomic_files import write_text
from common.best_score import check_best_score
from common.checkpoints import (
    MANIFEST,
    find_defect,
    find_newest_checkpoint,
    list_checkpoints,
    read_manifest,
    refuse_foreign_pickles,
)
from common.console import say
from common.disk import check_writable
from common.errors import UserError
from common.fingerprint import identify_run, list_differences, refuse_differences
from common.launching import check_launch, decide_together
from common.locking import hold_directory
from common.models import load_result
from common.optimization import check_optimizer
from common.peak import PeakMemory, estimate_step
from common.result_files import CONFIG_FILE, is_finished, read_result
from common.results import Outcome, say_scores
from common.resumable import check_resumption
from common.saving import save_model
from common.stopping import EvaluationAbandoned, RunStopped, get_signal, say_last, watch_signals
from common.streaming import check_streaming
from common.tracking import check_trackers, separate_trial

import datasets
import torch
import transformers
import yaml
from transformers import EarlyStoppingCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import PredictionOutput


def prepare_run(training_args, scores: dict[str, bool | None]) -> None:
    """Set up logging and seeds; stop here if the launch or output_dir is not what the user can have meant.

    `scores` are those that the recipe evaluates with: whether the greater one is the better, None where neither is.
    """
    check_best_score(training_args, scores)
    level = training_args.get_process_log_level()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    transformers.utils.logging.set_verbosity(max(level, logging.WARNING))
    if not training_args.should_log or not sys.stderr.isatty():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    check_launch(training_args)
    training_args.keeps_freed_memory = training_args.device.type == "cpu" and keep_freed_memory()
    check_streaming(yaml.safe_load(training_args.config_text) or {}, training_args)
    if training_args.do_train:
        check_optimizer(training_args)
        check_resumption(training_args)
    if training_args.full_determinism:
        transformers.enable_full_determinism(training_args.seed)
    else:
        transformers.set_seed(training_args.seed)
    training_args.identity = {} if training_args.dry_run else identify_run(training_args)
    if training_args.dry_run:
        _redirect_to_temporary_directory(training_args)
    else:
        separate_trial(training_args)
        _check_output_dir(training_args)
        if training_args.should_save and Path(training_args.output_dir).exists():
            hold_directory(Path(training_args.output_dir))
    check_trackers(training_args)
    watch_signals()


def list_wanted_splits(training_args, model_args) -> list[str]:
    """The splits that this run reads: train, validation and test, as do_train, do_eval and do_predict say."""
    wanted = {"train": training_args.do_train, "validation": training_args.do_eval, "test": training_args.do_predict}
    if not any(wanted.values()):
        raise UserError("Nothing to do: set do_train, do_eval or do_predict.")
    if model_args.from_scratch and not training_args.do_train:
        raise UserError("from_scratch makes an untrained model: set do_train, or model_name_or_path to a trained one.")
    return [split for split, is_wanted in wanted.items() if is_wanted]


def train(trainer) -> None:
    """Train to the end, from the checkpoint that resume_from_checkpoint says; the best model is loaded if asked for.

    A run that is stopped by a signal has saved a checkpoint, writes no results, and exits with 128 + signal number.
    """
    args = trainer.args
    decide_together(hold_directory, Path(args.output_dir))
    checkpoint = decide_together(_choose_checkpoint, args)
    if args.should_save:
        write_text(Path(args.output_dir) / CONFIG_FILE, args.config_text)
    with _end_when_stopped(trainer):
        trainer.train(resume_from_checkpoint=checkpoint)


@contextlib.contextmanager
def _end_when_stopped(trainer) -> Iterator[None]:
    """End the process with exit code 128 + signal number where a signal broke this off, and say what is saved."""
    args = trainer.args
    try:
        try:
            yield
        except EvaluationAbandoned:  # after training: without this checkpoint it would be lost
            if not (Path(args.output_dir) / f"checkpoint-{trainer.state.global_step}" / MANIFEST).exists():
                trainer.save_checkpoint()
            raise RunStopped(get_signal(), trainer.state.global_step) from None
    except RunStopped as stopped:
        if trainer.tracked_run is not None:
            trainer.tracked_run.end(128 + stopped.signal_number)
        checkpoint = f"{args.output_dir}/checkpoint-{stopped.step}"
        name = signal.Signals(stopped.signal_number).name
        say_last(
            f"Stopped by {name} at step {stopped.step}: {checkpoint} is saved. The same command goes on from there."
        )
        raise SystemExit(128 + stopped.signal_number) from None


def predict(trainer, features: datasets.Dataset) -> PredictionOutput:
    """What the model predicts for `features`, one row each, in their order; without metrics.

    The Trainer's compute_metrics is made for the validation rows, and would score other rows against them.
    """
    compute_metrics, trainer.compute_metrics = trainer.compute_metrics, None
    try:
        with _end_when_stopped(trainer):
            return trainer.predict(features)
    finally:
        trainer.compute_metrics = compute_metrics


def rehearse(trainer, model_class, model_args, features: datasets.DatasetDict) -> dict[str, float]:
    """One training step, one evaluation batch, a save and a reload, all in a temporary directory; ends a dry run."""
    args = trainer.args
    args.max_steps, args.logging_steps = 1, 1
    args.eval_strategy = args.save_strategy = "no"
    args.load_best_model_at_end = False
    trainer.remove_callback(EarlyStoppingCallback)
    losses = {}
    if trainer.train_dataset is not None:
        footprint, estimate = estimate_step(trainer)
        with PeakMemory(args.device) as memory:
            losses["train_loss"] = trainer.train().training_loss
        say(f"memory     estimated {estimate}")
        say(f"           {memory.describe(footprint)}")
    split = next(name for name in ("validation", "test", "train") if name in features)
    rows = features[split].select(range(min(len(features[split]), args.eval_batch_size)))
    if split != "train":
        losses["batch_loss"] = predict(trainer, rows).metrics["test_loss"]
    batch = next(iter(trainer.get_test_dataloader(rows)))
    # Without the wrapper that computes in bfloat16, and in float32 like the saved weights.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trained = None if model_args.quantizes else _compute_outputs(model.float(), batch)
    save_model(trainer, model_args)
    trainer.accelerator.wait_for_everyone()
    if args.should_save:  # each process has a directory of its own, and the others' are empty
        unset_hf_deepspeed_config()  # else ZeRO 3 would divide what only this process loads
        reloaded = load_result(model_class, args.output_dir).to(args.device)
        outputs = _compute_outputs(reloaded, batch)
        if trained is not None:  # quantized weights come back in full precision, so that what was rounded off differs
            # A divided model goes on computing in the precision that it was trained in.
            tolerance = 1e-4 if trained.dtype == torch.float32 else 5e-2
            torch.testing.assert_close(outputs, trained.float(), atol=tolerance, rtol=tolerance)
    trainer.accelerator.wait_for_everyone()
    said = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    say(f"Dry run: one training step, one evaluation batch, a save and a reload worked ({said}). Nothing is kept.")
    return losses


def _compute_outputs(model, batch: dict) -> torch.Tensor:
    """The model's first output for a batch, 0 at padded positions: what is said there depends on hide_padding."""
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    with torch.no_grad():
        outputs = model.eval()(**inputs)[0]
    mask = inputs.get("attention_mask")
    return outputs.masked_fill(mask == 0, 0) if mask is not None and mask.shape == outputs.shape else outputs


def _redirect_to_temporary_directory(training_args) -> None:
    directory = tempfile.TemporaryDirectory(prefix="dry-run-", ignore_cleanup_errors=True)
    training_args.temporary_directory = directory  # deleted with the arguments
    training_args.output_dir = directory.name
    training_args.report_to = []
    training_args.push_to_hub = False


def _check_output_dir(training_args) -> None:
    """Stop where output_dir holds anything but an unfinished part of this very run."""
    output_dir = Path(training_args.output_dir)
    check_writable(output_dir)
    # A run that was killed while it began has left no more than the half of its first file.
    if not output_dir.exists() or all(
        path.name.startswith("_") or path.name == f"{CONFIG_FILE}.tmp" for path in output_dir.iterdir()
    ):
        return
    if not (output_dir / CONFIG_FILE).is_file():
        raise UserError(f"{output_dir} holds files that are not from a run: choose another output_dir.")
    finished = is_finished(output_dir)
    differences = list_differences(_read_identity(output_dir, training_args.identity), training_args.identity)
    state = "a finished run" if finished else "an unfinished run"
    cure = "choose another output_dir, or delete this one"
    refuse_differences(
        f"{output_dir} holds {state}", differences, None if finished else training_args.allow_change, cure
    )
    if finished:
        say(
            f"{output_dir} holds this run, finished. To train it again, choose another --output_dir or delete this one."
        )
        recipe, metrics = read_result(output_dir)
        say_scores(output_dir, Outcome(recipe["task"], recipe["headline"], metrics=metrics))
        raise SystemExit(0)
    if training_args.resume_from_checkpoint == "never" and list_checkpoints(output_dir):
        raise UserError(
            f"{output_dir} holds checkpoints of this run, which starting at step 0 would overwrite: delete it, or set "
            "resume_from_checkpoint: auto."
        )


def _read_identity(output_dir: Path, here: dict) -> dict:
    """What the run in output_dir is: by its result or its newest checkpoint, else by its settings alone."""
    for directory in (output_dir, *list_checkpoints(output_dir)):
        with contextlib.suppress(ValueError, OSError):
            return read_manifest(directory)["run"]
    settings = yaml.safe_load((output_dir / CONFIG_FILE).read_text(encoding="utf-8")) or {}
    # Without a checkpoint there is nothing yet that was made from these data and this model.
    return here | {"settings": {name: settings.get(name) for name in here["settings"]}}


def _choose_checkpoint(training_args) -> str | None:
    wanted, output_dir = training_args.resume_from_checkpoint, Path(training_args.output_dir)
    if wanted == "never":
        return None
    if wanted in ("auto", "must"):
        found = find_newest_checkpoint(output_dir)
        if found is None and wanted == "must":
            raise UserError(f"{output_dir} has no whole checkpoint to resume from: set resume_from_checkpoint: auto.")
        if found is not None:
            say(f"Resuming from {found}.")
        return None if found is None else str(found)
    refuse_foreign_pickles(Path(wanted), Path(training_args.output_dir))
    defect = find_defect(Path(wanted))
    if defect is not None:
        raise UserError(f"{wanted} cannot be resumed from: {defect}. Give another checkpoint, or auto.")
    differences = list_differences(read_manifest(Path(wanted))["run"], training_args.identity)
    refuse_differences(f"{wanted} is of a run", differences, training_args.allow_change, "give another checkpoint")
    return wanted
