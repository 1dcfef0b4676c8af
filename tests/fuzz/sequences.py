"""Tags, windows of words, answers in windows, and dialogues in templates."""

import re
from functools import cache
from pathlib import Path

from common.chat_templates import TEMPLATES, find_end_of_turn
from common.data import RowError
from common.dialogues import encode_dialogue, encode_reply, list_replies
from common.from_scratch import train_decoder_tokenizer, train_encoder_tokenizer
from common.losses import IGNORED
from common.messages import unfold_dialogue
from common.questions import encode_questions
from common.spans import locate_answer
from common.tagging import LETTERS, convert_to_iob2, detect_scheme, find_entities, repair_iob2
from common.windows import encode_word_windows, encode_words
from recipes.qa.run import read_question
from tests.fuzz.contents import TEXTS
from tests.fuzz.drawn import SPOKEN, draw_dialogue, draw_question
from tests.fuzz.reader import Reader, check_text

from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from transformers import PreTrainedTokenizerFast

TYPES = ("PER", "LOC", "B-X", "人")
LEARNT = [
    "Ada lives in Paris .",
    "是的 好 吗",
    "e\u0301a 😀👍🏽",
    "user assistant system",
    "abcdefghijklmnopqrstuvwxyz 0123456789",
]
STRICT = """\
{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system message') }}{%- endif -%}
{%- for message in messages -%}
{{ '[' + message['role'] + '] ' + message['content']|trim + eos_token }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[assistant] ' }}{%- endif -%}"""
CHATS = TEMPLATES | {"strict": STRICT}


