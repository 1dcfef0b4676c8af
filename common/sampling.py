"""Which rows share a batch: rows of like length, drawn anew each epoch and the same again after a resume."""

from collections.abc import Iterable, Iterator, Sequence

from common.errors import UserError

import numpy as np
import pyarrow.compute
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from transformers.trainer_pt_utils import BatchRebalanceSampler

ROWS_READ_AT_ONCE = 10_000
JITTER = 0.005  # by which a length is taken for longer or shorter, so that other rows meet in each epoch
FINE = 16  # rows of similar length that stay together while batches are filled up to a number of tokens


def measure_rows(rows: Dataset | Sequence[dict], names: Sequence[str] = ("input_ids",)) -> np.ndarray:
    """The lengths of the lists in these columns, [rows, columns]."""
    if not isinstance(rows, Dataset):
        return np.array([[len(row[name]) for name in names] for row in rows]).reshape(-1, len(names))
    parts = [np.zeros((0, len(names)), dtype=np.int64)]
    for table in rows.select_columns(list(names)).with_format("arrow").iter(ROWS_READ_AT_ONCE):
        parts.append(np.stack([pyarrow.compute.list_value_length(table[name]).to_numpy() for name in names], axis=1))
    return np.concatenate(parts)


def group_rows(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """The numbers of the rows in groups of `size` with little padding; the last group may have fewer.

    `lengths` is [rows, sides]: a row of an encoder-decoder has two. The rows are halved, along the side that leaves
    less padding, until a group is left (a k-d tree, Bentley 1975). Rows that are equally long stay in their order.
    """
    groups, stack = [], [np.arange(len(lengths))]
    while stack:
        rows = stack.pop()
        number = -(-len(rows) // size)
        if number < 2:
            groups.append(rows)
            continue
        middle = number // 2 * size
        halves = [_halve(rows, lengths, side, middle) for side in range(lengths.shape[1])]
        first, second = min(halves, key=lambda pair: sum(_count_padded(lengths[half]) for half in pair))
        stack += [second, first]
    return groups


def _halve(rows: np.ndarray, lengths: np.ndarray, side: int, middle: int) -> tuple[np.ndarray, np.ndarray]:
    ordered = rows[np.argsort(lengths[rows, side], kind="stable")]
    return ordered[:middle], ordered[middle:]


def _count_padded(lengths: np.ndarray) -> float:
    """The pieces of these rows in one batch, with those that fill them up."""
    return len(lengths) * lengths.max(0).sum()


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


def set_epoch(dataloader: torch.utils.data.DataLoader, epoch: int) -> None:
    """Tell the samplers of a DataLoader their epoch, however deep they lie in one another.

    Trainer and Accelerate do not reach one in three others, as it lies where several processes go on in the middle of
    an epoch: they would train on the batches of the first (transformers 5.23, accelerate 1.15).
    """
    inner = dataloader
    while inner is not None:
        if isinstance(inner, torch.utils.data.Sampler) and hasattr(inner, "set_epoch"):
            inner.set_epoch(epoch)
        batches = getattr(inner, "batch_sampler", None)
        inner = getattr(inner, "sampler", None) if batches is None else batches


class LengthGroupedSampler(EpochSampler):
    """The order of `train_sampling_strategy: group_by_length`, drawn from (seed, epoch) alone.

    `lengths` is [rows, sides]. The `rows_per_step` of an optimizer step, over all processes, are `groups` groups of
    like lengths, each from another part of the lengths, so that the steps are alike in pieces. Which rows meet differs
    between epochs, and the steps come in random order but for that with the largest group, which is the first: one that
    does not fit fails at once. The rows that do not fill a step are drawn at random and come last. The steps are the
    same however they are divided into batches, which are of `batch_size` rows with like lengths again.

    Trainer's own sampler draws from the global random state, which no checkpoint holds as it was at the start of an
    epoch: a run resumed in its second epoch trains on other batches (transformers 5.23).
    """

    def __init__(
        self, lengths: np.ndarray, rows_per_step: int, batch_size: int, seed: int, groups: int = 1, begun: int = 0
    ):
        super().__init__(len(lengths), seed)
        assert rows_per_step % groups == 0, "each group of a step has as many rows as any other"
        self.filling = -begun % rows_per_step
        self.lengths, self.rows_per_step, self.batch_size, self.groups = lengths, rows_per_step, batch_size, groups

    def __iter__(self):
        rows, lengths, generator = draw_lengths(self.lengths, self.seed, self.epoch)
        yield from rows[: self.filling].tolist()
        rows, lengths = rows[self.filling :], lengths[self.filling :]
        whole = len(rows) - len(rows) % self.rows_per_step
        groups = group_rows(lengths[:whole], self.rows_per_step // self.groups) if whole else []
        # The groups lie from short to long (along one side, then the other): a step has one from each part of them.
        parts = np.split(np.arange(len(groups)), self.groups)
        steps = np.stack([generator.permutation(part) for part in parts], axis=1)
        if groups:
            sizes = [_count_padded(self.lengths[rows[group]]) for group in groups]
            largest = int(np.argmax(steps == np.argmax(sizes))) // self.groups
            steps = np.concatenate([steps[[largest]], np.delete(steps, largest, axis=0)])
        chosen = [groups[number] for number in steps.ravel()]
        if whole < len(rows):
            chosen.append(np.arange(whole, len(rows)))
        for group in chosen:
            yield from _divide(rows[group], lengths[group], self.batch_size)


class RandomSteps(EpochSampler):
    """The order of `train_sampling_strategy: random` where a step has several batches: its rows, divided by length.

    The steps are those of the sampler that Accelerate puts in the place of torch's, so that what is learnt is the same
    as without: a loss that is exact depends on the rows of a step, not on which of them share a batch.
    """

    def __init__(self, lengths: np.ndarray, rows_per_step: int, batch_size: int, seed: int | None):
        self.drawn = SeedableRandomSampler(range(len(lengths)), data_seed=seed)
        super().__init__(len(lengths), self.drawn.initial_seed)
        self.lengths, self.rows_per_step, self.batch_size = lengths, rows_per_step, batch_size

    def __iter__(self):
        self.drawn.set_epoch(self.epoch)
        return divide_steps(np.array(list(self.drawn)), self.lengths, self.rows_per_step, self.batch_size)


def divide_steps(
    order: np.ndarray, lengths: np.ndarray, rows_per_step: int, batch_size: int, begun: int = 0
) -> Iterator[int]:
    """Yield the rows of each step in batches of like lengths; `begun` rows of the first step are not among them."""
    filling = min(-begun % rows_per_step, len(order))
    yield from order[:filling].tolist()
    for start in range(filling, len(order), rows_per_step):
        step = order[start : start + rows_per_step]
        yield from _divide(step, lengths[step], batch_size)


def _divide(rows: np.ndarray, lengths: np.ndarray, batch_size: int) -> Iterator[int]:
    for batch in group_rows(lengths, batch_size):
        yield from rows[batch].tolist()


def draw_lengths(lengths: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """The rows in random order and a little more or less than their lengths, [rows, sides]; same for (seed, epoch)."""
    generator = np.random.default_rng((seed, epoch))
    rows = generator.permutation(len(lengths))
    return rows, lengths[rows] * generator.uniform(1 - JITTER, 1 + JITTER, lengths.shape), generator


class TokenBatchSampler(BatchRebalanceSampler):
    """The batches of `max_tokens_per_batch`: as many rows of like length as have so many pieces with their padding.

    Both sides of an encoder-decoder's rows are counted. Each of the `processes` gets its own batch of a step, nearly
    as large as those of the others. Every epoch has as many batches as any other, so that the number of steps is
    known when training starts. Each row is drawn once an epoch (where there are fewer rows than processes: again).
    A subclass of Hugging Face's sampler, because its Trainer takes that one for batches rather than rows.
    """

    def __init__(self, lengths: np.ndarray, max_tokens: int, seed: int, processes: int = 1, process: int = 0):
        self.lengths, self.max_tokens, self.seed = lengths, max_tokens, seed
        self.processes, self.process, self.epoch = processes, process, 0
        longest = int(lengths.sum(1).max())
        if longest > max_tokens:
            raise UserError(
                f"max_tokens_per_batch is {max_tokens}, but the longest training row has {longest} pieces: set it to "
                "that at least, or cut the rows shorter."
            )
        # Lengths are drawn anew each epoch, so that one needs a few batches more than another.
        most = max(len(self._fill_batches(epoch)) for epoch in range(3))
        self.count = -(-most // processes) * processes

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self.epoch = epoch

    def __len__(self):
        return self.count // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._fill_batches(self.epoch)
        if len(batches) > self.count:
            batches = self._fill_batches(0)
        batches.sort(key=self._count_pieces, reverse=True)
        while len(batches) < self.count:
            batches += self._take_half(batches)
        batches.sort(key=self._count_pieces, reverse=True)
        steps = [batches[start : start + self.processes] for start in range(0, self.count, self.processes)]
        # The largest first: one that does not fit fails at once.
        order = 1 + np.random.default_rng((self.seed, self.epoch, 1)).permutation(len(steps) - 1)
        for number in (0, *order.tolist()):
            yield steps[number][self.process].tolist()

    def _count_pieces(self, batch: np.ndarray) -> int:
        return int(_count_padded(self.lengths[batch]))

    def _fill_batches(self, epoch: int) -> list[np.ndarray]:
        rows, lengths, _ = draw_lengths(self.lengths, self.seed, epoch)
        ordered = rows[np.concatenate(group_rows(lengths, FINE))]
        batches, start, longest = [], 0, []
        for end, row in enumerate(self.lengths[ordered].tolist()):
            longest = [max(pair) for pair in zip(longest, row, strict=True)] if longest else row
            if (end + 1 - start) * sum(longest) > self.max_tokens:
                batches.append(ordered[start:end])
                start, longest = end, row
        return [*batches, ordered[start:]]

    def _take_half(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        """Half of the rows of the largest batch that has more than one, taken away from it."""
        for number, batch in enumerate(batches):
            if len(batch) > 1:
                batches[number] = batch[: len(batch) // 2]
                return [batch[len(batch) // 2 :]]
        return [batches[0]]


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


def choose_sampler(training_args, rows: Dataset | Sequence[dict], sides: Sequence[str], batch_size: int):
    """The sampler of these training arguments, with `batch_size` rows a batch; None where Hugging Face's own serves.

    `sides` are the columns whose lengths are those of a row. UserError for a strategy that the rows do not allow.
    """
    strategy, seed = training_args.train_sampling_strategy, _choose_seed(training_args)
    rows_per_step = _count_step(training_args, batch_size)
    if strategy == "random" and rows_per_step > batch_size:
        return RandomSteps(measure_rows(rows, sides), rows_per_step, batch_size, training_args.data_seed)
    if strategy == "balanced":
        labels = rows["labels"]
        if len(labels) == 0 or not isinstance(labels[0], int):
            raise UserError("train_sampling_strategy balanced needs one class a row: use class_weights here.")
        return BalancedSampler(labels, seed)
    if strategy != "group_by_length":
        return None
    lengths = measure_rows(rows, sides)
    if training_args.max_tokens_per_batch:
        return TokenBatchSampler(
            lengths, training_args.max_tokens_per_batch, seed, training_args.world_size, training_args.process_index
        )
    return LengthGroupedSampler(lengths, rows_per_step, batch_size, seed, training_args.length_groups_per_step)


def draw_block(training_args, lengths: np.ndarray, batch_size: int, number: int, before: int) -> Iterable[int]:
    """The order of a stream's block; its `number` stands for the epoch, and `before` it there were so many rows."""
    seed, rows_per_step = _choose_seed(training_args), _count_step(training_args, batch_size)
    if training_args.train_sampling_strategy == "group_by_length":
        groups = training_args.length_groups_per_step
        sampler = LengthGroupedSampler(lengths, rows_per_step, batch_size, seed, groups, before)
        sampler.set_epoch(number)
        return sampler
    if training_args.train_sampling_strategy != "random":
        return range(len(lengths))
    order = np.random.default_rng((seed, number)).permutation(len(lengths))
    return divide_steps(order, lengths, rows_per_step, batch_size, before)


def _choose_seed(training_args) -> int:
    return training_args.seed if training_args.data_seed is None else training_args.data_seed


def _count_step(training_args, batch_size: int) -> int:
    return batch_size * training_args.gradient_accumulation_steps * training_args.world_size
