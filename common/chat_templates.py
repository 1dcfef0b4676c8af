"""Messages to the text that a model reads, and where in it the assistant's replies stand."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from common.console import say
from common.control_tokens import compile_names, encode_as_text
from common.data import RowError
from common.errors import UserError

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

# For models without a template of their own. `turns` needs no piece that the model does not know: the end of a turn is
# the end of a text.
TEMPLATES = {
    "chatml": """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}""",
    "turns": """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}""",
}
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
# Nobody writes these characters of Unicode's private area: one stands for a text whose place is looked for.
SENTINELS = "\ue000\uf8ff\U0010fffd"
# Around a control token that the data write, as transformers' sanitize_control_tokens has them.
MARKS = "\U000f0000\U000f0001"
_MARKS = re.compile(f"[{MARKS}]")
_MARKED = re.compile(f"{MARKS[0]}([^{MARKS}]*){MARKS[1]}")
_MARKED_OR_MARK = re.compile(f"{_MARKED.pattern}|{_MARKS.pattern}")  # a template may take marks apart


class Reply(NamedTuple):
    """A message of the assistant in a rendered dialogue: where what it writes starts and ends, and its turn does."""

    message: int
    start: int
    end: int
    end_of_turn: int


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None, settings: dict | None = None
) -> str:
    """Give the tokenizer the template that it renders dialogues with, which is saved with it; says which it is.

    `chat_template` is a name of TEMPLATES or the path of a Jinja file; without it the model's own is taken, or, where
    it has none, ChatML if the tokenizer knows its tokens, else `turns`. `settings` are variables of the template, as
    Qwen's enable_thinking: they are written into it, so that whoever loads the model later has them too.
    """
    said = chat_template or "the model's own"
    if chat_template is None and not tokenizer.chat_template:
        chat_template = "chatml" if _knows_chatml(tokenizer) else "turns"
        said = f"{chat_template} (the model has none)"
    if chat_template is not None:
        tokenizer.chat_template = _read_template(tokenizer, chat_template)
    template = tokenizer.get_chat_template()
    for name, value in (settings or {}).items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"chat_template_settings: {name!r} is no name of a variable.")
        if not re.search(rf"\b{name}\b", template):
            raise UserError(f"chat_template_settings: the template has no variable {name}; leave it out.")
        template = f"{{%- if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}\n{template}"
        said += f", {name} {value}"
    tokenizer.chat_template = template
    if tokenizer.pad_token is None:  # nothing is learnt or ignored by its number: labels and masks are written out
        tokenizer.pad_token = tokenizer.eos_token
    return said


def _knows_chatml(tokenizer: PreTrainedTokenizerBase) -> bool:
    return all(token in tokenizer.get_added_vocab() for token in CHATML_TOKENS)


def _read_template(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> str:
    if chat_template == "chatml" and not _knows_chatml(tokenizer):
        raise UserError(f"chat_template chatml: the tokenizer has no {' and '.join(CHATML_TOKENS)}; set it to turns.")
    if chat_template == "turns" and tokenizer.eos_token is None:
        raise UserError("chat_template turns: the tokenizer has no end-of-sequence token; use another model.")
    if chat_template in TEMPLATES:
        return TEMPLATES[chat_template]
    path = Path(chat_template).expanduser()
    if not path.is_file():
        raise UserError(
            f"chat_template {chat_template}: no such file in {Path.cwd()}, and none of {', '.join(TEMPLATES)}."
        )
    return path.read_text(encoding="utf-8")


def find_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that the template ends the assistant's turn with: it is trained, and generation stops at it."""
    sentinel = SENTINELS[0]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": sentinel}]
    try:
        _, is_written, tail = render(tokenizer, messages).rpartition(sentinel)
    except RowError as error:
        raise UserError(f"The chat template cannot render a question and a reply: {error}.") from error
    if not is_written:
        raise UserError("The chat template leaves the assistant's reply out: set chat_template to turns or chatml.")
    tokens = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    found = [(tail.index(token), -len(token), token) for token in tokens if token.strip() and token in tail]
    if not found:
        raise UserError(
            f"The chat template writes {tail!r} behind a reply, no token to stop at: set chat_template to turns or "
            "chatml, or to a file in which eos_token follows each message of the assistant."
        )
    return min(found)[2]


def warn_of_other_prompts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Say where the template starts a reply otherwise in training than for generation.

    Qwen's, for one, writes an empty <think> before each last reply, but leaves it to the model in generation.
    """
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": SENTINELS[0]}]
    trained = render(tokenizer, messages).partition(SENTINELS[0])[0].rstrip()
    generated = render(tokenizer, messages[:1], add_generation_prompt=True).rstrip()
    if trained != generated:
        say(
            f"Warning: before a reply the template writes {trained[-60:]!r} in training, but {generated[-60:]!r} in "
            "generation. Look for a variable of the template that makes them equal and set it with "
            "chat_template_settings (Qwen3: enable_thinking: false)."
        )


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False
) -> str:
    """The text of the messages; RowError where the template refuses them."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError) as error:
        raise RowError(
            f"the chat template refuses the dialogue: {error}; change the dialogue or the template"
        ) from error


