"""Control tokens that the data write themselves: they are read as the text that they are, and steer no model."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from common.characters import list_texts
from common.errors import UserError
from common.lines import shorten

from datasets import DatasetDict
from tokenizers import Regex, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import AddedToken


def encode_as_text(tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str], **settings) -> BatchEncoding:
    """What the tokenizer makes of texts, or of pairs of them, in which no control token is read; see `reading_text`.

    `settings` are those of the tokenizer's call, which adds its own control tokens as ever.
    """
    with reading_text(tokenizer, *texts, *(settings[name] for name in ("text", "text_target") if name in settings)):
        # Not verbose: it would warn of texts that are longer than the model, which are cut and counted elsewhere.
        return tokenizer(*texts, split_special_tokens=True, verbose=False, **settings)


@contextmanager
def reading_text(tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str] | None) -> Iterator[None]:
    """Meanwhile the tokenizer's backend reads the names of control tokens in `texts` as text.

    The library's switch is not enough where a name is also a piece of the vocabulary, as </s> is in Unigram's: such a
    name is cut behind its first character. A UserError says where even that does not help.
    """
    cut, stubborn = _prepare(tokenizer, len(tokenizer))
    if stubborn is not None:
        _refuse_names(tokenizer, stubborn, texts)
    with _switching(tokenizer, cut):
        yield


@contextmanager
def _switching(tokenizer: PreTrainedTokenizerBase, cut: Regex | None) -> Iterator[None]:
    """Meanwhile the backend, if there is one, reads no control token, and cuts texts where `cut` says."""
    if not tokenizer.is_fast:
        yield
        return
    backend = tokenizer.backend_tokenizer
    reads_text, splitter = backend.encode_special_tokens, backend.pre_tokenizer
    backend.encode_special_tokens = True
    if cut is not None:
        steps = [] if splitter is None else [splitter]
        backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.Split(cut, "isolated")])
    try:
        yield
    finally:
        backend.encode_special_tokens = reads_text
        if cut is not None:
            backend.pre_tokenizer = splitter


def compile_names(tokenizer: PreTrainedTokenizerBase, others: Sequence[str] = ()) -> re.Pattern:
    """A pattern that finds the tokenizer's control tokens in a text, the longest first, and these others."""
    return _compile_names(tokenizer, tuple(others), len(tokenizer))


def describe_control_tokens(tokenizer: PreTrainedTokenizerBase, splits: DatasetDict) -> str:
    """How many rows of each split write the name of a control token, and one of them; "" where none does."""
    names, counts, example = compile_names(tokenizer), {}, ""
    for split, rows in splits.items():
        columns = [column for column in rows.column_names if column not in ("id", "origin")]
        for table in rows.select_columns(columns).with_format("arrow").iter(1000):
            for row in table.to_pylist():
                found = next(filter(None, map(names.search, list_texts(row))), None)
                if found:
                    counts[split], example = counts.get(split, 0) + 1, example or found[0]
    shown = ", ".join(f"{split} {count:,} of {len(splits[split]):,}" for split, count in counts.items())
    return f"rows that write one, as {example}: {shown}; they are read as text" if counts else ""


def _refuse_names(tokenizer, names: re.Pattern, texts: Sequence) -> None:
    for text in (text for column in texts for text in column or ()):
        found = names.search(text)
        if found:
            raise UserError(
                f"{type(tokenizer).__name__} reads {found[0]!r} as a control token wherever it stands, as in "
                f"{shorten(text, 60)!r}: take it out of the texts, or use another model."
            )


@lru_cache(maxsize=8)
def _prepare(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[Regex | None, re.Pattern | None]:
    """Where names have to be cut, and which are read as control tokens even so; `size` tells a tokenizer that grew."""
    ids = _list_control_tokens(tokenizer)
    cut = None
    if tokenizer.is_fast:
        model = tokenizer.backend_tokenizer.model
        pieces = {name for name in ids if len(name) > 1 and ids[name] in (piece.id for piece in model.tokenize(name))}
        if pieces:
            cut = Regex("|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in sorted(pieces)))
    with _switching(tokenizer, cut):
        encoded = tokenizer([f"a {name} b{name}" for name in ids], split_special_tokens=True, add_special_tokens=False)
    stubborn = [name for name, pieces in zip(ids, encoded["input_ids"], strict=True) if ids[name] in pieces]
    return cut, _join(stubborn) if stubborn else None


def _list_control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that steer a model, with their ids. A text has the unknown token where it has unknown characters."""
    # Most of a checkpoint's control tokens, as Llama 3's for headers, are no named special tokens.
    tokens: dict[int, AddedToken] = tokenizer.added_tokens_decoder
    names = [token.content for token in tokens.values() if token.special] + tokenizer.all_special_tokens
    return {name: tokenizer.convert_tokens_to_ids(name) for name in names if name and name != tokenizer.unk_token}


@lru_cache(maxsize=8)
def _compile_names(tokenizer: PreTrainedTokenizerBase, others: tuple[str, ...], size: int) -> re.Pattern:
    return _join({*_list_control_tokens(tokenizer), *others})


def _join(names: Sequence[str] | set[str]) -> re.Pattern:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
