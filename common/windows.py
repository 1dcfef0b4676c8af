"""Words to pieces and back: texts longer than the model's input become overlapping windows, and no word is lost."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.control_tokens import encode_as_text, reading_text
from common.errors import UserError

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

PROBE = ["Tom", "ate", "3", "figs", "and", "left", "."]


class Window(NamedTuple):
    """A stretch of words that fits into the model; of the words it owns, and of no others, it gives the result."""

    start: int
    end: int
    owned_start: int
    owned_end: int


def refuse_slow_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a UserError for a tokenizer in Python: it does not know where in the text its pieces stand."""
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not say which piece belongs to which word: use a model with a fast "
            "tokenizer (tokenizer.json)."
        )


def check_word_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether each word has to be given with a space before it, to get the pieces that it has in running text.

    Byte-level tokenizers write the space into the piece. Most of them leave it out when they get a list of words, also
    where `add_prefix_space` is set (transformers 5.23), and the model then reads the words as if glued together.
    """
    refuse_slow_tokenizer(tokenizer)
    backend = _get_plain_backend(tokenizer)
    expected = backend.encode(" ".join(PROBE), add_special_tokens=False).ids
    for spaced in (False, True):
        if backend.encode(_space(PROBE, spaced), is_pretokenized=True, add_special_tokens=False).ids == expected:
            return spaced
    raise UserError(
        f"{type(tokenizer).__name__} splits a list of words otherwise than the same text: use another tokenizer."
    )


def encode_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """The piece ids of each word of each text, without special tokens; a word without any piece gets the unknown one.

    Zero-width and control characters are such words: left out, their tags would vanish from the scores.
    """
    spaced = check_word_tokenizer(tokenizer)
    with reading_text(tokenizer, *texts):
        encodings = _get_plain_backend(tokenizer).encode_batch(
            [_space(words, spaced) for words in texts], is_pretokenized=True, add_special_tokens=False
        )
    encoded = []
    for words, encoding in zip(texts, encodings, strict=True):
        pieces = [[] for _ in words]
        for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
            pieces[word].append(piece)
        if tokenizer.unk_token_id is None and not all(pieces):
            word = words[pieces.index([])]
            raise UserError(
                f"{type(tokenizer).__name__} has no pieces for {word!r} and no unknown token: use another tokenizer."
            )
        encoded.append([ids or [tokenizer.unk_token_id] for ids in pieces])
    return encoded


def encode_word_windows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], max_length: int, doc_stride: int
) -> dict[str, list]:
    """The model's inputs for each text of words: one window or, where it is longer, several that overlap.

    `row` says which text a window belongs to, `positions` where the first pieces of the words that it owns are,
    `first_word` which word is the first of these, `cut_words` how many words are longer than a window: the model reads
    their beginning only.
    """
    before, after = find_special_tokens(tokenizer)
    room = max_length - len(before) - len(after)
    names = ("input_ids", "attention_mask", "row", "first_word", "positions", "cut_words")
    windows = {name: [] for name in names}
    for row, pieces in enumerate(encode_words(tokenizer, texts)):
        for window in cut_windows([len(ids) for ids in pieces], room, doc_stride):
            input_ids, positions = [*before], []
            for word in range(window.start, window.end):
                if window.owned_start <= word < window.owned_end:
                    positions.append(len(input_ids))
                input_ids += pieces[word][:room]
            input_ids += after
            cut_words = sum(len(pieces[word]) > room for word in range(window.start, window.end))
            values = (input_ids, [1] * len(input_ids), row, window.owned_start, positions, cut_words)
            for name, value in zip(names, values, strict=True):
                windows[name].append(value)
    return windows


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    pairs: list[str] | None,
    max_length: int,
    doc_stride: int | None = None,
) -> dict[str, list]:
    """The model's inputs for each text or pair of texts, at most `max_length` pieces long.

    With `doc_stride` a longer text becomes windows that share that many pieces; without it, its end is cut off. `row`
    says which text a window belongs to, `is_cut` whether something of it was cut off.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if doc_stride is not None and pairs is not None:
        raise UserError("long_text windows reads single texts: leave it at truncate for pairs of texts.")
    if doc_stride is not None and doc_stride >= room:
        raise UserError(f"doc_stride is {doc_stride}: set it below {room}, the pieces of a text that a window holds.")
    encoded = encode_as_text(
        tokenizer,
        texts,
        pairs,
        truncation="only_first" if doc_stride is not None else True,
        max_length=max_length,
        stride=doc_stride or 0,
        padding=False,
        return_overflowing_tokens=True,
    )
    rows = encoded.pop("overflow_to_sample_mapping", list(range(len(texts))))
    if doc_stride is not None:
        return dict(encoded) | {"row": rows, "is_cut": [False] * len(rows)}
    kept = [index for index, row in enumerate(rows) if index == 0 or rows[index - 1] != row]
    windows = {name: [values[index] for index in kept] for name, values in encoded.items()}
    pieces = Counter(rows)
    return windows | {"row": [rows[index] for index in kept], "is_cut": [pieces[rows[index]] > 1 for index in kept]}


