"""Sources and targets of sequence-to-sequence models: texts to pieces, cut where they are too long, and counted."""

from common.console import say
from common.control_tokens import compile_names, encode_as_text
from common.errors import UserError
from common.losses import IGNORED
from common.models import choose_max_length
from common.windows import count_cut_texts

import torch
from datasets import DatasetDict
from transformers import DataCollatorForSeq2Seq, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MANY_COPIES = 0.2  # of the pairs of a split


def choose_lengths(
    task_args, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, defaults: tuple[int, int]
) -> tuple[int, int]:
    """The most pieces of a source and of a target: as the arguments say, as the model was trained, or `defaults`.

    They are kept in the model's config.json. A UserError says which of them the model cannot take.
    """
    chosen = []
    for name, default in zip(("max_source_length", "max_target_length"), defaults, strict=True):
        given = getattr(task_args, name)
        wanted = getattr(config, name, None) if given is None else given
        chosen.append(choose_max_length(wanted, config, tokenizer, default, name))
        setattr(config, name, chosen[-1])
    return tuple(chosen)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    sources: list[str],
    targets: list[str | None],
    max_source_length: int,
    max_target_length: int,
    keep: str = "head",
    prefix: str = "",
) -> dict[str, list]:
    """The model's inputs and labels; `source_is_cut` and `target_is_cut` say of which pairs something was cut off.

    `keep` is what is left of a source that is too long: its head, or as much of its head as of its tail. A pair
    without target has one label, which is ignored; in a batch with others it changes nothing. `prefix` stands before
    every source.
    """
    source_ids, source_is_cut = encode_side(tokenizer, sources, max_source_length, keep, prefix=prefix)
    known = [text for text in targets if text is not None]
    encoded = iter(zip(*encode_side(tokenizer, known, max_target_length, is_target=True), strict=True))
    labels, target_is_cut = zip(
        *(next(encoded) if text is not None else ([IGNORED], False) for text in targets), strict=True
    )
    return {
        "input_ids": source_ids,
        "attention_mask": [[1] * len(ids) for ids in source_ids],
        "labels": list(labels),
        "source_is_cut": source_is_cut,
        "target_is_cut": list(target_is_cut),
    }


def encode_side(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_length: int,
    keep: str = "head",
    is_target: bool = False,
    prefix: str = "",
) -> tuple[list[list[int]], list[bool]]:
    """The pieces of each text with the special ones of its side, at most `max_length`, and whether it was cut.

    The end-of-sentence piece and the language stay where a text is cut: without the first, a model would not learn to
    stop, without the second it would not know the language. Control tokens are read in the `prefix`, and in no text.
    """
    if not texts:
        return [], []
    before, after = find_special_pieces(tokenizer, is_target)
    room = max_length - len(before) - len(after)
    if room < 1:
        name = "max_target_length" if is_target else "max_source_length"
        raise UserError(f"{name} is {max_length}: it must be at least {len(before) + len(after) + 1} to hold a piece.")
    encoded, are_cut = [], []
    for ids in _tokenize(tokenizer, texts, is_target, prefix):
        body = ids[len(before) : len(ids) - len(after)]
        are_cut.append(len(body) > room)
        if len(body) > room:
            head = room - room // 2 if keep == "head_tail" else room
            body = body[:head] + (body[len(body) - (room - head) :] if room > head else [])
        encoded.append([*before, *body, *after])
    return encoded, are_cut


def find_special_pieces(tokenizer: PreTrainedTokenizerBase, is_target: bool = False) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text of this side."""
    alone, with_text = _tokenize(tokenizer, ["", "a"], is_target)
    # What an empty text has is before and after; where the two meet, the pieces of "a" stand in the other.
    split = next((n for n, (x, y) in enumerate(zip(alone, with_text, strict=False)) if x != y), len(alone))
    return alone[:split], alone[split:]


def _tokenize(tokenizer, texts: list[str], is_target: bool, prefix: str = "") -> list[list[int]]:
    names, settings = compile_names(tokenizer), {"truncation": False, "padding": False}
    if not names.search(prefix):
        side = {"text_target" if is_target else "text": [prefix + text for text in texts]}
        return encode_as_text(tokenizer, **side, **settings)["input_ids"]
    # As MADLAD's <2de>, which is to steer the model. A text with such tokens of its own is read apart from it.
    before, after = find_special_pieces(tokenizer, is_target)
    start = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    encoded = tokenizer([prefix + text for text in texts], verbose=False, **settings)["input_ids"]
    for row, text in enumerate(texts):
        if names.search(text):
            ids = _tokenize(tokenizer, [text], is_target)[0]
            encoded[row] = [*before, *start, *ids[len(before) : len(ids) - len(after)], *after]
    return encoded


def describe_cut_pairs(
    features: DatasetDict, max_source_length: int, max_target_length: int, keep: str = "head"
) -> str:
    """How long sources and targets may be, and how many of each split are cut."""
    limits = f"sources up to {max_source_length} pieces, targets up to {max_target_length}"
    parts = []
    for side, lost in (("source", "end" if keep == "head" else "middle"), ("target", "end")):
        counts = count_cut_texts(features, f"{side}_is_cut")
        if counts:
            parts.append(f"the {lost} of longer {side}s is cut off ({counts})")
    return f"{limits}: {'; '.join(parts) or 'no text is cut'}"


class PairCollator:
    """Pads sources and targets of a batch, and shifts the targets to the right for the decoder to read.

    Hugging Face's collator leaves the shift to the model: M2M100 and NLLB do none where the loss is not their own, and
    mBART's fails at a row without target (transformers 5.23).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, pad_to_multiple_of: int | None = None
    ):
        self.pad = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        self.tokenizer, self.model = tokenizer, model

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.pad(rows)
        targets = batch["labels"].clone()
        targets[targets.eq(IGNORED).all(1), 0] = self.tokenizer.eos_token_id  # nothing but the end
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=targets)
        else:
            start = targets.new_full((len(targets), 1), self.model.config.decoder_start_token_id)
            shifted = torch.cat([start, targets[:, :-1]], dim=1)
            batch["decoder_input_ids"] = shifted.masked_fill(shifted == IGNORED, self.tokenizer.pad_token_id)
        return batch


def warn_of_copies(splits: DatasetDict, source: str, target: str) -> None:
    """Say where more than a fifth of the pairs have the same text on both sides: a model learns to copy from them."""
    for split, rows in splits.items():
        pairs = [(text.strip(), other.strip()) for text, other in zip(rows[source], rows[target], strict=True) if other]
        copies = sum(text == other for text, other in pairs)
        if copies > MANY_COPIES * len(pairs):
            say(f"Warning: {split}: {copies:,} of {len(pairs):,} rows have the same text as {source} and {target}.")


def show_pair(row: dict[str, list], tokenizer: PreTrainedTokenizerBase) -> str:
    """The pieces of a source as the model gets them, and those of its target."""
    source = [piece for piece in row["input_ids"] if piece != tokenizer.pad_token_id]
    target = [piece for piece in row.get("labels", []) if piece != IGNORED]
    return " -> ".join(" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (source, target) if ids)
