"""The arguments that say which rows share a batch, and how they are padded."""

from dataclasses import dataclass, field

from common.errors import UserError
from common.options import option

PADDED_FOR_COMPILE = 64  # each shape of a batch is compiled by itself


@dataclass
class BatchArguments:
    """How the rows are made into batches; a part of every run's arguments."""

    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "Order of the training rows: group_by_length (rows of like length share a step: little padding), "
            "random (any rows share a step; where it has several batches, they divide them by length), sequential, "
            "batch_rebalance, or balanced (each class as often as any other; for recipes with one class a row).",
            "choices": ["group_by_length", "random", "sequential", "batch_rebalance", "balanced"],
        },
    )
    length_groups_per_step: int = option(
        1,
        "With group_by_length: how many lengths, from short to long, meet in an optimizer step. The more, the more a "
        "model trained from scratch learns from it. gradient_accumulation_steps must be a multiple.",
    )
    max_tokens_per_batch: int | None = option(
        None,
        "Fill each training batch with rows of like length up to this many pieces, padding included, instead of a "
        "fixed number of rows: per_device_train_batch_size is not used then.",
    )
    pad_to_multiple_of: int | None = option(
        None,
        "Pad batches to a multiple of so many pieces. Default: 64 with torch_compile, else to the longest.",
    )

    def count_rows(self, pieces: int) -> int:
        """The rows of a training batch on one device, where each has so many pieces."""
        if self.max_tokens_per_batch is None:
            return self.per_device_train_batch_size
        return max(self.max_tokens_per_batch // pieces, 1)

    def check_batches(self) -> None:
        """UserError for settings that contradict each other; sets what follows from others."""
        if self.pad_to_multiple_of is None and self.torch_compile:
            self.pad_to_multiple_of = PADDED_FOR_COMPILE
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise UserError(f"pad_to_multiple_of is {self.pad_to_multiple_of}: it must be at least 1.")
        self._check_groups()
        if self.max_tokens_per_batch is None:
            return
        if self.max_tokens_per_batch < 1:
            raise UserError(f"max_tokens_per_batch is {self.max_tokens_per_batch}: it must be at least 1.")
        if self.train_sampling_strategy != "group_by_length":
            raise UserError(
                f"max_tokens_per_batch and train_sampling_strategy {self.train_sampling_strategy} exclude each other: "
                "leave one of them out."
            )
        if self.auto_find_batch_size:
            raise UserError("auto_find_batch_size changes a number of rows: leave it or max_tokens_per_batch out.")

    def _check_groups(self) -> None:
        groups, accumulation = self.length_groups_per_step, self.gradient_accumulation_steps
        if groups == 1:
            return
        if groups < 1:
            raise UserError(f"length_groups_per_step is {groups}: it must be at least 1.")
        if self.train_sampling_strategy != "group_by_length":
            raise UserError(
                "length_groups_per_step is read by train_sampling_strategy group_by_length, not by "
                f"{self.train_sampling_strategy}: leave it out."
            )
        if self.max_tokens_per_batch is not None:
            raise UserError("length_groups_per_step divides a number of rows: leave it or max_tokens_per_batch out.")
        if accumulation % groups:
            raise UserError(
                f"length_groups_per_step is {groups}, but gradient_accumulation_steps {accumulation} does not divide "
                "by it. As many rows a step are read by multiplying gradient_accumulation_steps and dividing "
                f"per_device_train_batch_size {self.per_device_train_batch_size} by {groups}."
            )
