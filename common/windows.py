"""Words to pieces and back: texts longer than the model's input become overlapping windows, and no word is lost."""

from collections.abc import Sequence
from typing import NamedTuple

from common.errors import UserError

from transformers import PreTrainedTokenizerBase

PROBE = ["Tom", "ate", "3", "figs", "and", "left", "."]


class Window(NamedTuple):
    """A stretch of words that fits into the model; of the words it owns, and of no others, it gives the result."""

    start: int
    end: int
    owned_start: int
    owned_end: int


def check_word_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether each word has to be given with a space before it, to get the pieces that it has in running text.

    Byte-level tokenizers write the space into the piece. Most of them leave it out when they get a list of words, also
    where `add_prefix_space` is set (transformers 5.23), and the model then reads the words as if glued together.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not say which piece belongs to which word: use a model with a fast "
            "tokenizer (tokenizer.json)."
        )
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
