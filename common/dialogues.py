"""Dialogues to pieces: which of them are learnt, and what is cut off where they are too long."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, partial

from common.chat_templates import encode_rendered, find_replies, mark_control_tokens, render
from common.data import RowError
from common.lines import refuse_rows, shorten
from common.losses import IGNORED
from common.streaming import for_each_block
from common.windows import count_cut_texts

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase

MESSAGES = List({"role": Value("string"), "content": Value("string")})
# What a row is that cannot be encoded. Not empty lists: a batch of such rows alone would have another type than others.
NOTHING = {
    "input_ids": [0], "labels": [IGNORED], "cut_messages": 0, "is_cut": False, "reply_is_cut": False, "fault": "",
}  # fmt: skip


def list_replies(dialogues: Dataset, assistant_turns: str = "all") -> Dataset:
    """A row for each reply that is to be generated: the `messages` before it, and the true `reply`, None where unknown.

    `assistant_turns` says which: all, or the last of each dialogue. A dialogue that ends with the user asks for one
    more. `dialogue` is the number of the dialogue, `prompt` what the user said last.
    """
    columns = {"id": "string", "origin": "string", "dialogue": "int64", "turn": "int32", "prompt": "string"}
    features = Features({name: Value(kind) for name, kind in columns.items()})
    features |= {"messages": MESSAGES, "reply": Value("string")}
    rows = {name: [] for name in features}
    for number, row in enumerate(dialogues):
        messages = row["messages"]
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if messages[-1]["role"] != "assistant":
            turns.append(len(messages))
        for turn in turns if assistant_turns == "all" else turns[-1:]:
            reply = messages[turn]["content"] if turn < len(messages) else None
            values = (row["id"], row["origin"], number, turn, messages[turn - 1]["content"], messages[:turn], reply)
            for name, value in zip(features, values, strict=True):
                rows[name].append(value)
    return Dataset.from_dict(rows, features=Features(features))


def encode_dialogue(
    messages: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    end_of_turn: str,
    max_length: int,
    assistant_turns: str = "all",
) -> dict:
    """The pieces of a dialogue to learn from; `labels` are those of the assistant's texts and ends of turns.

    `assistant_turns` says of which: of all its messages, or of the last one. A dialogue of more than `max_length`
    pieces loses its first messages, the system's kept, until it fits; `cut_messages` counts them. Where the last
    exchange alone does not fit, its first pieces are cut off too (`is_cut`).
    """
    messages = mark_control_tokens(tokenizer, messages, end_of_turn)
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    whole = messages[: last + 1]  # from what the user says behind the last reply there is nothing to learn
    encode = cache(partial(encode_rendered, tokenizer))  # what fits is asked for again
    kept = keep_last_turns(whole, lambda part: len(encode(render(tokenizer, part))[0]) <= max_length)
    ids, labels = _label_replies(tokenizer, kept, end_of_turn, assistant_turns, encode)
    # A cut may go through a reply. Nothing stands before its first piece then but, packed, another dialogue.
    return {
        "input_ids": ids[-max_length:],
        "labels": [IGNORED, *labels[-max_length:][1:]],
        "cut_messages": len(whole) - len(kept),
        "is_cut": len(ids) > max_length,
    }


def encode_reply(
    history: list[dict[str, str]],
    reply: str | None,
    tokenizer: PreTrainedTokenizerBase,
    end_of_turn: str,
    max_length: int,
    max_new_tokens: int,
) -> dict:
    """The pieces of the prompt for a reply, and of the true reply, if any, which are its `labels`.

    The prompt is cut from the left like a dialogue, so that prompt and reply have at most `max_length` pieces and
    there is room for `max_new_tokens` behind the prompt. A reply that takes more than half of `max_length` and
    more than `max_new_tokens` loses its end (`reply_is_cut`).
    """
    answer = []
    if reply is not None:
        messages = [*history, {"role": "assistant", "content": reply}]
        messages = mark_control_tokens(tokenizer, messages, end_of_turn)
        encode = partial(encode_rendered, tokenizer)
        ids, labels = _label_replies(tokenizer, messages, end_of_turn, "last", encode)
        answer = [piece for piece in labels if piece != IGNORED]
    most = max(max_length // 2, max_new_tokens)
    room = max_length - max(len(answer[:most]), max_new_tokens)
    prompt, kept = encode_prompt(history, tokenizer, room, end_of_turn)
    ids = prompt[-room:] + answer[:most]
    return {
        "input_ids": ids,
        "labels": [IGNORED] * len(prompt[-room:]) + answer[:most],
        "cut_messages": len(history) - len(kept),
        "is_cut": len(prompt) > room,
        "reply_is_cut": len(answer) > most,
    }


def encode_prompt(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, room: int, end_of_turn: str | None = None
) -> tuple[list[int], list[dict[str, str]]]:
    """The pieces of the prompt for the next reply, and the messages in it: the last ones, as `keep_last_turns` says.

    There are more pieces than `room` where the last user message alone does not fit.
    """

    def encode(part: list[dict[str, str]]) -> list[int]:
        return encode_rendered(tokenizer, render(tokenizer, part, add_generation_prompt=True))[0]

    messages = mark_control_tokens(tokenizer, messages, end_of_turn)
    ids = encode(messages)
    if len(ids) <= room:
        return ids, messages
    kept = keep_last_turns(messages, lambda part: len(encode(part)) <= room)
    return encode(kept), kept


def keep_last_turns(
    messages: list[dict[str, str]], fits: Callable[[list[dict[str, str]]], bool]
) -> list[dict[str, str]]:
    """The messages from the first user message on with which they fit, with the system message in front.

    Where nothing fits, the last user message and what follows it.
    """
    if fits(messages):
        return messages
    head = [message for message in messages[:1] if message["role"] == "system"]
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    first = bisect_left(starts, True, key=lambda start: fits(head + messages[start:]))
    return head + messages[starts[min(first, len(starts) - 1)] :]


def _label_replies(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    end_of_turn: str,
    assistant_turns: str,
    encode: Callable[[str], tuple[list[int], list[tuple[int, int]]]],
) -> tuple[list[int], list[int]]:
    """The pieces of the messages, and the same as labels, ignored where they are not of a wanted reply."""
    text, replies = find_replies(tokenizer, messages, end_of_turn, assistant_turns)
    ids, places = encode(text)
    pieces, offsets = np.array(ids, dtype=np.int64), np.array(places).reshape(-1, 2)
    labels = np.full(len(ids), IGNORED)
    for reply in replies:
        # A piece that starts before the text, with the space in front of it, belongs to it.
        inside = (offsets[:, 1] > reply.start) & (offsets[:, 0] < reply.end_of_turn)
        labels[inside] = pieces[inside]
    return ids, labels.tolist()


def encode_rows(encode: Callable[..., dict], *columns: Sequence) -> dict[str, list]:
    """What `encode(*values)` returns for each row of the columns; a RowError becomes the `fault` of its row."""
    encoded = []
    for values in zip(*columns, strict=True):
        try:
            encoded.append(NOTHING | encode(*values))
        except RowError as error:
            encoded.append(NOTHING | {"fault": str(error)})
    names = dict.fromkeys(name for row in encoded for name in row)
    return {name: [row.get(name) for row in encoded] for name in names}


@for_each_block
def refuse_faults(features: DatasetDict) -> DatasetDict:
    """The features without `fault` and `origin`; a UserError lists the rows that could not be encoded."""
    pairs = [pair for part in features.values() for pair in zip(part["origin"], part["fault"], strict=True)]
    refuse_rows(list(dict.fromkeys((origin, fault) for origin, fault in pairs if fault)))
    return features.remove_columns(["fault", "origin"])


def describe_cut_dialogues(features: DatasetDict, max_length: int) -> str:
    """How long dialogues may be, and what each split loses."""
    parts = []
    for name, what in (("cut_messages", "the first messages"), ("is_cut", "the start of the last exchange"),
                       ("reply_is_cut", "the end of the reply")):  # fmt: skip
        having = DatasetDict({split: rows for split, rows in features.items() if name in rows.features})
        counts = count_cut_texts(having, name)
        parts += [f"{what} cut off ({counts})"] if counts else []
    return f"up to {max_length} pieces: {'; '.join(parts) or 'nothing is cut'}"


def gather_replies(listed: list[dict], replies: Dataset) -> list[dict]:
    """A row a dialogue, in their order: its id, and what was listed for each of its replies.

    `turn` is the number of the reply among the messages, which count from 0.
    """
    dialogues = {}
    for entry, number, turn in zip(listed, replies["dialogue"], replies["turn"], strict=True):
        dialogue = dialogues.setdefault(number, {"id": entry["id"], "replies": []})
        dialogue["replies"].append({"turn": turn} | {name: value for name, value in entry.items() if name != "id"})
    return list(dialogues.values())


def sample_replies(listed: list[dict], replies: Dataset, number: int = 12) -> list[dict[str, str]]:
    """Replies from all over the split, each below the dialogue before it, as a table for people to read."""
    chosen = np.linspace(0, len(listed) - 1, min(number, len(listed))).round().astype(int)
    table = []
    for index in chosen.tolist():
        said = " / ".join(f"{message['role']}: {message['content']}" for message in replies[index]["messages"])
        entry = {"dialogue": f"... {said[-400:]}" if len(said) > 400 else said, "reply": ""}
        entry |= {
            name: shorten(listed[index][name], 400) for name in ("reply", "predicted_reply") if name in listed[index]
        }
        table.append(entry)
    return table


def show_dialogue(row: dict[str, list], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a row as the model gets it, with what is learnt in double brackets."""
    parts, start = [], 0
    length = sum(row.get("attention_mask", [1] * len(row["labels"])))  # without the padding on the right
    is_learnt = [label != IGNORED for label in row["labels"][:length]]
    for end in range(1, len(is_learnt) + 1):
        if end == len(is_learnt) or is_learnt[end] != is_learnt[start]:
            text = tokenizer.decode(row["input_ids"][start:end])
            parts.append(f"[[{text}]]" if is_learnt[start] else text)
            start = end
    return shorten("".join(parts), 1500)
