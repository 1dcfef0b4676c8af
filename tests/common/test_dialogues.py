import random
from functools import partial

from common.chat_templates import TEMPLATES
from common.data import RowError, map_splits
from common.dialogues import (
    describe_cut_dialogues,
    encode_dialogue,
    encode_reply,
    encode_rows,
    gather_replies,
    keep_last_turns,
    list_replies,
    refuse_faults,
    show_dialogue,
)
from common.errors import UserError
from common.from_scratch import train_decoder_tokenizer

import pytest
from datasets import Dataset, DatasetDict

WORDS = ["hi", "hello there", "the cat sat", "why?", "12 dogs", "你好", "a\nb", "bye", "I do not know", "é!"]
SYSTEM = {"role": "system", "content": "be kind"}
END = "<|im_end|>"


def talk(*texts: str) -> list[dict[str, str]]:
    """Texts that user and assistant say in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


DIALOGUE = [SYSTEM, *talk("hi", "hello there", "why?", "I do not know", "bye", "12 dogs")]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_decoder_tokenizer(WORDS * 3, vocab_size=320)
    tokenizer.chat_template = TEMPLATES["chatml"]
    return tokenizer


def write_out(tokenizer, messages, learnt=()) -> tuple[list[int], list[int]]:
    """Pieces and labels of ChatML put together by hand; `learnt` are the numbers of the messages to learn."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", END])
    split = partial(tokenizer.encode, add_special_tokens=False)
    ids, labels = [], []
    for number, message in enumerate(messages):
        head, text = [start, *split(message["role"]), *split("\n")], [*split(message["content"]), end]
        ids += head + text + split("\n")
        labels += [-100] * len(head) + (text if number in learnt else [-100] * len(text)) + [-100]
    return ids, labels


def count_pieces(tokenizer, messages) -> int:
    return len(write_out(tokenizer, messages)[0])


def make_dialogues(*dialogues) -> Dataset:
    names = {"id": [f"d{n}" for n in range(len(dialogues))], "origin": [f"f:{n + 1}" for n in range(len(dialogues))]}
    return Dataset.from_dict(names | {"messages": list(dialogues)})


def draw_dialogue(draw: random.Random) -> list[dict[str, str]]:
    """One to four exchanges of a few words each, with or without a system message."""
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 5))) for _ in range(2 * draw.randint(1, 4))]
    return [SYSTEM] * draw.randint(0, 1) + talk(*texts)


# The replies that are to be generated


def test_every_reply_is_a_row_with_what_was_said_before_it():
    rows = list_replies(make_dialogues(DIALOGUE, talk("a", "b")))
    assert rows["dialogue"][:] == [0, 0, 0, 1] and rows["turn"][:] == [2, 4, 6, 1]
    assert rows["id"][:] == ["d0"] * 3 + ["d1"] and rows["origin"][:] == ["f:1"] * 3 + ["f:2"]
    assert rows["prompt"][:] == ["hi", "why?", "bye", "a"]
    assert rows["reply"][:] == ["hello there", "I do not know", "12 dogs", "b"]
    assert rows["messages"][:] == [DIALOGUE[:2], DIALOGUE[:4], DIALOGUE[:6], talk("a")]


def test_the_last_reply_alone_can_be_asked_for():
    rows = list_replies(make_dialogues(DIALOGUE, talk("a", "b"), talk("c", "d", "e")), "last")
    assert rows["dialogue"][:] == [0, 1, 2] and rows["turn"][:] == [6, 1, 3]
    assert rows["reply"][:] == ["12 dogs", "b", None] and rows["prompt"][:] == ["bye", "a", "e"]


def test_a_dialogue_that_ends_with_the_user_asks_for_one_more_reply():
    rows = list_replies(make_dialogues(talk("a", "b", "c"), talk("d")))
    assert rows["reply"][:] == ["b", None, None] and rows["turn"][:] == [1, 3, 1]
    assert rows["messages"][:] == [talk("a"), talk("a", "b", "c"), talk("d")]


# Dialogues to learn from


@pytest.mark.parametrize(("turns", "learnt"), [("all", {2, 4, 6}), ("last", {6})])
def test_the_labels_are_the_texts_and_ends_of_the_wanted_replies(tokenizer, turns, learnt):
    encoded = encode_dialogue(DIALOGUE, tokenizer, END, 500, turns)
    ids, labels = write_out(tokenizer, DIALOGUE, learnt)
    assert encoded == {"input_ids": ids, "labels": labels, "cut_messages": 0, "is_cut": False}
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(DIALOGUE, tokenize=False)


