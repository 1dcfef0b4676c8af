"""Rows of JSON lines, right and wrong, as each of the six recipes reads them."""

import json
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.labels import choose_label_names, number_labels
from common.messages import require_replies
from common.tagging import choose_tag_names, convert_splits, find_entities
from tests.fuzz.contents import count_lines
from tests.fuzz.drawn import DRAWN
from tests.fuzz.reader import Reader, check_refusal
from tests.fuzz.recipes import read_split

from datasets import Dataset, DatasetDict
from hypothesis import strategies as st

WHOLE_SPLIT = r"The( [\d,]+)? training rows have "  # only one label, or too many of them: no row's fault


def write_lines(values: list, ensure_ascii: bool) -> bytes:
    """JSON lines of any values. Half a surrogate pair cannot be written but as an escape."""
    text = "".join(json.dumps(value, ensure_ascii=ensure_ascii) + "\n" for value in values)
    return (
        text if text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text) else json.dumps(values)
    ).encode()


def attempt_rows(
    drawn: tuple[list, str, bool], folder: Path, recipe: str, check: Callable, flags: tuple[str, ...]
) -> bool:
    """Read a split of rows as a recipe does; `check` gets the split's name, the rows as written, and as read."""
    values, split, ensure_ascii = drawn
    path = folder / "rows.jsonl"
    path.write_bytes(write_lines(values, ensure_ascii))
    try:
        rows, read_row = read_split(recipe, split, [str(path)], *flags)
        check_row_heads(rows, path, values)
        check(split, values, rows, read_row)
    except UserError as error:
        check_refusal(error, [path], count_lines(path.read_bytes()), WHOLE_SPLIT)
        return False
    return True


def check_row_heads(rows: Dataset, path: Path, values: list) -> None:
    """Every row has its own id and says which line it is of; no line is left out."""
    origins = [int(origin.removeprefix(f"{path}:")) for origin in rows["origin"]]
    assert origins == sorted(origins) and set(origins) == set(range(1, len(values) + 1)) - _list_empty(values)
    assert len(set(rows["id"])) == len(rows) and all(isinstance(name, str) and name for name in rows["id"])
    if all("id" in value and not {"paragraphs", "translation"} & value.keys() for value in values):
        assert list(rows["id"]) == [str(value["id"]) for value in values]


def _list_empty(values: list) -> set[int]:
    """The lines of articles without any question."""
    return {
        line
        for line, value in enumerate(values, start=1)
        if isinstance(value.get("paragraphs"), list) and not any(part["qas"] for part in value["paragraphs"])
    }


def name_column(values: list[dict], *names: str) -> str:
    """The first name that one of the rows has."""
    return next((name for name in names if any(name in value for value in values)), names[0])


def check_labels(split: str, values: list, rows: Dataset, read_row) -> None:
    """The numbers of the labels stand for what the rows say."""
    reader, splits = read_row.keywords["label_reader"], DatasetDict({split: rows})
    named = None if split == "train" else ["good", "bad", "positive", "a", "b", "c"]
    label_names = choose_label_names(splits, named, None, split == "train", reader.is_multi_label)
    numbered = number_labels(splits, label_names, reader.is_multi_label)[split]
    assert len(numbered) == len(values)
    for value, row in zip(values, numbered, strict=True):
        assert row["text"] == value[name_column(values, "text", "sentence")]
        written = value.get(name_column(values, "label", "labels"))
        if row["labels"] is None:
            assert split == "test" and (written in ("", -1, "-1", None) or not written.strip())
            continue
        written = [str(part).strip() for part in (written if isinstance(written, list) else [written])]
        written = [part.lower() if part in ("True", "False") else part for part in written]
        numbers_are_names = any(name.lstrip("-").isdigit() for name in label_names)
        found = [label_names.index(part) if part in label_names or numbers_are_names else int(part) for part in written]
        assert row["label_ids"] == found


