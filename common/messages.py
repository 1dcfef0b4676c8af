"""Dialogues in the shapes that they come in, made into messages: the role that speaks, and what it says."""

from collections.abc import Iterator
from typing import NamedTuple

from common.data import RowError, require_text
from common.lines import refuse_rows

from datasets import Dataset, DatasetDict

# ShareGPT and its kin name the speakers in their own way.
ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
LIST_COLUMNS = ("messages", "conversations", "conversation", "dialog", "dialogue")
SHAPES = "messages, conversations, dialog, prompt and completion, or instruction, input and output"


class Message(NamedTuple):
    """Who speaks, as the data say it, what is said, and what to call this place in a complaint."""

    role: object
    text: object
    place: str


def unfold_dialogue(row: dict, column: str | None = None, repeated_roles: str = "merge") -> Iterator[dict]:
    """The row with its dialogue as `messages`, the shape of the Hub: {"role": "user", "content": "Hello"}, ...

    It may be a list of messages (`role` and `content`, or ShareGPT's `from` and `value`), a list of texts that user and
    assistant say in turn, a prompt with its completion, or an instruction with its output. `column` names the list
    where it goes by another name. An empty completion or output is one that is to be predicted.
    A role that speaks twice in a row is merged into one message or refused, as `repeated_roles` says; `merged` is the
    number of messages that were merged into others.
    """
    spoken, used = _read_messages(row, column)
    messages, merged = _check_messages(spoken, repeated_roles)
    kept = {name: value for name, value in row.items() if name not in used}
    yield kept | {"messages": messages, "merged": merged}


def _read_messages(row: dict, column: str | None) -> tuple[list[Message], set[str]]:
    """The messages of a row, unchecked, and the columns that they were read from."""
    if column is not None and column not in row:
        raise RowError(f'no column "{column}", the columns are {", ".join(row)}; mend messages_column_name')
    name = column or next((name for name in LIST_COLUMNS if row.get(name) is not None), None)
    if name is not None:
        return _read_list(row[name], name), {name}
    if "completion" in row or "prompt" in row:
        prompt = _read_side(row.get("prompt"), "prompt", "user")
        return prompt + _read_side(row.get("completion") or None, "completion", "assistant"), {"prompt", "completion"}
    if "instruction" in row:
        names = ["instruction"] + (["input"] if row.get("input") not in (None, "") else [])
        question = "\n\n".join(require_text(row, name) for name in names)
        answer = _read_side(row.get("output") or None, "output", "assistant")
        return [Message("user", question, "instruction"), *answer], {"instruction", "input", "output"}
    raise RowError(f"no dialogue, the columns are {', '.join(row)}; name one of them with messages_column_name, or "
                   f"write {SHAPES}")  # fmt: skip


def _read_side(value, name: str, role: str) -> list[Message]:
    """A prompt or a completion: a text, or a list of messages; nothing where it is None."""
    if isinstance(value, list):
        return _read_list(value, name, role)
    return [] if value is None else [Message(role, value, name)]


def _read_list(value, name: str, first: str = "user") -> list[Message]:
    """The messages of a list; of mere texts the first is said by `first`, the others in turn."""
    if not isinstance(value, list) or not value:
        raise RowError(f"{name}: it is {str(value)[:60]!r}; write a list of messages")
    if all(isinstance(part, str) for part in value):
        turns = ("user", "assistant") if first == "user" else ("assistant", "user")
        return [Message(turns[number % 2], text, f"{name}, message {number + 1}") for number, text in enumerate(value)]
    messages = []
    for number, part in enumerate(value, start=1):
        place = f"{name}, message {number}"
        keys = next((keys for keys in (("role", "content"), ("from", "value")) if _has(part, keys)), None)
        if keys is None:
            raise RowError(f'{place}: it is {str(part)[:60]!r}; write {{"role": "user", "content": "..."}}')
        if part.get("tool_calls"):
            raise RowError(f"{place}: it calls tools, which this recipe does not train; leave the dialogue out")
        if part.get("reasoning_content"):
            raise RowError(f"{place}: reasoning_content is not read; write it into the text as <think>...</think>")
        messages.append(Message(part[keys[0]], part[keys[1]], place))
    return messages


def _has(part, keys: tuple[str, str]) -> bool:
    return isinstance(part, dict) and all(key in part for key in keys)


def _check_messages(spoken: list[Message], repeated_roles: str) -> tuple[list[dict[str, str]], int]:
    """The messages with the roles of the Hub, and how many were merged; RowError where the order makes no dialogue."""
    messages, merged = [], 0
    for message in spoken:
        role = ROLES.get(message.role.lower()) if isinstance(message.role, str) else None
        if role is None:
            known = ", ".join(ROLES)
            raise RowError(f"{message.place}: the role is {message.role!r}; the roles are {known}")
        text = require_text({message.place: message.text}, message.place)
        last = messages[-1]["role"] if messages else None
        if role == last:
            if repeated_roles == "refuse":
                raise RowError(
                    f"{message.place}: {role} speaks twice in a row; join the two, or set repeated_roles: merge"
                )
            messages[-1]["content"] += f"\n{text}"
            merged += 1
            continue
        if role == "system" and messages:
            raise RowError(f"{message.place}: a system message stands within the dialogue; put it first")
        if role == "assistant" and last in (None, "system"):
            raise RowError(f"{message.place}: the assistant speaks first; let the user begin")
        messages.append({"role": role, "content": text})
    if not any(message["role"] == "user" for message in messages):
        raise RowError("nobody speaks to the assistant; give the dialogue a message of the user")
    return messages, merged


def require_replies(splits: DatasetDict) -> None:
    """Raise a UserError that names the dialogues to learn or to score without any message of the assistant."""
    faults = []
    for split, rows in splits.items():
        if split != "test":
            for origin, messages in zip(rows["origin"], rows["messages"], strict=True):
                if not any(message["role"] == "assistant" for message in messages):
                    faults.append((origin, "no message of the assistant, nothing to learn; add its reply"))
    refuse_rows(faults)


def list_message_texts(rows: Dataset) -> Iterator[str]:
    """Every message with its role in front, as templates write it, for a tokenizer to learn from."""
    for messages in rows["messages"]:
        yield from (f"{message['role']}\n{message['content']}" for message in messages)


def describe_messages(splits: DatasetDict) -> str:
    """How many messages and replies there are, and what was made of them on reading."""
    roles = [message["role"] for rows in splits.values() for messages in rows["messages"] for message in messages]
    dialogues = sum(map(len, splits.values()))
    merged = sum(sum(rows["merged"]) for rows in splits.values())
    said = f"{len(roles) / dialogues:.1f} a dialogue, {roles.count('assistant'):,} replies"
    return said + (f"; {merged:,} merged into the one before, of the same role" if merged else "")
