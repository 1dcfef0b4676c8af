"""Packing: several dialogues, or windows of an encoder, in one row without padding, none of which sees another."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence

from common.console import say
from common.data import map_rows
from common.errors import UserError
from common.losses import IGNORED

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled


def pack_rows(
    features: Dataset, max_length: int, num_proc: int | None = None, overwrite_cache: bool = False
) -> Dataset:
    """Rows of up to `max_length` pieces, each of several whole ones; `position_ids` start at 0 in each of these."""
    lengths = [len(ids) for ids in features["input_ids"]]
    bins = Dataset.from_dict({"members": list(fill_bins(lengths, max_length))})
    return map_rows(bins, _join_members, num_proc, overwrite_cache, features=features)


def fill_bins(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Which rows share a bin: the longest first, each into the bin that it fills best (best-fit decreasing)."""
    bins: dict[int, list[list[int]]] = {}  # by the room that is left
    rooms: list[int] = []  # the keys of `bins`, ascending
    for row in np.argsort(-np.array(lengths), kind="stable").tolist():
        place = bisect_left(rooms, lengths[row])
        members = []
        if place < len(rooms):
            left = rooms[place]
            members = bins[left].pop()
            if not bins[left]:
                del bins[left], rooms[place]
        else:
            left = room
        members.append(row)
        left -= lengths[row]
        if left not in bins:
            bins[left] = []
            insort(rooms, left)
        bins[left].append(members)
    for left in rooms:
        yield from bins[left]


def _join_members(bins: dict[str, list], indices: list[int], features: Dataset) -> dict[str, list]:
    joined = {"input_ids": [], "labels": [], "position_ids": [], "row": []}  # row: of each member
    for members in bins["members"]:
        rows = features[members]
        for name in ("input_ids", "labels"):
            joined[name].append([value for values in rows[name] for value in values])
        joined["row"].append(rows["row"])
        joined["position_ids"].append([place for ids in rows["input_ids"] for place in range(len(ids))])
    return joined


def describe_packing(packed: Dataset, count: int, max_length: int, what: str = "dialogues") -> str:
    """How many dialogues or windows share how many rows, and how full these are."""
    pieces = sum(len(ids) for ids in packed["input_ids"])
    return f"{count:,} {what} in {len(packed):,} rows, {pieces / (len(packed) * max_length):.1%} full"


class DialogueCollator:
    """Pads the dialogues of a batch; packed ones get no mask, since their positions say where one ends.

    Padding behind packed dialogues is one more, of its own. Flash attention reads borders in a single row only.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        attn_implementation: str | None = None,
        pad_to_multiple_of: int | None = None,
    ):
        self.pad = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        self.is_flat = "flash" in (attn_implementation or "")
        self.padding = {"input_ids": tokenizer.pad_token_id, "labels": IGNORED}

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        if "position_ids" not in rows[0]:
            return self.pad(rows)
        longest = 0 if self.is_flat else max(len(row["input_ids"]) for row in rows)
        batch = {}
        for name in ("input_ids", "labels", "position_ids"):
            padded = []
            for row in rows:
                missing = max(longest - len(row[name]), 0)
                tail = list(range(missing)) if name == "position_ids" else [self.padding[name]] * missing
                padded.append([*row[name], *tail])
            batch[name] = torch.tensor([sum(padded, [])] if self.is_flat else padded)
        return batch


class WindowCollator(DialogueCollator):
    """The same for windows of an encoder: a packed one gets a mask [rows, 1, pieces, pieces] of what sees what.

    `first_position` is what `find_first_position` gives for the model.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, first_position: int = 0, pad_to_multiple_of: int | None = None
    ):
        super().__init__(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        self.first_position = first_position

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        return separate_windows(batch, self.first_position) if "position_ids" in batch else batch


def separate_windows(batch: dict[str, torch.Tensor], first_position: int) -> dict[str, torch.Tensor]:
    """The batch with a mask by which a piece sees its own window alone, and with positions as the model counts them."""
    windows = batch["position_ids"].eq(0).cumsum(-1)
    mask = windows[:, None, :, None] == windows[:, None, None, :]
    return {**batch, "position_ids": batch["position_ids"] + first_position, "attention_mask": mask}


def find_first_position(model: PreTrainedModel) -> int:
    """The number of an encoder's first position: 0, or behind the number of padding, as in RoBERTa.

    Raises a UserError where packed windows would see each other: logits are compared, not names.
    """
    attention = model.config._attn_implementation
    if attention != "sdpa":
        raise UserError(
            f"packing: encoders are packed with attn_implementation sdpa, and this is {attention} (flash attention "
            "skips padding by itself): set it to sdpa, or leave packing out."
        )
    if is_deepspeed_zero3_enabled():
        raise UserError("packing: it cannot be tried on a model that ZeRO 3 divides: leave packing out.")
    for first in (0, (model.config.pad_token_id or 0) + 1):
        if _keeps_apart(model, lambda batch, first=first: separate_windows(batch, first)):
            return first
    raise UserError(f"packing: in {type(model).__name__} packed windows see each other; leave packing out.")


def refuse_mixing(model: PreTrainedModel) -> None:
    """Raise a UserError where packed dialogues would see each other: the model's logits are compared, not its name."""
    if is_deepspeed_zero3_enabled():
        say("Packing is not tried on the model first: under ZeRO 3 each process holds a part of its weights.")
        return
    if not _keeps_apart(model, lambda batch: batch | {"use_cache": False}):
        raise UserError(f"packing: in {type(model).__name__} packed dialogues see each other; leave packing out.")


def _keeps_apart(model: PreTrainedModel, finish: Callable[[dict], dict]) -> bool:
    """Whether pieces behind others in a row have the logits that they have alone; `finish` completes its batch."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(1000, model.config.vocab_size), (1, 12), generator=generator)
    ids[ids == model.config.pad_token_id] += 1  # some models count no position for padding
    positions = torch.tensor([[*range(5), *range(7)]])
    packed = finish({"input_ids": ids, "position_ids": positions})
    packed = {name: values.to(model.device) if torch.is_tensor(values) else values for name, values in packed.items()}
    was_training = model.training
    try:
        with torch.no_grad():
            alone = model.eval()(input_ids=ids[:, 5:].to(model.device))["logits"].float()
            behind = model(**packed)["logits"][:, 5:].float()
        tolerance = (1e-3 if model.dtype == torch.float32 else 0.03) * alone.std().item()
        return torch.allclose(alone, behind, atol=tolerance, rtol=0)
    except (TypeError, ValueError, RuntimeError, IndexError):  # it takes no positions, or no such mask
        return False
    finally:
        model.train(was_training)
