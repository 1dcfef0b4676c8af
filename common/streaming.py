"""Training rows that are read while the model trains, for data larger than the disk: `streaming`.

They come in blocks. A block is checked and prepared as a whole data set is, by the same functions, and rows of like
length are grouped within it. The first one is read before a model is loaded, and stands for all in what is chosen and
printed from the training rows; the others need no more memory or disk than it does.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

from common.console import say, silence
from common.errors import UserError
from common.nonfinite import ROW_NUMBER

import datasets
import torch
from datasets import Dataset, DatasetDict

BLOCK = 2**32  # a row's number is that of its block times this, and its place in the block
REMEMBERED = 3  # blocks whose rows are located without reading them again
ROWS_TAKEN_AT_ONCE = 256
# What needs all training rows at once: setting -> the values that do not.
NEEDS_ALL_ROWS = {
    "train_sampling_strategy": ("group_by_length", "random", "sequential"),
    "max_tokens_per_batch": (None,),
    "max_train_samples_per_class": (None,),
    "linear_baseline": (None, False),
    "packing": (None, False),
}


class StreamedDataset(Dataset):
    """The first block of a stream, as a data set of its own, and the way to all others."""

    read_blocks: Callable[[], Iterator[Dataset]]
    origins: list[str]  # path:line of each row of the first block as it was read
    functions: tuple[Callable[[Dataset], Dataset], ...]
    remembered: dict[int, tuple[Dataset, list[str]]]

    def __deepcopy__(self, memo: dict) -> Dataset:
        """The first block alone: Dataset makes most of its changes on a copy, and nobody makes them on the others."""
        block = Dataset.__new__(Dataset)
        own = StreamedDataset.__annotations__
        block.__dict__ = {name: copy.deepcopy(value, memo) for name, value in vars(self).items() if name not in own}
        return block

    def then(self, first: Dataset, function: Callable[[Dataset], Dataset]) -> "StreamedDataset":
        """The stream whose first block is `first`, and whose others are what `function` makes of ours."""
        return _join(first, self.read_blocks, self.origins, (*self.functions, function))

    def iterate_blocks(self) -> Iterator[Dataset]:
        """The blocks without end: behind the last row of the data comes the first again."""
        numbers = itertools.count()
        while True:
            for position, raw in enumerate(self.read_blocks()):
                block, origins = (self, self.origins) if position == 0 else (self._prepare(raw), raw["origin"])
                number = next(numbers)
                self.remembered[number] = block, origins
                self.remembered.pop(number - REMEMBERED, None)
                yield block

    def _prepare(self, block: Dataset) -> Dataset:
        with silence(), _without_cache():
            for function in self.functions:
                block = function(block)
        return block

    def locate(self, number: int) -> str:
        """path:line of a row; read again from the start where it is no longer remembered, or a worker has read it."""
        block, place = divmod(number, BLOCK)
        if block not in self.remembered:
            next(itertools.islice(self.iterate_blocks(), block, None))
        rows, origins = self.remembered[block]
        return origins[rows[place].get("row", place)]


def begin_stream(first: Dataset, read_blocks: Callable[[], Iterator[Dataset]]) -> StreamedDataset:
    """The stream of what `read_blocks` yields, each time from the start of the data; `first` is its first block."""
    return _join(first, read_blocks, first["origin"], ())


def _join(first: Dataset, read_blocks, origins, functions) -> StreamedDataset:
    stream = StreamedDataset(first.data, first.info, first.split, first._indices, first._fingerprint)
    stream.read_blocks, stream.origins, stream.functions = read_blocks, origins, functions
    stream.remembered = {}
    return stream


def for_each_block(function: Callable[..., DatasetDict]) -> Callable[..., DatasetDict]:
    """Make `function(splits, ...)`, which makes other splits of them, do the same later with each block of a stream."""

    @functools.wraps(function)
    def apply(splits: DatasetDict, *args, **settings) -> DatasetDict:
        result, rows = function(splits, *args, **settings), splits.get("train")
        if isinstance(rows, StreamedDataset):

            def prepare(block: Dataset) -> Dataset:
                return function(DatasetDict({"train": block}), *args, **settings)["train"]

            result["train"] = rows.then(result["train"], prepare)
        return result

    return apply


class StreamedRows(torch.utils.data.IterableDataset):
    """The rows of a stream in the order in which they are trained on, each with its number.

    `draw(block, number, before)` says in which order the rows of a block come, with so many rows before it.
    """

    def __init__(self, stream: StreamedDataset, draw: Callable[[Dataset, int, int], Iterable[int]]):
        self.stream, self.draw = stream, draw

    def __iter__(self) -> Iterator[dict]:
        before = 0
        for number, block in enumerate(self.stream.iterate_blocks()):
            order = iter(self.draw(block, number, before))
            before += len(block)
            while places := list(itertools.islice(order, ROWS_TAKEN_AT_ONCE)):
                for place, row in zip(places, block.__getitems__(places), strict=True):
                    yield {**row, ROW_NUMBER: number * BLOCK + place}


def check_streaming(settings: dict, training_args) -> None:
    """UserError for settings that `streaming` contradicts; nothing to do where it is not set."""
    if not settings.get("streaming") or not training_args.do_train:
        return
    if settings["streaming_buffer_size"] < 1:
        raise UserError(f"streaming_buffer_size is {settings['streaming_buffer_size']}: it must be at least 1.")
    if training_args.max_steps <= 0:
        raise UserError("streaming: nobody knows how many rows there are: set max_steps in place of num_train_epochs.")
    for name, accepted in NEEDS_ALL_ROWS.items():
        if settings.get(name) not in accepted:
            said = name if settings[name] is True else f"{name} {settings[name]}"
            raise UserError(f"{said} needs all training rows at once: leave it or streaming out.")
    if "auto" in (settings.get("class_weights") or ()):
        raise UserError("class_weights auto counts all training rows: give the numbers, or leave streaming out.")
    if training_args.dataloader_num_workers > 1:
        raise UserError(
            f"dataloader_num_workers {training_args.dataloader_num_workers}: a stream is read in its order, by one "
            "worker at most: set it to 1, or to 0."
        )
    by_epoch = [name for name in ("eval_strategy", "save_strategy") if settings[name] == "epoch"]
    if by_epoch:
        cures = " and ".join(f"{name} steps" for name in by_epoch)
        say(f"Note: to a stream the end of an epoch is the end of the run: {cures} would come before it.")
    # Else accelerate would let the first process read for all, and join their batches, which differ in length.
    training_args.accelerator_config.dispatch_batches = False


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """What is made of a block stays in memory, and goes with it."""
    was_enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_caching()
