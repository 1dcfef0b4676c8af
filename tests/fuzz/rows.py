"""Rows of JSON lines, right and wrong, as each of the six recipes reads them."""

import json
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.labels import choose_label_names, number_labels
from common.messages import require_replies
from common.tagging import choose_tag_names, convert_splits, find_entities
from tests.fuzz.contents import TEXTS, count_lines
from tests.fuzz.reader import Reader, check_refusal
from tests.fuzz.recipes import read_split

from datasets import Dataset, DatasetDict
from hypothesis import strategies as st

WHOLE_SPLIT = r"The( [\d,]+)? training rows have "  # only one label, or too many of them: no row's fault
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.integers(),
    st.floats(),
    TEXTS,
    st.text(st.characters(), max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
GOOD = st.sampled_from(["Ada", "lives in", "Paris .", "是的", "好 吗", "e\u0301a", "😀👍🏽", "x\u200by", " a\tb\r\n"])
SPOKEN = st.one_of(GOOD, GOOD, GOOD, st.text(max_size=12).map("a{}".format), TEXTS)


def mix(good: st.SearchStrategy, *more: st.SearchStrategy) -> st.SearchStrategy:
    """Mostly what is good, now and then any value: a row of many values would else never be accepted."""
    return st.integers(0, 24).flatmap(lambda number: st.one_of(VALUES, *more) if number == 7 else good)


OTHERS = st.sampled_from([("id", SCALARS), ("title", VALUES), ("data", VALUES), ("a\nb", VALUES), ("origin", VALUES)])
EXTRA = st.integers(0, 19).flatmap(
    lambda number: (
        OTHERS.flatmap(lambda pair: st.fixed_dictionaries({pair[0]: pair[1]})) if number == 7 else st.just({})
    )
)


def alike(row: st.SearchStrategy[dict]) -> st.SearchStrategy[list]:
    """One to five rows, with and without ids of their own; now and then no rows at all but any values."""
    plain = st.lists(st.builds(dict.__or__, row, EXTRA), min_size=1, max_size=5)
    numbered = plain.map(lambda rows: [{"id": number} | row for number, row in enumerate(rows)])
    return st.integers(0, 19).flatmap(
        lambda number: st.lists(VALUES, min_size=1, max_size=2) if number == 7 else numbered if number % 2 else plain
    )


def draw_columns(*columns: tuple[tuple[str, ...], st.SearchStrategy]) -> st.SearchStrategy[list]:
    """Rows of these columns; each goes by one of its names, rarely by another in another row."""
    names = st.tuples(*(st.sampled_from(names) for names, _ in columns))
    return mix(names, names).flatmap(
        lambda drawn: alike(
            st.fixed_dictionaries(
                dict(zip(drawn if isinstance(drawn, tuple) else "ab", (values for _, values in columns), strict=True))
            )
        )
    )


@st.composite
def draw_sentence(draw) -> dict:
    """Words with their tags: as IOB2 has them, as chance has them, as numbers, or as one text."""
    words = draw(
        st.lists(mix(st.sampled_from(["Ada", "in", "Paris", "林", "e\u0301", "\u3000", "a b"])), min_size=1, max_size=6)
    )
    tags, last = [], ""
    for _ in words:
        kinds = draw(st.sampled_from(["O", "B-PER", "B-LOC", "I"]))
        tag = f"I-{last[2:]}" if kinds == "I" and last[2:] else "O" if kinds == "I" else kinds
        tags.append(tag)
        last = tag
    kind = draw(st.integers(0, 19))
    if kind == 6 and tags:
        tags[draw(st.integers(0, len(tags) - 1))] = draw(
            st.one_of(VALUES, st.sampled_from(["I-PER", "B-", "-", "S-A", "o"]))
        )
    elif kind == 1:
        tags = " ".join(tags)
    elif kind == 2:
        tags = draw(st.lists(st.integers(-1, 4), min_size=len(tags), max_size=len(tags)))
    elif kind == 3:
        tags = tags[1:]
    elif kind == 4:
        words = " ".join(map(str, words))
    names = draw(st.sampled_from([("tokens", "tags"), ("tokens", "tags"), ("words", "ner_tags"), ("tokens", "labels")]))
    return {names[0]: words, names[1]: tags}


@st.composite
def draw_question(draw) -> dict:
    """A question about a context, its answers at their places or elsewhere, in each of the shapes that they come in."""
    context = draw(st.lists(SPOKEN, min_size=1, max_size=6).map(" ".join))
    texts, starts = [], []
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, max(len(context) - 1, 0)))
        text = context[start : start + draw(st.integers(1, 8))]
        texts.append(draw(mix(st.just(text))))
        starts.append(draw(mix(st.just(start), st.integers(-3, 30))))
    shapes = [
        {"text": texts, "answer_start": starts},
        [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)],
        json.dumps({"text": texts, "answer_start": starts}),
        {"text": texts},
        texts[0] if texts else None,
    ]
    question = {"question": draw(mix(SPOKEN)), "answers": shapes[draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))]}
    if draw(st.integers(0, 5)) == 0:
        questions = [question | {"id": name} for name in draw(st.lists(SCALARS, max_size=2))]
        paragraphs = [{"context": context, "qas": draw(mix(st.just(questions)))}]
        return {"title": "t", "paragraphs": draw(mix(st.just(paragraphs)))}
    return question | {"context": draw(mix(st.just(context)))}