def list_texts(rows: Dataset, columns: Sequence[str] = ("text", "text_pair")) -> Iterator[str]:
    """Every text of these columns of the rows, for a tokenizer to learn from."""
    for column in columns:
        yield from (text for text in rows[column] if text is not None)


def count_cut_texts(features: DatasetDict, column: str) -> str:
    """How many rows of each split were cut, which `column` says, as in "train 3 of 1,000"; "" where none was.

    The column holds whether something of a row was cut off, or how much.
    """
    counts = {split: np.count_nonzero(rows[column]) for split, rows in features.items()}
    return ", ".join(f"{split} {count:,} of {len(features[split]):,}" for split, count in counts.items() if count)


def describe_cut_texts(windows: DatasetDict, rows: DatasetDict, max_length: int, long_text: str) -> str:
    """How long texts are read, and how many texts of each split lose their end."""
    if long_text == "windows":
        more = sum(len(windows[split]) - len(rows[split]) for split in windows)
        return f"up to {max_length} pieces, {more:,} more than texts; their scores are pooled"
    lost = count_cut_texts(windows, "is_cut")  # a window is a whole text here
    if not lost:
        return f"up to {max_length} pieces: no text is cut"
    return f"up to {max_length} pieces: the end of longer texts is cut off ({lost}); long_text: windows reads it too"


def describe_word_windows(windows: DatasetDict, sentences: DatasetDict, max_length: int) -> str:
    """How long windows are, how many more of them there are than sentences, and how many words are cut short."""
    more = sum(len(windows[split]) - len(rows) for split, rows in sentences.items())
    cut = sum(sum(rows["cut_words"]) for rows in windows.values())
    return f"up to {max_length} pieces, {more} more than sentences; no word is left out, {cut} are cut short"


def cut_windows(lengths: Sequence[int], room: int, overlap: int) -> list[Window]:
    """Windows of at most `room` pieces over words of these lengths in pieces; each word is owned by exactly one.

    Neighbouring windows share words of about `overlap` pieces, and each owns the half of them that is nearer to it, so
    that a word is read with context on both sides. A word longer than `room` counts as `room`.
    """
    lengths = [min(length, room) for length in lengths]
    spans, start = [], 0
    while True:
        end, used = start, 0
        while end < len(lengths) and used + lengths[end] <= room:
            used += lengths[end]
            end += 1
        spans.append((start, end))
        if end == len(lengths):
            break
        next_start, shared = end, 0
        most = min(overlap, room - lengths[end])  # the next window has to reach at least one word further
        while next_start - 1 > start and shared + lengths[next_start - 1] <= most:
            next_start -= 1
            shared += lengths[next_start]
        start = next_start
    # Between two windows the border of what they own lies in the middle of what they share.
    borders = [
        0,
        *((right[0] + left[1] + 1) // 2 for left, right in zip(spans, spans[1:], strict=False)),
        len(lengths),
    ]
    return [Window(*span, *owned) for span, owned in zip(spans, zip(borders, borders[1:], strict=False), strict=True)]


def find_special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text."""
    backend = _get_plain_backend(tokenizer)
    text = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    return whole[:start], whole[start + len(text) :]


def _get_plain_backend(tokenizer: PreTrainedTokenizerBase):
    """The tokenizer itself; a tokenizer.json may ask for padding and truncation, which would cut words off unseen."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _space(words: Sequence[str], spaced: bool) -> list[str]:
    return [word if index == 0 or not spaced else f" {word}" for index, word in enumerate(words)]