@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_whole_exchanges_are_cut_off_from_the_left_at_the_exact_border(tokenizer, system):
    messages = system + DIALOGUE[1:]
    for exchanges in (3, 2, 1):
        kept = system + messages[len(messages) - 2 * exchanges :]
        fitting = count_pieces(tokenizer, kept)
        larger = count_pieces(tokenizer, system + messages[len(messages) - 2 * exchanges - 2 :])
        ids, labels = write_out(
            tokenizer, kept, {n for n, message in enumerate(kept) if message["role"] == "assistant"}
        )
        expected = {"input_ids": ids, "labels": labels, "cut_messages": 6 - 2 * exchanges, "is_cut": False}
        for max_length in (fitting, larger - 1) if exchanges < 3 else (fitting,):
            assert encode_dialogue(messages, tokenizer, END, max_length) == expected


def test_a_last_exchange_that_is_too_long_loses_its_first_pieces(tokenizer):
    ids, labels = write_out(tokenizer, [SYSTEM, *DIALOGUE[-2:]], {2})
    for max_length in (len(ids) - 1, len(ids) - 7, 8):
        encoded = encode_dialogue(DIALOGUE, tokenizer, END, max_length)
        assert encoded["input_ids"] == ids[-max_length:] and len(encoded["labels"]) == max_length
        assert encoded["labels"][1:] == labels[-max_length:][1:]
        assert (encoded["cut_messages"], encoded["is_cut"]) == (4, True)


def test_the_first_piece_is_never_learnt_since_nothing_tells_it(tokenizer):
    """Where the cut goes through a reply; behind a packed dialogue its end would be taken to tell it."""
    reply = talk("hi", "the cat sat the cat sat the cat sat")
    ids, labels = write_out(tokenizer, reply, {1})
    max_length = 5
    assert labels[-max_length] != -100
    encoded = encode_dialogue(reply, tokenizer, END, max_length)
    assert encoded["input_ids"] == ids[-max_length:]
    assert encoded["labels"] == [-100, *labels[-max_length + 1 :]]


def test_what_the_user_says_after_the_last_reply_is_left_out(tokenizer):
    expected = encode_dialogue(DIALOGUE, tokenizer, END, 500)
    assert encode_dialogue([*DIALOGUE, *talk("the cat sat")], tokenizer, END, 500) == expected
    fitting = len(expected["input_ids"])  # nor does it push anything out
    assert encode_dialogue([*DIALOGUE, *talk("the cat sat")], tokenizer, END, fitting) == expected


# Prompts with their replies


@pytest.mark.parametrize("reply", ["12 dogs", None])
def test_a_prompt_is_the_template_with_its_generation_prompt(tokenizer, reply):
    encoded = encode_reply(DIALOGUE[:6], reply, tokenizer, END, 500, 20)
    prompt = tokenizer.apply_chat_template(DIALOGUE[:6], add_generation_prompt=True)["input_ids"]
    answer = tokenizer.encode("12 dogs") + [tokenizer.convert_tokens_to_ids(END)] if reply else []
    assert encoded == {
        "input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer,
        "cut_messages": 0, "is_cut": False, "reply_is_cut": False,
    }  # fmt: skip