@st.composite
def draw_dialogue(draw) -> dict:
    """A dialogue in one of its five shapes, mostly one in which user and assistant take turns."""
    texts = draw(st.lists(mix(SPOKEN), min_size=1, max_size=5))
    roles = [("user", "assistant")[number % 2] for number in range(len(texts))]
    if draw(st.integers(0, 3)) == 0:
        roles, texts = ["system", *roles], [draw(SPOKEN), *texts]
    if draw(st.integers(0, 9)) == 7 and roles:
        other = st.one_of(st.sampled_from(["gpt", "human", "bot", "User", "tool", "system", "assistant"]), VALUES)
        roles[draw(st.integers(0, len(roles) - 1))] = draw(other)
    keys = draw(st.sampled_from([("role", "content"), ("role", "content"), ("from", "value"), ("role", "text")]))
    messages = [{keys[0]: role, keys[1]: text} for role, text in zip(roles, texts, strict=True)]
    extra = {"tool_calls": draw(VALUES), "reasoning_content": draw(VALUES)} if draw(st.integers(0, 19)) == 7 else {}
    messages = [message | extra for message in messages]
    shape = draw(st.integers(0, 6))
    if shape <= 2:
        name = draw(st.sampled_from(["messages", "conversations", "conversation", "dialog", "dialogue"]))
        return {name: draw(mix(st.just(messages)))}
    if shape == 3:
        return {"dialog": texts}
    if shape == 4:
        return {"prompt": draw(mix(SPOKEN)), "completion": draw(mix(SPOKEN))}
    if shape == 5:
        return {"prompt": messages[:-1], "completion": messages[-1:]}
    return {"instruction": draw(mix(SPOKEN)), "input": draw(mix(SPOKEN)), "output": draw(mix(SPOKEN))}


def draw_pair() -> st.SearchStrategy[dict]:
    """A text and its translation, nested as on the Hub, or in two columns."""
    flat = st.sampled_from([("en", "de"), ("source", "target"), ("en", "target"), ("de", "en")]).flatmap(
        lambda names: st.fixed_dictionaries(dict.fromkeys(names, mix(SPOKEN)))
    )
    nested = st.builds(
        lambda pair, more: {"translation": pair} | more, flat, st.sampled_from([{}, {"id": 1}, {"fr": "x"}])
    )
    return st.one_of(flat, nested, nested)


LABELS = st.sampled_from([
    st.sampled_from(["good", "bad", " good", "positive"]), st.integers(0, 3), st.booleans(),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), st.sampled_from(["", -1, "-1", None, "good"]), VALUES,
])  # fmt: skip
DRAWN = {
    "sentiment": LABELS.flatmap(
        lambda labels: draw_columns((("text", "sentence"), mix(SPOKEN)), (("label", "labels"), mix(labels)))
    ),
    "ner": alike(draw_sentence()),
    "translation": alike(draw_pair()),
    "summarization": draw_columns(
        (("document", "text", "article"), mix(SPOKEN)), (("summary", "highlights", "title"), mix(SPOKEN))
    ),
    "qa": alike(draw_question()),
    "dialogue": alike(draw_dialogue()),
}


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