def check_tags(split: str, values: list, rows: Dataset, read_row) -> None:
    """As many tags as words, valid IOB2, and every type has a name."""
    splits = convert_splits(DatasetDict({split: rows}), "auto")
    if split == "train":
        label_names = choose_tag_names(splits, None, None, True)
    assert len(rows) == len(values)
    for value, before, row in zip(values, rows, splits[split], strict=True):
        words = value[name_column(values, "tokens", "words")]
        assert row["tokens"] == (words.split() if isinstance(words, str) else words)
        if row["tags"] is None:
            assert split == "test"
            continue
        assert len(row["tags"]) == len(row["tokens"])
        for previous, tag in zip(["O", *row["tags"]], row["tags"], strict=False):
            assert tag[0] != "I" or previous[2:] == tag[2:], row["tags"]
        assert split == "test" or set(row["tags"]) <= set(label_names)
        if set("".join(tag[0] for tag in before["tags"])) <= set("OBI") and row["tags"] == before["tags"]:
            assert sum(tag[0] == "B" for tag in before["tags"]) == len(find_entities(row["tags"]))


def check_texts(split: str, values: list, rows: Dataset, read_row) -> None:
    """Both texts are as they were written."""
    assert len(rows) == len(values)
    for value, row in zip(values, rows, strict=True):
        row = {name: text for name, text in row.items() if name not in ("id", "origin")}
        written = [text for text in (value.get("translation") or value).values() if isinstance(text, str)]
        for name, text in row.items():
            assert text in written or (text is None and split == "test" and name in ("target", "summary"))


def check_places(split: str, values: list, rows: Dataset, read_row) -> None:
    """Each answer stands where it is said to stand; each question of each article is there."""
    count = sum(
        sum(len(part["qas"]) for part in value["paragraphs"]) if "paragraphs" in value else 1 for value in values
    )
    assert len(rows) == count
    for row in rows:
        assert row["question"] == row["question"].strip() != "" and row["context"].strip()
        if row["answers"] is None:
            assert split == "test" and row["answer_starts"] is None
            continue
        for text, start in zip(row["answers"], row["answer_starts"], strict=True):
            is_found = row["context"][start : start + len(text)] == text and start >= 0
            assert is_found or (read_row.keywords["find_answers"] and start == -1 and text not in row["context"])
            assert text.strip()


def check_turns(split: str, values: list, rows: Dataset, read_row) -> None:
    """User and assistant take turns behind at most one system message, and something is there to learn."""
    require_replies(DatasetDict({split: rows}))
    assert len(rows) == len(values)
    for value, row in zip(values, rows, strict=True):
        roles = [message["role"] for message in row["messages"]]
        spoken = roles[1:] if roles[0] == "system" else roles
        assert spoken == [("user", "assistant")[number % 2] for number in range(len(spoken))] and spoken
        assert split == "test" or "assistant" in roles
        assert all(message["content"].strip() for message in row["messages"])
        written = json.dumps(value, ensure_ascii=False)
        for message in row["messages"]:
            parts = message["content"].split("\n")
            assert all(json.dumps(part, ensure_ascii=False)[1:-1] in written for part in parts)


CHECKS = {
    "sentiment": check_labels, "ner": check_tags, "translation": check_texts, "summarization": check_texts,
    "qa": check_places, "dialogue": check_turns,
}  # fmt: skip


def make_reader(recipe: str, share: int, *flags: str) -> Reader:
    """The reader of a recipe's rows."""
    drawn = st.tuples(DRAWN[recipe], st.sampled_from(["train", "train", "test"]), st.booleans())
    return Reader(
        " ".join([f"rows of {recipe}", *flags]),
        drawn,
        lambda value, folder: attempt_rows(value, folder, recipe, CHECKS[recipe], flags),
        share,
    )


READERS = [
    make_reader("sentiment", 3), make_reader("ner", 2), make_reader("ner", 1, "--tag_names", "O", "B-PER", "I-PER"),
    make_reader("translation", 3), make_reader("summarization", 2), make_reader("qa", 3),
    make_reader("qa", 2, "--find_answers"), make_reader("dialogue", 3),
    make_reader("dialogue", 1, "--repeated_roles", "refuse"),
]  # fmt: skip