@cache
def build_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer: of words, or of bytes."""
    train = {"words": train_encoder_tokenizer, "bytes": train_decoder_tokenizer}[kind]
    return train(LEARNT * 3, vocab_size=400)


# Tags


@st.composite
def draw_entities(draw) -> tuple[str, int, list[tuple[str, int, int]]]:
    """A scheme, a number of words, and typed spans of them from left to right, which may touch."""
    entities, place = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = place + draw(st.integers(0, 2))
        place = start + draw(st.integers(1, 4))
        entities.append((draw(st.sampled_from(TYPES)), start, place))
    return draw(st.sampled_from(sorted(LETTERS))), place + draw(st.integers(0, 2)), entities


def write_tags(scheme: str, count: int, entities: list[tuple[str, int, int]]) -> list[str]:
    """The tags of these entities, by the definition of the scheme."""
    tags = ["O"] * count
    for number, (kind, start, end) in enumerate(entities):
        for word in range(start, end):
            is_first, is_last = word == start, word == end - 1
            letter = {"IOB2": "B" if is_first else "I", "IOB1": "I"}.get(scheme)
            if scheme == "IOB1" and is_first and number and entities[number - 1][::2] == (kind, start):
                letter = "B"  # only here the scheme has it: between two of one type that touch
            if letter is None:
                inside = "M" if scheme == "BMES" else "I"
                letter = "S" if is_first and is_last else "B" if is_first else "E" if is_last else inside
            tags[word] = f"{letter}-{kind}"
    return tags


def attempt_entities(drawn: tuple, folder: Path) -> bool:
    """The entities are those that were written, whether the scheme is named or found out."""
    scheme, count, entities = drawn
    tags = write_tags(scheme, count, entities)
    for read_as in (scheme, detect_scheme([tags])):
        converted = convert_to_iob2(tags, read_as)
        assert converted == write_tags("IOB2", count, entities), (tags, read_as)
        assert [tuple(entity) for entity in find_entities(converted)] == entities
    return True


LETTER = st.sampled_from([f"{letter}-{kind}" for letter in "BIIIEMSLU" for kind in TYPES[:2]] + ["O", "O"])
TAGS = st.lists(LETTER, max_size=8)
FAULTY = st.lists(st.one_of(LETTER, LETTER, TEXTS, st.sampled_from(["", "-", "B-", "o", "X-PER", "I PER"])), max_size=8)


def attempt_tags(drawn: tuple[list[str], str], folder: Path) -> bool:
    """Tags are refused, or IOB2 whose entities seqeval finds as well; predicted ones are repaired to such."""
    tags, scheme = drawn
    try:
        converted = convert_to_iob2(tags, detect_scheme([tags]) if scheme == "auto" else scheme)
    except ValueError as error:
        assert "; " in str(error)
        check_text(str(error))
        return False
    for valid in (converted, repair_iob2([tag for tag in tags if tag[0] in "OBI"])):
        expected = [(kind, first, last + 1) for kind, first, last in get_entities(valid)]
        assert [tuple(entity) for entity in find_entities(valid)] == expected
    assert len(converted) == len(tags)
    return True


# Windows of words


WORDS = st.lists(
    st.one_of(SPOKEN.filter(bool), st.text(min_size=1, max_size=12), st.just("a" * 40)), min_size=1, max_size=12
)


def attempt_windows(drawn: tuple[list[list[str]], str, int, int], folder: Path) -> bool:
    """Every word of every text is owned once, in its order, and its place is that of its first piece."""
    texts, kind, max_length, doc_stride = drawn
    tokenizer = build_tokenizer(kind)
    windows = encode_word_windows(tokenizer, texts, max_length, doc_stride)
    pieces = encode_words(tokenizer, texts)
    owned = [[] for _ in texts]
    columns = (windows[name] for name in ("row", "first_word", "positions", "input_ids"))
    for row, first_word, positions, input_ids in zip(*columns, strict=True):
        assert len(input_ids) <= max_length and positions == sorted(set(positions))
        for word, position in enumerate(positions, start=first_word):
            owned[row].append(word)
            assert input_ids[position] == pieces[row][word][0]
    assert owned == [list(range(len(words))) for words in texts]
    return True


# Answers in windows


def attempt_answers(drawn: tuple[dict, str, int, int], folder: Path) -> bool:
    """Where an answer was located, its pieces hold it and no piece more; one that is short enough is in a window."""
    value, kind, max_length, doc_stride = drawn
    if not isinstance(value, dict) or not {"question", "context", "answers"} <= value.keys():
        return False
    try:
        row = read_question(value, find_answers=False)
    except RowError as error:
        assert "; " in str(error)
        return False
    tokenizer = build_tokenizer(kind)
    windows = encode_questions(tokenizer, [row["question"]], [row["context"]], max_length, doc_stride)
    whole = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for text, start in zip(row["answers"] or [], row["answer_starts"] or [], strict=True):
        start, text = start + len(text) - len(text.lstrip()), text.strip()
        end, located = start + len(text), 0
        for starts, ends in zip(windows["starts"], windows["ends"], strict=True):
            found = locate_answer(starts, ends, start, end)
            if found is not None:
                located += 1
                first, last = found
                assert text in row["context"][min(starts[first], start) : max(ends[last], end)]
                assert ends[first] > start and starts[last] < end
                assert first == 0 or ends[first - 1] <= start
                assert last == len(starts) - 1 or starts[last + 1] >= end
        pieces = [place for place in whole if place[1] > start and place[0] < end]
        if 0 < len(pieces) <= doc_stride and pieces[0][0] <= start and pieces[-1][1] >= end:
            assert located, "no window holds an answer that is shorter than what they share"
    return True


# Dialogues


@cache
def build_chat(template: str) -> tuple[PreTrainedTokenizerFast, str]:
    """A tokenizer of bytes with a template, and what ends a turn in it."""
    tokenizer = train_decoder_tokenizer(LEARNT * 3, vocab_size=400)
    tokenizer.chat_template = CHATS[template]
    return tokenizer, find_end_of_turn(tokenizer)


def attempt_dialogue(drawn: tuple[dict, str, str, int], folder: Path) -> bool:
    """What is learnt of a dialogue is what the assistant says; what is too long loses its beginning."""
    value, template, turns, max_length = drawn
    tokenizer, end_of_turn = build_chat(template)
    if not isinstance(value, dict):
        return False
    try:
        (row,) = unfold_dialogue(value)
        messages = row["messages"]
        if not any(message["role"] == "assistant" for message in messages):
            return False
        encoded = encode_dialogue(messages, tokenizer, end_of_turn, max_length, turns)
        for reply in list_replies([{"id": "", "origin": "", "messages": messages}], turns):
            one = encode_reply(reply["messages"], reply["reply"], tokenizer, end_of_turn, max_length, 8)
            assert len(one["input_ids"]) <= max(max_length, 16)
            check_learnt(one, tokenizer, [reply["reply"]] if reply["reply"] else [], end_of_turn, template)
    except RowError as error:
        assert "; " in str(error)
        return False
    assert len(encoded["input_ids"]) == len(encoded["labels"]) <= max_length
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    if encoded["cut_messages"] == 0:
        check_learnt(encoded, tokenizer, said if turns == "all" else said[-1:], end_of_turn, template)
    return True


def check_learnt(encoded: dict, tokenizer, replies: list[str], end_of_turn: str, template: str) -> None:
    """The labels are pieces of the input; put together they are the replies, each with the end of its turn."""
    learnt = [piece for piece, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != IGNORED]
    assert learnt == [label for label in encoded["labels"] if label != IGNORED]
    if not encoded["is_cut"] and not encoded.get("reply_is_cut"):
        found = tokenizer.decode(learnt)
        if template == "strict":  # it trims, and the space that it writes before a reply is one piece with what follows
            found, replies = re.sub(f"(^|{re.escape(end_of_turn)}) ", r"\1", found), map(str.strip, replies)
        assert found == "".join(reply + end_of_turn for reply in replies)


KINDS, TURNS = st.sampled_from(["words", "bytes"]), st.sampled_from(["all", "last"])
READERS = [
    Reader("tags of entities", draw_entities(), attempt_entities, 20),
    Reader(
        "tags in any order",
        st.tuples(st.one_of(TAGS, FAULTY), st.sampled_from(["auto", *LETTERS])),
        attempt_tags,
        20,
    ),
    Reader(
        "windows of words",
        st.tuples(
            st.lists(WORDS, min_size=1, max_size=2), KINDS, st.integers(4, 24), st.integers(0, 30)
        ),
        attempt_windows,
        14,
    ),
    Reader(
        "answers in windows",
        st.tuples(draw_question(), st.just("words"), st.integers(36, 64), st.integers(1, 20)),
        attempt_answers,
        10,
    ),
    Reader(
        "dialogues in templates",
        st.tuples(draw_dialogue(), st.sampled_from(sorted(CHATS)), TURNS, st.integers(12, 200)),
        attempt_dialogue,
        6,
    ),
]  # fmt: skip
