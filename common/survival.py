"""A Trainer whose run outlives what it can, and leaves a whole checkpoint of its last step where it cannot."""

import re
import shutil
from pathlib import Path

from common.boundaries import Boundary, NoteUpdate, get_random_states, set_random_states
from common.checkpoints import find_defect, seal_checkpoint
from common.console import say
from common.disk import CheckpointLost, LostSaves, check_room, describe_write_failure
from common.errors import LocalError, UserError
from common.launching import share_greatest
from common.memory_limits import advise_smaller_batch, choose_smaller_batch, free_memory, is_out_of_memory
from common.nonfinite import ROW_NUMBER, list_first
from common.stopping import EvaluationAbandoned, RunStopped
from common.watchdog import Watchdog
from common.workers import end_workers, find_worker_failure, read_refusal, watch_workers

from transformers.integrations.neftune import deactivate_neftune

RESTARTS = 1  # of the workers, within one run


class SurvivingTrainer:
    """Mixed into a Trainer, outside of what it overrides there.

    When training breaks, the state at the end of the last whole step is saved: weights, optimizer and schedule are
    still those of that step, and its random state was kept, so that a resume is exact. Workers that die or hang are
    started anew once; without memory the batch is divided where `auto_find_batch_size` says so.
    """

    def __init__(self, *args, **kwargs):
        self.boundary, self.saving, self.is_evaluating, self.is_resumed = None, None, False, False
        self.write_failure = None  # of this process, in the save that is made
        self.restarts = 0
        super().__init__(*args, **kwargs)
        self.divides_batch = self.args.auto_find_batch_size
        # Hugging Face's own makes batches smaller and leaves accumulation alone, which is another training.
        self.args.auto_find_batch_size = False
        self.watchdog, self.lost_saves = Watchdog(self.args.watchdog_seconds, self.args.output_dir), LostSaves()
        self.add_callback(self.watchdog)
        self.add_callback(NoteUpdate(self))

    def train(self, resume_from_checkpoint=None, **settings):
        if self.args.should_save:
            check_room(self.model, self.args)
        with self.watchdog:
            while True:
                self.boundary, self.is_resumed = None, resume_from_checkpoint is not None
                try:
                    return super().train(resume_from_checkpoint, **settings)
                except (RunStopped, EvaluationAbandoned):
                    raise
                except Exception as error:
                    error = end_workers(error)  # else what waits for one that is frozen would be the next to hang
                    self._eval_dataloaders = {}
                    saved = self._rescue()
                    if not self._can_go_on(error, saved):
                        self._give_up(error, saved)
                    error.__traceback__ = None  # holds the frames of the step, and the tensors in them
                resume_from_checkpoint = None if saved is None else str(saved)
                self._begin_again(resume_from_checkpoint)

    def _can_go_on(self, error: Exception, saved: Path | None) -> bool:
        """Whether what has broken is mended, and said; from `saved`, or from the beginning where no step was made."""
        step = self.state.global_step
        is_whole = saved is not None or (step == 0 and self.boundary is not None)
        if not is_whole or self.args.world_size > 1 or self.is_evaluating:
            return False
        worker_failure = find_worker_failure(error)
        if worker_failure and self.restarts < RESTARTS:
            self.restarts += 1
            say(f"Step {step + 1}: {worker_failure}. The workers are started anew, and the run goes on.")
            return True
        pair = choose_smaller_batch(self.args) if self.divides_batch and is_out_of_memory(error) else None
        if pair is None:
            return False
        self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps = pair
        say(
            f"Step {step + 1}: out of memory. The run goes on with per_device_train_batch_size {pair[0]} and "
            f"gradient_accumulation_steps {pair[1]}: as many rows a step as before."
        )
        return True

    def _begin_again(self, checkpoint: str | None) -> None:
        """Make ready for another training in this process, which goes on from a checkpoint if there is one."""
        self.resumed_from, self.random_states = checkpoint, None
        self.watchdog.move("while it began again")
        if self.neftune_noise_alpha is not None:
            deactivate_neftune(self.model, self.neftune_hook_handle, self.accelerator)
        self.model.zero_grad(set_to_none=True)
        self.is_evaluating = False
        self.model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.model_wrapped = self.model
        self.optimizer = self.lr_scheduler = None
        self._created_lr_scheduler = False
        self._train_batch_size = self.args.train_batch_size
        if self.boundary is not None:
            set_random_states(self.boundary.random_states)
        free_memory()
        self.watchdog.move("while it began again")

    def _give_up(self, error: Exception, saved: Path | None) -> None:
        """Raise `error` with what is left of the run; as a message for the user where it is known what it means."""
        step = self.state.global_step
        where = f"in the evaluation of step {step}" if self.is_evaluating else f"at step {step + 1}"
        kept = "" if saved is None else f"{saved} is saved: the same command goes on from there"
        worker_failure = find_worker_failure(error)
        if is_out_of_memory(error):
            advice = advise_smaller_batch(self.args, self.is_evaluating)
            text = f"Out of memory {where}: {advice}."
            kept = kept.replace("the same command", "the command with these")
        elif worker_failure:
            text = f"The run broke {where}: {worker_failure}."
        elif isinstance(error, UserError):
            text = read_refusal(error)
            if not kept:
                raise UserError(text) from None
        else:
            error.add_note(f"The run broke {where}{self._name_rows(error)}{kept and f'; {kept} once that is mended'}.")
            raise error
        text = f"{text} {kept[:1].upper()}{kept[1:]}." if kept else text
        raise (UserError if isinstance(error, UserError) else LocalError)(text) from None

    def _name_rows(self, error: Exception) -> str:
        """Where the rows stand of the batch that could not be made, or was being computed."""
        told = re.search(rf"{ROW_NUMBER}s ([\d, ]+)", "\n".join([str(error), *getattr(error, "__notes__", [])]))
        if told:
            numbers = [int(number) for number in told[1].split(",")]
        elif self.is_evaluating or self.guard.step != self.state.global_step or not self.guard.batches:
            return ""
        else:
            numbers = self.guard.batches[-1][0].tolist()
        return f", rows {list_first(self.locate_rows(numbers))}"

    # What is kept of each boundary

    def get_batch_samples(self, *args, **kwargs):
        self.watchdog.move(f"while it waited for the batches of step {self.state.global_step + 1}")
        if not self.is_resumed:
            self._keep_boundary()
        self.is_resumed = False  # the random state of the checkpoint is loaded only behind its first batches
        return super().get_batch_samples(*args, **kwargs)

    def _keep_boundary(self) -> None:
        state = self.state
        best = state.best_metric, state.best_global_step, state.best_model_checkpoint
        self.boundary = Boundary(state.global_step, get_random_states(), self.current_flos, best)

    def _rescue(self) -> Path | None:
        """The checkpoint of the last whole step, written now if need be; None where there is none to be had.

        Not where several processes train: they break at different moments, and one that waits for the others hangs.
        Nor with DeepSpeed, which changes the weights within the backward pass.
        """
        step, boundary = self.state.global_step, self.boundary
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{step}"
        if step > 0 and find_defect(checkpoint) is None:
            return checkpoint
        is_alone = self.args.world_size < 2 and not self.is_deepspeed_enabled and not self.is_fsdp_enabled
        if step == 0 or boundary is None or boundary.step != step or not is_alone:
            return None
        self.watchdog.move(f"while it saved the checkpoint of step {step}")
        set_random_states(boundary.random_states)
        self.current_flos = boundary.floating_point_operations
        self.state.best_metric, self.state.best_global_step, self.state.best_model_checkpoint = boundary.best
        try:
            super()._save_checkpoint(self.model_wrapped, None)
            if self.write_failure is not None:
                raise self.write_failure
            seal_checkpoint(checkpoint, getattr(self.args, "identity", None))
            return checkpoint
        except Exception as error:  # what broke the run may keep it from saving, too
            say(f"No checkpoint of step {step} could be saved: {describe_write_failure(error) or error}.")
            shutil.rmtree(checkpoint, ignore_errors=True)
            return None
        finally:
            self.write_failure = None

    # Saves that may fail

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        self._keep_boundary()
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except CheckpointLost:
            pass
        except OSError as error:
            if self.saving is None:
                raise
            self._lose(self.saving, describe_write_failure(error))  # by the seal
        self.saving = None

    def _save_checkpoint(self, model, trial):
        self.watchdog.move(f"while it saved the checkpoint of step {self.state.global_step}")
        before = self.boundary
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.write_failure = None
        # What an evaluation has drawn since.
        self._keep_boundary()
        self.boundary = self.boundary._replace(best=before.best) if before is not None else self.boundary
        self._attempt(super()._save_checkpoint, model, trial)
        error, self.write_failure = self.write_failure, None
        if share_greatest(error is not None, self.args.device):  # in any process
            self._lose(checkpoint, describe_write_failure(error) if error else "another process could not write")
            raise CheckpointLost(f"{checkpoint} could not be written")
        self.lost_saves.note_success()
        self._keep_boundary()
        self.saving = checkpoint

    def _lose(self, checkpoint: Path, why: str) -> None:
        self.control.should_save = False
        state = self.state
        # The best model is the one on the disk, not the one that was lost.
        state.best_metric, state.best_global_step, state.best_model_checkpoint = self.boundary.best
        self.boundary = None  # there is nothing to save it on
        self.lost_saves.give_up(checkpoint, why, self.args.should_save)

    def _attempt(self, save, *args) -> None:
        """Call a part of a save, unless one before has failed; what it cannot write is kept until all have finished."""
        if self.write_failure is not None:
            return
        try:
            save(*args)
        except Exception as error:
            if describe_write_failure(error) is None:
                raise
            self.write_failure = self.write_failure or error

    def _save(self, output_dir=None, state_dict=None):
        if self.state.global_step and output_dir and Path(output_dir).name == f"checkpoint-{self.state.global_step}":
            self._attempt(super()._save, output_dir, state_dict)
        else:
            super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir):
        self._attempt(super()._save_optimizer_and_scheduler, output_dir)

    def _save_scaler(self, output_dir):
        self._attempt(super()._save_scaler, output_dir)

    def _save_rng_state(self, output_dir):
        self._attempt(super()._save_rng_state, output_dir)

    # Loading and evaluation

    def _get_dataloader(self, *args, **kwargs):
        loader = super()._get_dataloader(*args, **kwargs)
        # Half of the watchdog's: the workers are to be started anew before it ends the run.
        watch_workers(loader, self.args.watchdog_seconds / 2)
        return loader

    def evaluation_loop(self, *args, **kwargs):
        self.is_evaluating = True
        with self.watchdog:
            try:
                evaluated = super().evaluation_loop(*args, **kwargs)
            except Exception as error:
                if isinstance(error, EvaluationAbandoned):
                    self.is_evaluating = False
                elif not self.is_in_train:
                    error = end_workers(error)
                    if is_out_of_memory(error) or find_worker_failure(error):
                        self._give_up(error, None)
                raise
        self.is_evaluating = False
        return evaluated