def test_prompts_and_replies_fit_whatever_their_lengths(tokenizer):
    """Against the longest run of last exchanges that fits, found by trying all of them."""
    draw = random.Random(0)
    seen = set()
    for _ in range(400):
        messages = draw_dialogue(draw)
        max_length = draw.randint(4, 120)
        new = draw.randint(1, draw.choice([max_length - 1, max(1, max_length // 4)]))
        history, reply = messages[:-1], draw.choice([messages[-1]["content"], None])
        encoded = encode_reply(history, reply, tokenizer, END, max_length, new)
        answer = [] if reply is None else [*tokenizer.encode(reply), tokenizer.convert_tokens_to_ids(END)]
        most = max(max_length // 2, new)
        kept_answer = answer[:most]
        room = max_length - max(new, len(kept_answer))
        head = history[:1] if history[0] is SYSTEM else []
        parts = [head + history[n:] for n in range(len(head), len(history), 2)]
        prompts = [tokenizer.apply_chat_template(part, add_generation_prompt=True)["input_ids"] for part in parts]
        first = next((n for n, prompt in enumerate(prompts) if len(prompt) <= room), len(prompts) - 1)
        assert encoded["input_ids"] == prompts[first][-room:] + kept_answer
        assert encoded["labels"] == [-100] * len(prompts[first][-room:]) + kept_answer
        assert len(encoded["input_ids"]) <= max_length
        assert encoded["labels"].count(-100) + new <= max_length
        facts = (2 * first, len(prompts[first]) > room, len(answer) > most)
        assert (encoded["cut_messages"], encoded["is_cut"], encoded["reply_is_cut"]) == facts
        seen.add(tuple(map(bool, facts)))
    assert len(seen) >= 6  # whole, cut in each way, and in several at once


def test_a_reply_loses_its_end_only_above_half_of_the_length_and_the_pieces_that_are_generated(tokenizer):
    reply = "the cat sat " * 10
    answer = [*tokenizer.encode(reply), tokenizer.convert_tokens_to_ids(END)]
    whole = len(answer)
    for max_length, new, most in ((40, 5, 20), (40, 30, 30), (2 * whole, 5, whole), (whole + 9, whole, whole)):
        encoded = encode_reply(talk("hi"), reply, tokenizer, END, max_length, new)
        assert [label for label in encoded["labels"] if label != -100] == answer[:most]
        assert encoded["reply_is_cut"] == (most < len(answer)) and len(encoded["input_ids"]) <= max_length


def test_the_replies_one_by_one_have_the_labels_of_the_whole_dialogue(tokenizer):
    draw = random.Random(1)
    for _ in range(50):
        messages = draw_dialogue(draw)
        whole = encode_dialogue(messages, tokenizer, END, 2000)
        joined = []
        for row in list_replies(make_dialogues(messages)):
            encoded = encode_reply(row["messages"], row["reply"], tokenizer, END, 2000, 50)
            assert encoded["input_ids"] == whole["input_ids"][: len(encoded["input_ids"])]
            joined += [label for label in encoded["labels"] if label != -100]
        assert joined == [label for label in whole["labels"] if label != -100]


@pytest.mark.parametrize("reply", ["fine", None])
def test_a_control_token_in_a_prompt_is_text_with_and_without_a_reply(tokenizer, reply):
    encoded = encode_reply(talk(f"hi{END}"), reply, tokenizer, END, 100, 10)
    prompt = [piece for piece, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label == -100]
    end = tokenizer.convert_tokens_to_ids(END)
    assert prompt.count(end) == 1 and tokenizer.decode(prompt).count(END) == 2
    answer = [label for label in encoded["labels"] if label != -100]
    assert tokenizer.decode(answer) == ("" if reply is None else f"fine{END}")


def test_a_control_token_in_a_reply_is_learnt_as_text_and_the_end_of_the_turn_as_such(tokenizer):
    encoded = encode_dialogue(talk("hi", f"say {END} twice"), tokenizer, END, 200)
    answer = [label for label in encoded["labels"] if label != -100]
    assert tokenizer.decode(answer) == f"say {END} twice{END}"
    assert answer.index(tokenizer.convert_tokens_to_ids(END)) == len(answer) - 1


# What is kept


def test_the_last_turns_are_kept_with_the_system_message_as_far_as_they_fit():
    def keep(most: int) -> list[str]:
        return [message["content"] for message in keep_last_turns(DIALOGUE, lambda part: len(part) <= most)]

    texts = [message["content"] for message in DIALOGUE]
    assert keep(7) == texts
    assert keep(6) == keep(5) == [texts[0], *texts[3:]]
    assert keep(4) == keep(3) == [texts[0], *texts[5:]]
    assert keep(2) == keep(0) == [texts[0], *texts[5:]]
    assert keep_last_turns(talk("a", "b", "c"), lambda part: False) == talk("c")
    assert keep_last_turns(talk("a"), lambda part: False) == talk("a")


# Rows that cannot be encoded


def encode_number(number: int) -> dict:
    if number < 0:
        raise RowError(f"{number} is no length")
    return {"input_ids": [5] * number, "labels": [5] * number, "cut_messages": 0, "is_cut": False, "reply_is_cut": True}


def encode_numbers(rows: dict, indices: list[int]) -> dict:
    return encode_rows(encode_number, rows["number"]) | {"origin": rows["origin"]}


def make_numbers(numbers) -> Dataset:
    return Dataset.from_dict({"number": numbers, "origin": [f"file.jsonl:{n + 1}" for n in range(len(numbers))]})


def test_the_rows_that_cannot_be_encoded_are_listed_with_their_origins():
    rows = DatasetDict(train=make_numbers([1, -2, 3]), validation=make_numbers([-4]))
    with pytest.raises(UserError) as caught:
        refuse_faults(map_splits(rows, encode_numbers))
    assert str(caught.value) == "file.jsonl:2: -2 is no length\nfile.jsonl:1: -4 is no length"


def test_a_fault_of_a_dialogue_is_told_once_for_all_its_replies():
    rows = DatasetDict(test=Dataset.from_dict({"number": [-1, -1, -2], "origin": ["f:1", "f:1", "f:2"]}))
    with pytest.raises(UserError) as caught:
        refuse_faults(map_splits(rows, encode_numbers))
    assert str(caught.value) == "f:1: -1 is no length\nf:2: -2 is no length"


def test_without_faults_the_features_are_what_was_encoded():
    rows = DatasetDict(train=make_numbers([1, 2]))
    features = refuse_faults(map_splits(rows, encode_numbers))["train"]
    assert features[:] == {
        "input_ids": [[5], [5, 5]], "labels": [[5], [5, 5]], "cut_messages": [0, 0], "is_cut": [False] * 2,
        "reply_is_cut": [True] * 2,
    }  # fmt: skip


@pytest.mark.parametrize("bad", [range(1000), range(1000, 2000)])
def test_a_thousand_faults_in_a_row_are_listed_too(bad):
    """A thousand rows are mapped at a time: a batch without any sound row still has columns and types."""
    rows = DatasetDict(train=make_numbers([-1 if number in bad else 2 for number in range(2500)]))
    with pytest.raises(UserError, match="and 980 more; mend these"):
        refuse_faults(map_splits(rows, encode_numbers))


# What is said


def make_cut(cut_messages: list[int], is_cut: list[bool], **columns) -> Dataset:
    return Dataset.from_dict({"cut_messages": cut_messages, "is_cut": is_cut, **columns})


def test_nothing_cut_is_said_so():
    features = DatasetDict(train=make_cut([0, 0], [False, False]), test=make_cut([0], [False], reply_is_cut=[False]))
    assert describe_cut_dialogues(features, 64) == "up to 64 pieces: nothing is cut"


def test_what_is_cut_is_said_by_kind_and_split():
    features = DatasetDict(
        train=make_cut([2] * 1200 + [0], [False] * 1200 + [True]),
        validation=make_cut([0, 4], [False, True], reply_is_cut=[True, True]),
    )
    assert describe_cut_dialogues(features, 64) == (
        "up to 64 pieces: the first messages cut off (train 1,200 of 1,201, validation 1 of 2); "
        "the start of the last exchange cut off (train 1 of 1,201, validation 1 of 2); "
        "the end of the reply cut off (validation 2 of 2)"
    )


def test_replies_are_gathered_by_their_dialogue():
    replies = list_replies(make_dialogues(talk("a", "b", "c"), talk("d", "e")))
    listed = [
        {"id": "d0", "prompt": "a", "reply": "b", "predicted_reply": "B", "rougeL": 1.0},
        {"id": "d0", "prompt": "c", "predicted_reply": "C"},
        {"id": "d1", "prompt": "d", "reply": "e", "predicted_reply": "E", "rougeL": 2.0},
    ]
    assert gather_replies(listed, replies) == [
        {
            "id": "d0",
            "replies": [
                {"turn": 1, "prompt": "a", "reply": "b", "predicted_reply": "B", "rougeL": 1.0},
                {"turn": 3, "prompt": "c", "predicted_reply": "C"},
            ],
        },
        {"id": "d1", "replies": [{"turn": 1, "prompt": "d", "reply": "e", "predicted_reply": "E", "rougeL": 2.0}]},
    ]


def test_a_dialogue_is_shown_as_the_model_gets_it_with_what_is_learnt_in_brackets(tokenizer):
    row = encode_dialogue([SYSTEM, *talk("hi", "hello there", "why?", "bye")], tokenizer, END, 500)
    shown = (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n[[hello there<|im_end|>]]\n<|im_start|>user\nwhy?<|im_end|>\n"
        "<|im_start|>assistant\n[[bye<|im_end|>]]\n"
    )
    ids, labels = row["input_ids"], row["labels"]
    assert show_dialogue({"input_ids": ids, "labels": labels}, tokenizer) == shown
    padded = {"input_ids": [*ids, 0, 0], "labels": [*labels, -100, -100], "attention_mask": [1] * len(ids) + [0, 0]}
    assert show_dialogue(padded, tokenizer) == shown
    prompt = encode_reply(talk("hi"), "bye", tokenizer, END, 500, 20)
    assert show_dialogue(prompt, tokenizer) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[[bye<|im_end|>]]"
    )


def test_a_long_dialogue_is_shown_shortened(tokenizer):
    row = encode_dialogue(talk("hi", "12 dogs " * 400), tokenizer, END, 9000)
    shown = show_dialogue(row, tokenizer)
    assert len(shown) == 1504 and shown.endswith(" ...")
