"""Orders of the training rows, drawn anew each epoch and the same again after a resume."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochSampler(torch.utils.data.Sampler):
    """An order of `num_rows` rows that depends on (seed, epoch) alone; `__iter__` is the subclass's."""

    def __init__(self, num_rows: int, seed: int):
        self.num_rows, self.seed = num_rows, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self.epoch = epoch

    def __len__(self):
        return self.num_rows


class LengthGroupedSampler(EpochSampler):
    """The order of `train_sampling_strategy: group_by_length`, drawn from (seed, epoch) alone.

    Trainer's own sampler draws from the global random state, which no checkpoint holds as it was at the start of an
    epoch: a run resumed in its second epoch trains on other batches (transformers 5.23). `rows_per_step` is the number
    of rows of an optimizer step over all processes, so that the steps are the same however a step is divided.
    """

    def __init__(self, lengths: list[int], rows_per_step: int, seed: int):
        super().__init__(len(lengths), seed)
        self.lengths, self.rows_per_step = lengths, rows_per_step

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.rows_per_step, generator=generator))


class BalancedSampler(EpochSampler):
    """As many rows as there are, drawn so that each class comes as often as any other; drawn from (seed, epoch) alone.

    A class with fewer rows than its share has all of them, as often as needed; one with more has some of them, others
    in each epoch. No row is drawn twice before every row of its class has been drawn once.
    """

    def __init__(self, labels: Sequence[int], seed: int):
        super().__init__(len(labels), seed)
        self.labels = np.asarray(labels)

    def __iter__(self):
        generator = np.random.default_rng((self.seed, self.epoch))
        classes = np.unique(self.labels)
        # The rows that do not divide by the classes go to classes that are drawn.
        shares = np.full(len(classes), len(self.labels) // len(classes))
        shares[generator.permutation(len(classes))[: len(self.labels) % len(classes)]] += 1
        drawn = []
        for label, share in zip(classes, shares, strict=True):
            rows = np.flatnonzero(self.labels == label)
            rounds = [generator.permutation(rows) for _ in range(-(-share // len(rows)))]
            drawn.append(np.concatenate(rounds)[:share] if rounds else rows[:0])
        return iter(generator.permutation(np.concatenate(drawn)).tolist())