def find_replies(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    end_of_turn: str,
    assistant_turns: str = "all",
) -> tuple[str, list[Reply]]:
    """The rendered dialogue, and where in it the messages of the assistant stand: all of them, or the last one.

    The place of a text is where the rendering changes when the text does: that is exact for every template, with and
    without {% generation %}, also where it trims texts or says something else before the last one.
    """
    text = render(tokenizer, messages)
    sentinel = next((character for character in SENTINELS if character not in text), None)
    if sentinel is None:
        codes = ", ".join(f"U+{ord(character):X}" for character in SENTINELS)
        raise RowError(f"it holds all of {codes}, one of which is needed to find the replies; take one out")
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    wanted = turns if assistant_turns == "all" else turns[-1:]
    starts = _find_unchanged(tokenizer, messages, wanted, text, sentinel)
    replies, opening = [], ""
    for index in wanted:
        content = messages[index]["content"]
        if starts:
            start, end = starts[index], starts[index] + len(content)
        else:
            changed = render(tokenizer, _replace_texts(messages, [index], sentinel))
            start = _count_common(text, changed)
            end = len(text) - _count_common(text[::-1], changed[::-1])
        if not (starts and opening and text.endswith(opening, 0, start)):
            prompt = render(tokenizer, messages[:index], add_generation_prompt=True)
            is_apart = text[start:end].strip() != content.strip()
            if text.startswith(prompt) and len(prompt) < end and (is_apart or text[len(prompt) : start].isspace()):
                # What is to be written starts at the prompt: also where the template takes the text apart, as Qwen's
                # does with <think>, and with the space that Mistral's writes before it, maybe a piece of its own.
                start = len(prompt)
            elif starts and prompt == text[:start]:
                opening = _find_opening(tokenizer, messages[:index], prompt)
        if start >= end:
            raise RowError(f"the chat template leaves message {index + 1} of the assistant out; change the template")
        follows = text.find(end_of_turn, end)
        is_ended = follows >= 0 and not text[end:follows].strip()
        replies.append(Reply(index, start, end, follows + len(end_of_turn) if is_ended else end))
    return text, replies


def _find_unchanged(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    wanted: Sequence[int],
    text: str,
    sentinel: str,
) -> dict[int, int] | None:
    """Where the texts of these messages start, if the rendering holds each as it is and nothing else depends on it.

    One rendering instead of one for each message; None where the template does more than to put the texts in.
    """
    first, *others = render(tokenizer, _replace_texts(messages, wanted, sentinel)).split(sentinel)
    if len(others) != len(wanted) or not all(messages[index]["content"] for index in wanted):
        return None
    starts, length, parts = {}, len(first), [first]
    for index, behind in zip(wanted, others, strict=True):
        starts[index] = length
        parts += [messages[index]["content"], behind]
        length += len(parts[-2]) + len(behind)
    return starts if "".join(parts) == text else None


def _replace_texts(messages: Sequence[dict[str, str]], wanted: Sequence[int], content: str) -> list[dict[str, str]]:
    return [message | {"content": content} if index in wanted else message for index, message in enumerate(messages)]


def _find_opening(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], prompt: str) -> str:
    """What the prompt for generation adds to the messages; empty where that can't be told."""
    try:
        rendered = render(tokenizer, messages)
    except RowError:
        return ""
    return prompt[len(rendered) :] if prompt.startswith(rendered) else ""


def _count_common(one: str, other: str) -> int:
    """How many characters both texts start with."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: one[:length] != other[:length])


def mark_control_tokens(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], end_of_turn: str | None = None
) -> list[dict[str, str]]:
    """The messages with marks around the control tokens in their texts, so that `encode_rendered` knows them as text.

    In what the assistant says, tokens that a template merely mentions stay what they are: <think> is one of them.
    """
    own = (end_of_turn,) if end_of_turn else ()
    mentioned = _list_mentioned(tokenizer, tokenizer.get_chat_template(), len(tokenizer))
    patterns = {True: compile_names(tokenizer, own), False: compile_names(tokenizer, own + mentioned)}
    marked = []
    for number, message in enumerate(messages, start=1):
        text = _MARKED.sub(r"\1", message["content"])  # marked before
        if _MARKS.search(text):
            raise RowError(f"message {number}: it holds U+F0000 or U+F0001, which are needed for marks; take it out")
        text = patterns[message["role"] == "assistant"].sub(f"{MARKS[0]}\\g<0>{MARKS[1]}", text)
        marked.append(message | {"content": text})
    return marked


@lru_cache(maxsize=8)
def _list_mentioned(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> tuple[str, ...]:
    """The added tokens that a template writes or looks for; `size` tells a tokenizer that has got more since."""
    names = (token.content for token in tokenizer.added_tokens_decoder.values())
    return tuple(name for name in names if len(name) > 1 and not name.isspace() and name in template)


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The pieces of a rendered dialogue, and where in it they start and end; what is marked is read as text."""
    ids, places, start = [], [], 0
    for match in [*_MARKED_OR_MARK.finditer(text), None]:
        end = len(text) if match is None else match.start()
        parts = [(start, text[start:end], tokenizer)]
        if match is not None:
            parts.append((match.start(1), match[1] or "", partial(encode_as_text, tokenizer)))
            start = match.end()
        for place, part, encode in parts:
            if part:
                found, offsets = _encode_part(encode, part, is_first=not ids)
                ids += found
                places += [(place + first, place + last) for first, last in offsets]
    return ids, places


def _encode_part(encode: Callable, text: str, is_first: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """The pieces of a part of a text; within it, without the space that some tokenizers write before every text."""
    how = {"add_special_tokens": False, "return_offsets_mapping": True}
    # Not verbose: it would warn of dialogues that are longer than the model, which are cut and counted elsewhere.
    how |= {"verbose": False} if isinstance(encode, PreTrainedTokenizerBase) else {}
    if not is_first:  # as transformers' encode_marked_chat does: behind a line end there is no such space
        encoded = encode(["\n" + text], **how)
        ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
        first = next((index for index, (_, end) in enumerate(offsets) if end > 1), len(ids))
        if first == len(ids) or offsets[first][0] >= 1:
            return ids[first:], [(start - 1, end - 1) for start, end in offsets[first:]]
    encoded = encode([text], **how)
    return encoded["input_ids"][0], encoded["offset_mapping"][0]
