"""Batches of an evaluation: every row once, longest first, with next to no padding."""

import math
from collections.abc import Iterator

from common.sampling import measure_rows

import numpy as np
from datasets import Dataset, DatasetDict
from transformers.trainer_pt_utils import BatchRebalanceSampler

MOST_PADDING = 0.005  # of the pieces of an evaluation, where that takes no more batches than a fixed number of rows
BISECTIONS = 12


def sort_for_evaluation(features: DatasetDict) -> DatasetDict:
    """Every split but train with its longest rows first: little padding, and too large a batch fails at once.

    Whoever reads predictions finds their row by the column `row`, not by their place.
    """
    return DatasetDict({split: rows if split == "train" else _sort(rows) for split, rows in features.items()})


def _sort(rows: Dataset) -> Dataset:
    columns = ["labels", "input_ids"]  # rows with inputs of one length: by their labels
    lengths = measure_rows(rows, [name for name in columns if _is_list(rows, name)])
    return rows.select(np.lexsort(-lengths.T))


def _is_list(rows: Dataset, name: str) -> bool:
    return name in rows.column_names and hasattr(rows.features[name], "feature")


class EvaluationBatches(BatchRebalanceSampler):
    """The rows in their order, which is longest first, in batches with next to no padding.

    `lengths` is [rows, sides]. Only the longest batch has `batch_size` rows; shorter rows share larger batches, which
    have no more pieces on any side, nor with `room` pieces that are generated behind the first. The fewest batches are
    made that leave MOST_PADDING, but never more than with a fixed number of rows, since each new shape costs, too.
    Where texts are generated, nearly the fewest that hold all rows: each is gone through piece by piece, which costs
    more than padding.
    A subclass of Hugging Face's sampler, because its Trainer takes that one for batches rather than rows.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, room: int = 0):
        self.batches = cut_batches(lengths, batch_size, room)

    def __len__(self):
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(batch) for batch in self.batches)


def cut_batches(lengths: np.ndarray, batch_size: int, room: int = 0) -> list[range]:
    """The rows of each batch; see EvaluationBatches."""
    if len(lengths) == 0:
        return []
    runs = _Runs(lengths, batch_size, room)
    # The price of a batch in pieces: the higher it is, the fewer batches and the more padding there are.
    if room:
        return runs.cut(float(runs.budget))
    most = math.ceil(len(lengths) / batch_size)
    low, high = 0.0, runs.budget / 100
    while len(best := runs.cut(high)) > most:
        low, high = high, 10 * high
    if runs.share_of_padding(best) <= MOST_PADDING:
        return best
    is_tight = False
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        cut = runs.cut(price)
        if len(cut) > most:
            low = price
        elif runs.share_of_padding(cut) <= MOST_PADDING:
            low, best, is_tight = price, cut, True
        else:
            high, best = price, best if is_tight else cut
    return best


class _Runs:
    """Rows, longest first, as runs of equal length: a batch is cut where one ends, or where it is full."""

    def __init__(self, lengths: np.ndarray, batch_size: int, room: int):
        self.lengths = lengths[:, 0]
        self.starts = np.flatnonzero(np.diff(self.lengths, prepend=-1))
        self.ends = np.append(self.starts[1:], len(lengths))
        self.budget = batch_size * (int(self.lengths.max()) + room)
        self.longest = self.lengths[self.starts]
        self.most_rows = np.maximum(1, self.budget // (self.longest + room))
        self.others = np.maximum.reduceat(lengths[:, 1:].max(1, initial=0), self.starts)
        self.other_budget = batch_size * int(self.others.max())

    def cut(self, price: float) -> list[range]:
        """The batches whose pieces, with `price` more for each, are the fewest: dynamic programming over the runs."""
        count = len(self.starts)
        costs, previous = np.full(count + 1, math.inf), np.zeros(count + 1, dtype=int)
        costs[0] = 0.0
        for run in range(count):
            sizes = self.ends[run:] - self.starts[run]
            cost = costs[run] + sizes * self.longest[run] + price * np.ceil(sizes / self._find_most_rows(run))
            better = cost < costs[run + 1 :]
            costs[run + 1 :][better] = cost[better]
            previous[run + 1 :][better] = run
        batches, end = [], count
        while end:
            run = previous[end]
            first, last = int(self.starts[run]), int(self.ends[end - 1])
            number = math.ceil((last - first) / self._find_most_rows(run)[end - 1 - run])
            edges = [first + (last - first) * part // number for part in range(number + 1)]
            batches = [range(*pair) for pair in zip(edges, edges[1:], strict=False)] + batches
            end = run
        return batches

    def _find_most_rows(self, run: int) -> np.ndarray:
        """How many rows a batch may have that begins with this run and ends with it or any later one."""
        if not self.other_budget:
            return np.full(len(self.starts) - run, self.most_rows[run])
        others = np.maximum.accumulate(self.others[run:])
        return np.maximum(1, np.minimum(self.most_rows[run], self.other_budget // others))

    def share_of_padding(self, batches: list[range]) -> float:
        """Of the pieces of the first side, with padding."""
        padded = sum(len(batch) * int(self.lengths[batch.start]) for batch in batches)
        return 1 - int(self.lengths.sum()) / max(padded, 1)
