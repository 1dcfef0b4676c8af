"""Rows for the six recipes, drawn right and wrong: their columns, tags, answers, dialogues and labels."""

import json

from tests.fuzz.contents import TEXTS

from hypothesis import strategies as st

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
