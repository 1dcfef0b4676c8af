"""Training that a resume goes on with exactly, wherever it was broken off."""

import contextlib
import math
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

from common.boundaries import get_random_states, set_random_states
from common.checkpoints import find_defect
from common.console import say
from common.disk import CheckpointLost
from common.errors import UserError
from common.launching import decide_together
from common.sampling import set_epoch
from common.stopping import EvaluationAbandoned, RunStopped, get_signal

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import DefaultFlowCallback, TrainerControl

# Settings under which a resumed run would be another one, and why.
INEXACT = {
    "ignore_data_skip": "a resumed run would train on rows again that it has had",
    "save_only_model": "checkpoints would lack the optimizer, which a resumed run goes on with",
}


def check_resumption(args) -> None:
    """UserError for settings under which an interrupted run could not go on as if it had not been."""
    for name, harm in INEXACT.items():
        if getattr(args, name):
            raise UserError(f"{name}: {harm}. Leave it out; save_total_limit bounds what checkpoints take.")
    if not args.restore_callback_states_from_checkpoint:
        raise UserError(
            "restore_callback_states_from_checkpoint: false: early stopping would count from 0 again at each resume. "
            "Leave it out."
        )
    if not args.accelerator_config.use_seedable_sampler:
        raise UserError(
            "accelerator_config: use_seedable_sampler: false: a run resumed in its second epoch would train on other "
            "batches. Leave it out."
        )


def owes_evaluation(args, state: TrainerState) -> bool:
    """Whether the run was to be evaluated after the step of its last checkpoint, and has not been.

    A signal stops it before, and so may a kill: what is saved by steps is saved before an evaluation at an epoch's end.
    """
    control = TrainerControl()
    DefaultFlowCallback().on_step_end(args, state, control)
    if state.epoch == int(state.epoch) or state.global_step >= state.max_steps:
        DefaultFlowCallback().on_epoch_end(args, state, control)
    evaluated = any(entry["step"] == state.global_step and "eval_runtime" in entry for entry in state.log_history)
    return control.should_evaluate and not evaluated


def is_over(state: TrainerState, callbacks: list[TrainerCallback]) -> bool:
    """Whether a run has trained all its steps, or early stopping has ended it."""
    patient = [callback for callback in callbacks if isinstance(callback, EarlyStoppingCallback)]
    is_stopped = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in patient)
    return is_stopped or state.global_step >= state.max_steps


class ResumableTrainer:
    """Mixed into a Trainer: what its own loop leaves out where a run stops at a signal, or goes on from a checkpoint.

    `weights` says which weights the model has when training has ended.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights = "of the last step"
        self.random_states = None  # those from which training goes on, if not those in the checkpoint

    def train(self, resume_from_checkpoint=None, **settings):
        self.resumed_from = resume_from_checkpoint
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **settings)
        except UnpicklingError as error:
            said = " ".join(str(error).split()).partition("Please file an issue")[0][:300]
            raise UserError(
                f"{resume_from_checkpoint} holds more than numbers, and is not loaded: that could run code ({said}). "
                "Delete it, and find out who wrote it."
            ) from error

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *arguments, **settings):
        step = partial(super()._maybe_log_save_evaluate, tr_loss, grad_norm, model, trial, *arguments, **settings)
        if not self.control.should_evaluate:
            return step()
        before = get_random_states()
        try:
            return step()
        except EvaluationAbandoned:
            set_random_states(before)  # it will be made again, from its start
            with contextlib.suppress(CheckpointLost):  # it is tried again at the next step
                self.save_checkpoint(model)
            return None

    def save_checkpoint(self, model=None) -> None:
        """Save and seal a checkpoint of the step that the run is at."""
        self._save_checkpoint(self.model_wrapped if model is None else model, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _init_training_state(self, *arguments):
        begun = super()._init_training_state(*arguments)
        if self.resumed_from is not None:
            self.args.eval_on_start = False  # it was, when it started
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            if best.is_dir():  # its path is the old one where output_dir was moved
                self.state.best_model_checkpoint = str(best)
        return begun

    def _run_epoch(self, **settings):
        self._make_up_for_evaluation(settings["trial"])
        # Else a run that had ended within an epoch trains one step more, or on until early stopping ends it again.
        if self.resumed_from is not None and is_over(self.state, self.callback_handler.callbacks):
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            set_epoch(settings["train_dataloader"], settings["epoch"])
            super()._run_epoch(**settings)

    def _finalize_training(self, trial, *arguments):
        self._make_up_for_evaluation(trial)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            step = self.state.best_global_step
            reason = f"the checkpoint of step {step}, the best, is gone" if step else "no evaluation has found one"
            self.weights = f"of the last step: {reason}"
            say(f"The best model is lost, the weights are those {self.weights}.")
        return super()._finalize_training(trial, *arguments)

    def _make_up_for_evaluation(self, trial) -> None:
        """The evaluation that was due at the step of the checkpoint, if a signal or a kill kept it from being made."""
        if self.resumed_from is None or not owes_evaluation(self.args, self.state):
            return
        self._load_rng_state(self.resumed_from)
        try:
            metrics = self._evaluate(trial, None)
        except EvaluationAbandoned:
            raise RunStopped(get_signal(), self.state.global_step) from None
        if self._determine_best_metric(metrics, trial) and self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = self.resumed_from
        # Training goes on from the random state after the evaluation, not from the one before, which was saved.
        self.random_states = get_random_states()

    def _load_rng_state(self, checkpoint):
        if self.random_states is None:
            super()._load_rng_state(checkpoint)
        else:
            set_random_states(self.random_states)

    def _determine_best_metric(self, metrics, trial):
        name = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        if self.args.metric_for_best_model is not None and name not in metrics:
            known = sorted(metric.removeprefix("eval_") for metric in metrics if metric.startswith("eval_"))
            raise UserError(
                f"metric_for_best_model: the validation rows give no {name.removeprefix('eval_')}, they give "
                f"{', '.join(known)}: choose one of these."
            )
        if math.isnan(metrics.get(name, 0.0)):
            raise UserError(
                f"metric_for_best_model: {name} is NaN at step {self.state.global_step}, so no model can be called the "
                "best: look at the validation rows, try a lower learning_rate, or choose another metric_for_best_model."
            )
        return super()._determine_best_metric(metrics, trial)

    def _load_optimizer_and_scheduler(self, checkpoint):
        names = ("initial_lr", "weight_decay", "betas", "eps")
        settings = [{name: group[name] for name in names if name in group} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if not self.args.allow_change or checkpoint is None:
            return
        # What is loaded are the settings of the run before as well, which would silently stay.
        for group, wanted in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(wanted)
        if isinstance(self.lr_scheduler, torch.optim.lr_scheduler.LambdaLR):
            step = self.lr_scheduler.last_epoch
            self.lr_scheduler.base_lrs = [wanted["initial_lr"] for wanted in settings]
            for group, shape in zip(self.optimizer.param_groups, self.lr_scheduler.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * shape(step)
            self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _load_best_model(self):
        defect = decide_together(find_defect, Path(self.state.best_model_checkpoint))
        if defect is not None:
            self.weights = f"of the last step: {self.state.best_model_checkpoint} cannot be loaded: {defect}"
            say(f"The best model is lost, the weights are those {self.weights}.")
        else:
            self._load_best_weights()
            self.weights = f"of step {self.state.best_global_step}, the best"

    def _load_best_weights(self):
        super()._load_best_model()
