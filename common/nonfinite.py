"""Steps whose loss or gradient is NaN or infinite: they change no weight, and name the rows that made them."""

from collections.abc import Iterable

from common.console import say
from common.errors import UserError
from common.launching import share_greatest

import torch
from accelerate.utils import DistributedType, gather_object

ROW_NUMBER = "row_number"  # the column and the entry of a batch that say which training rows are in it
SHOWN_ROWS = 8


class NonFiniteGuard:
    """Sees the losses and the gradient of each step before the optimizer does; all processes decide alike.

    Torch's optimizers pass over weights without a gradient, so a step that is skipped leaves weights and moments alone.
    DeepSpeed updates the weights within the backward pass: there the first such step ends the run.
    """

    def __init__(self, trainer, most_in_a_row: int):
        self.trainer, self.most_in_a_row = trainer, most_in_a_row
        self.in_a_row, self.skipped = 0, []
        self.step, self.batches, self.sum_before = -1, [], None

    def begin_batch(self, numbers: torch.Tensor | None) -> None:
        """Keep the numbers of the rows of a batch; with the first one of a step forget those of the step before."""
        if self.step != self.trainer.state.global_step:
            self.step, self.batches = self.trainer.state.global_step, []
            self.sum_before = self.trainer._tr_loss.clone()
        self.batches.append((numbers, None))

    def note_loss(self, loss: torch.Tensor) -> None:
        """Keep the loss of the batch until its step is checked; before DeepSpeed's backward pass it is checked now."""
        if not self.batches:  # a loss that is computed outside of a step
            return
        self.batches[-1] = (self.batches[-1][0], loss.detach())
        if self._is_deepspeed() and self._agree(bool(self._find_broken())):
            self._end("loss")

    def check_step(self, model, grad_norm) -> None:
        """Skip the step that is about to be made where its losses or its gradient are not finite."""
        losses = [loss for _, loss in self.batches if loss is not None]
        is_broken = bool(losses) and not bool(torch.isfinite(torch.stack(losses)).all())
        # In float16 an infinite gradient is the scaler's way to find its scale: it skips these steps itself.
        if self.trainer.accelerator.scaler is None and grad_norm is not None:
            is_broken |= not bool(torch.isfinite(torch.as_tensor(grad_norm)).all())
        if not self._agree(is_broken):
            self.in_a_row = 0
            return
        what = "loss" if self._agree(bool(self._find_broken())) else "gradient"
        if self.trainer.tracked_run is not None:
            self.trainer.tracked_run.alert_broken(f"The {what} of step {self.step + 1} is not finite.")
        if self._is_deepspeed():
            self._end(what)
        self.in_a_row += 1
        self.skipped.append(self.step + 1)
        for parameter in model.parameters():
            parameter.grad = None
        # The logged loss is the mean of the steps that were made.
        self.trainer._tr_loss = self.sum_before
        self.trainer._globalstep_last_logged += 1
        if self.in_a_row >= self.most_in_a_row:
            self._end(what)
        say(f"Step {self.step + 1}: the {what} is not finite; no weight is changed. {self._name_rows(what)}")

    def _end(self, what: str) -> None:
        times = f"{self.in_a_row} steps in a row" if self.in_a_row > 1 else "step"
        first = self.step + 1 - max(self.in_a_row - 1, 0)
        raise UserError(
            f"The {what} is not finite at {times} from {first}. {self._name_rows(what)} Look at these rows, or try a "
            "lower learning_rate, more warmup_steps, or dtype float32. The last checkpoint is from before; with "
            "--allow_change learning_rate the run goes on from it with another one."
        )

    def _is_deepspeed(self) -> bool:
        return self.trainer.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _agree(self, is_broken: bool) -> bool:
        return bool(share_greatest(is_broken, self.trainer.args.device))

    def _find_broken(self) -> list[torch.Tensor]:
        """The rows of the batches of this process whose own loss is not finite."""
        return [rows for rows, loss in self.batches if loss is not None and not bool(torch.isfinite(loss).all())]

    def _name_rows(self, what: str) -> str:
        """The rows of the training data that the step was made of; of a broken loss those of its batches alone.

        Those of all processes.
        """
        batches = self._find_broken() if what == "loss" else [rows for rows, _ in self.batches]
        numbers = [number for rows in batches if rows is not None for number in rows.tolist()]
        places = [list(self.trainer.locate_rows(numbers))]
        if self.trainer.args.world_size > 1:
            places = gather_object(places)
        return f"Its rows: {list_first(place for some in places for place in some)}."


def list_first(places: Iterable[str]) -> str:
    """The first few of the places, each once, and how many more there are."""
    unique = list(dict.fromkeys(places))
    hidden = len(unique) - SHOWN_ROWS
    return ", ".join(unique[:SHOWN_ROWS]) + (f" and {hidden} more" if hidden > 0 else "")


def collate_numbered(collator, rows: list[dict]) -> dict:
    """What `collator` makes of the rows, and the numbers of the rows."""
    numbers = torch.tensor([row[ROW_NUMBER] for row in rows])
    try:
        batch = collator([{name: value for name, value in row.items() if name != ROW_NUMBER} for row in rows])
    except Exception as error:  # maybe in a worker, which knows nothing else of them
        broken = [row[ROW_NUMBER] for row in rows if not can_collate(collator, row)]
        error.add_note(f"{ROW_NUMBER}s {', '.join(map(str, broken or numbers.tolist()))}")
        raise
    return {**batch, ROW_NUMBER: numbers}


def can_collate(collator, row: dict) -> bool:
    """Whether `collator` makes a batch of this row alone."""
    try:
        collator([{name: value for name, value in row.items() if name != ROW_NUMBER}])
    except Exception:
        return False
    return True
