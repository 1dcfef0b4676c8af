"""Training batches of rows of similar length, drawn anew each epoch and the same again after a resume."""

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroupedSampler(torch.utils.data.Sampler):
    """The order of `train_sampling_strategy: group_by_length`, drawn from (seed, epoch) alone.

    Trainer's own sampler draws from the global random state, which no checkpoint holds as it was at the start of an
    epoch: a run resumed in its second epoch trains on other batches (transformers 5.23). `rows_per_step` is the number
    of rows of an optimizer step over all processes, so that the steps are the same however a step is divided.
    """

    def __init__(self, lengths: list[int], rows_per_step: int, seed: int):
        self.lengths, self.rows_per_step, self.seed = lengths, rows_per_step, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.rows_per_step, generator=generator))
