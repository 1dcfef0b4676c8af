"""What is watched and decided while a run trains."""

import sys

from common.adapters import FEWEST_STEPS, plan_ranks
from common.allocator import Gaps
from common.checkpoints import SealCheckpoints
from common.console import say
from common.stopping import StopOnSignal

from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback

# Among the scores of an evaluation, but none of them.
NO_SCORES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")


class AllocateRanks(TrainerCallback):
    """Lets AdaLoRA choose after each step which ranks it keeps, by a budget for the steps of this training.

    Nothing fails without it: every rank is kept, and the method is a LoRA of a higher rank.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.max_steps < FEWEST_STEPS:
            say(f"AdaLoRA prunes nothing in {state.max_steps} steps: it plans with {FEWEST_STEPS} or more.")
        else:
            plan_ranks(model, state.max_steps)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        # A step that was skipped for a gradient that is not finite has none.
        is_skipped = not args.deepspeed and all(parameter.grad is None for parameter in model.parameters())
        if state.max_steps >= FEWEST_STEPS and not is_skipped:
            model.base_model.update_and_allocate(state.global_step + 1)


class GiveBackGaps(TrainerCallback):
    """Bounds the freed memory that a CPU keeps, after each step of training and evaluation."""

    def __init__(self):
        self.gaps = Gaps()

    def on_step_end(self, args, state, control, **kwargs):
        self.gaps.give_back()

    def on_prediction_step(self, args, state, control, **kwargs):
        self.gaps.give_back()


class RunLog(TrainerCallback):
    """A line for each log and each evaluation, with the first scores only; a progress bar where there is a terminal.

    The bar shows the last loss and the best validation score so far: that of metric_for_best_model, else the first.
    """

    SHOWN_SCORES = 5

    def __init__(self):
        self.bar = None
        self.loss = self.best = None
        self.best_name = ""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and not args.disable_tqdm and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True, leave=False)
        if state.best_metric is not None and args.metric_for_best_model:  # of a run that is resumed
            self.best, self.best_name = state.best_metric, args.metric_for_best_model.removeprefix("eval_")
            self._show_progress()

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        values = {"loss": "{:.4f}", "grad_norm": "{:.3f}", "learning_rate": "{:.2e}"}
        self._say(state, [f"{name} {form.format(logs[name])}" for name, form in values.items() if name in logs])
        self.loss = logs["loss"]
        self._show_progress()

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if not state.is_world_process_zero:
            return
        scores = {name.removeprefix("eval_"): value for name, value in metrics.items() if isinstance(value, float)}
        scores = {name: value for name, value in scores.items() if name not in NO_SCORES}
        self._keep_best(args, scores)
        loss = [f"loss {scores.pop('loss'):.4f}"] if "loss" in scores else []
        shown = [f"{name} {value:.4f}" for name, value in list(scores.items())[: self.SHOWN_SCORES]]
        self._say(state, ["validation", *loss, *shown])
        self._show_progress()

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()

    def _keep_best(self, args, scores: dict[str, float]) -> None:
        names = [name for name in scores if name != "loss"] or ["loss"]
        name = (args.metric_for_best_model or names[0]).removeprefix("eval_")
        if name not in scores:
            return
        is_greater_better = args.greater_is_better if args.metric_for_best_model else name not in ("loss", "perplexity")
        choose = max if is_greater_better else min
        self.best = scores[name] if self.best is None else choose(self.best, scores[name])
        self.best_name = name

    def _show_progress(self) -> None:
        if self.bar is not None:
            parts = [] if self.loss is None else [f"loss {self.loss:.4f}"]
            parts += [] if self.best is None else [f"best {self.best_name} {self.best:.4f}"]
            self.bar.set_postfix_str(", ".join(parts))

    def _say(self, state, values: list[str]) -> None:
        if self.bar is not None:
            self.bar.clear()
        say(f"step {state.global_step}/{state.max_steps}  epoch {state.epoch or 0:.2f}  " + "  ".join(values))


def make_callbacks(training_args) -> list[TrainerCallback]:
    """The callbacks of every run: bounded memory, sealed checkpoints, early stopping, a save on SIGTERM."""
    callbacks = [GiveBackGaps()] if training_args.keeps_freed_memory else []
    callbacks += [SealCheckpoints(training_args.save_total_limit, training_args.identity)]
    # From here on rotation is ours: see SealCheckpoints.
    training_args.save_total_limit = None
    if training_args.early_stopping_patience is not None:
        callbacks.append(
            EarlyStoppingCallback(
                early_stopping_patience=training_args.early_stopping_patience,
                early_stopping_threshold=training_args.early_stopping_threshold,
            )
        )
    # Last, because it leaves training by an exception: the checkpoint has to be sealed before.
    return [*callbacks, StopOnSignal()]
