import copy
from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import NamedTuple

from common.chat_templates import (
    MARKS,
    SENTINELS,
    TEMPLATES,
    encode_rendered,
    find_end_of_turn,
    find_replies,
    mark_control_tokens,
    render,
    set_chat_template,
    warn_of_other_prompts,
)
from common.data import RowError
from common.dialogues import encode_dialogue
from common.errors import UserError
from common.from_scratch import train_decoder_tokenizer, train_encoder_decoder_tokenizer, train_encoder_tokenizer
from common.losses import IGNORED

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
GENERATION = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
{%- else -%}
{{ message.content + '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
HEADERS = """\
{{- '<|begin_of_text|>' -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content|trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"""
THINK = """\
{%- set asked = namespace(last=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set asked.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set thought, answer = '', message.content -%}
{%- if message.role == 'assistant' and '</think>' in answer -%}
{%- set thought = answer.split('</think>')[0].split('<think>')[-1].strip() -%}
{%- set answer = answer.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if message.role == 'assistant' and loop.index0 > asked.last -%}
{%- set answer = '<think>\\n' + thought + '\\n</think>\\n\\n' + answer.lstrip('\\n') -%}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' + answer + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}
{%- endif -%}"""
INST = """\
{%- set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' -%}
{%- set spoken = messages[1:] if first else messages -%}
{{- '<s>' -}}
{%- for message in spoken -%}
{%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}
{{ raise_exception('Roles have to alternate') }}
{%- endif -%}
{%- if message.role == 'user' -%}
{{ '[INST] ' + (first if loop.first else '') + message.content + ' [/INST]' }}
{%- else -%}
{{ ' ' + message.content + '</s>' }}
{%- endif -%}
{%- endfor -%}"""

ENGLISH = ["Hello there, my friend.", "the cat sat on the mat", "Is 7 more than 12?", "no", "I do not know it"]
CHINESE = ["你好，我的朋友。", "今天天气怎么样？", "不是", "我不知道，你说呢", "七比十二多吗"]


# The tokenizers


@cache
def train_bytes() -> PreTrainedTokenizerFast:
    # Without line ends: a piece of several of them would belong to a template and to the text behind it.
    return train_decoder_tokenizer((ENGLISH + CHINESE) * 3, vocab_size=400)


@cache
def train_spaced() -> PreTrainedTokenizerFast:
    return train_encoder_decoder_tokenizer((ENGLISH + CHINESE) * 3 + ["system \n.x" * 3], vocab_size=500)


def build_byte_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(train_bytes())
    tokenizer.chat_template = template
    return tokenizer


def build_header_tokenizer(template: str | None = HEADERS) -> PreTrainedTokenizerFast:
    tokenizer = build_byte_tokenizer(template)
    tokens = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    # As their checkpoints have them: control tokens of which only two have a name.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", "<|eot_id|>"
    return tokenizer


def build_space_tokenizer(template: str | None = INST) -> PreTrainedTokenizerFast:
    """Its pieces carry the space in front of a word."""
    tokenizer = copy.deepcopy(train_spaced())
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["[INST]", "[/INST]"]})
    tokenizer.chat_template = template
    return tokenizer


class Style(NamedTuple):
    """A manner of templates: its tokenizer, the end of a turn, and what it makes of a reply (and of the last one)."""

    build: Callable[[str], PreTrainedTokenizerFast]
    template: str
    end: str
    write: Callable[[str], str] = str
    write_last: Callable[[str], str] | None = None


STYLES = {
    "chatml": Style(build_byte_tokenizer, CHATML, "<|im_end|>"),
    "our chatml": Style(build_byte_tokenizer, TEMPLATES["chatml"], "<|im_end|>"),
    "our turns": Style(build_byte_tokenizer, TEMPLATES["turns"], "<|im_end|>"),
    # Decoding loses one space in front of a text: in the manner of Mistral it is the template's, here the text's own.
    "our turns, spaced": Style(
        build_space_tokenizer, TEMPLATES["turns"], "</s>", *[lambda text: text.removeprefix(" ")] * 2
    ),
    "generation": Style(build_byte_tokenizer, GENERATION, "<|im_end|>"),
    "headers": Style(build_header_tokenizer, HEADERS, "<|eot_id|>", str.strip),
    "think": Style(build_byte_tokenizer, THINK, "<|im_end|>", str, lambda text: text.lstrip("\n")),
    "think not": Style(
        build_byte_tokenizer,
        "{%- set enable_thinking = false -%}" + THINK,
        "<|im_end|>",
        str,
        lambda text: text.lstrip("\n"),
    ),
    "inst": Style(build_space_tokenizer, INST, "</s>"),
}


@pytest.fixture(params=list(STYLES))
def style(request) -> Style:
    return STYLES[request.param]


@cache
def tokenizer_of(style: Style) -> PreTrainedTokenizerFast:
    return style.build(style.template)


# What is learnt


TEXTS = {
    "english": (ENGLISH, ENGLISH[1:] + ENGLISH[:1]),
    "chinese": (CHINESE, CHINESE[1:] + CHINESE[:1]),
    "repeated": (["no"] * 4, ["no"] * 4),
    "echoed": (ENGLISH, ENGLISH),
    "within others": (["no no", "system", "assistant\nno", "user"], ["no", "assistant", "assistant\nno", "no no no"]),
    "spaces": (["  Hi ", "\nHi\n", " \n你好 ", "Hi"], ["  no  ", "\n\nthe cat\n", " \n 你好\n\n", "no "]),
    "one space": ([" Hi", "Hi ", "Hi", " "], [" no", "no ", " the cat ", " 你"]),
    "signs": (["😀", "👩‍👩‍👧 7", "é", "!"], ["😀😀", "🇨🇳 no", "…", "{{ x }} {% y %} it's \\n"]),
}


def build_dialogue(asked: list[str], replied: list[str], count: int, system: str | None = None) -> list[dict]:
    messages = [{"role": "system", "content": system}] if system else []
    for question, reply in list(zip(asked, replied, strict=True))[:count]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return messages


def ask(*texts: str) -> list[dict]:
    """A dialogue in which user and assistant speak in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def find_runs(labels: list[int]) -> list[list[int]]:
    """The labels that are set, in runs without a gap."""
    return [list(run) for is_set, run in groupby(labels, lambda label: label != IGNORED) if is_set]


def learn(tokenizer, messages: list[dict], end: str, assistant_turns: str = "all") -> list[str]:
    """What the pieces that are learnt say, a text for each run of them."""
    encoded = encode_dialogue(messages, tokenizer, end, 10_000, assistant_turns)
    assert encoded["cut_messages"] == 0 and not encoded["is_cut"]
    assert len(encoded["labels"]) == len(encoded["input_ids"])
    assert all(label in (IGNORED, piece) for label, piece in zip(encoded["labels"], encoded["input_ids"], strict=True))
    return [tokenizer.decode(run) for run in find_runs(encoded["labels"])]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("system", [None, "Be kind.", "no", "请简短。"])
def test_exactly_the_replies_and_the_ends_of_their_turns_are_learnt(style, texts, system):
    tokenizer = tokenizer_of(style)
    for count in range(1, 5):
        messages = build_dialogue(*TEXTS[texts], count, system)
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        expected = [style.write(reply) + style.end for reply in replies[:-1]]
        expected.append((style.write_last or style.write)(replies[-1]) + style.end)
        assert learn(tokenizer, messages, style.end) == expected
        assert learn(tokenizer, messages, style.end, "last") == expected[-1:]
        # What the user says behind the last reply changes nothing; the template may see that it is the last no more.
        asked = [*messages, {"role": "user", "content": "no"}]
        assert learn(tokenizer, asked, style.end) == expected


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("name", [name for name in STYLES if name != "think"])  # which the recipe warns of
def test_what_is_learnt_begins_where_the_prompt_of_generation_ends(name, texts, system):
    """Else the model would never learn the piece that it has to write first."""
    style = STYLES[name]
    tokenizer = tokenizer_of(style)
    messages = build_dialogue(*TEXTS[texts], 4, system)
    for index in [index for index, message in enumerate(messages) if message["role"] == "assistant"]:
        encoded = encode_dialogue(messages[: index + 1], tokenizer, style.end, 10_000, "last")
        unlearnt = encoded["labels"].index(next(label for label in encoded["labels"] if label != IGNORED))
        prompt = tokenizer.apply_chat_template(messages[:index], add_generation_prompt=True, return_dict=False)
        assert encoded["input_ids"][:unlearnt] == prompt


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_labels_are_those_that_transformers_finds_with_a_generation_block(texts, system):
    tokenizer = tokenizer_of(STYLES["generation"])
    for count in range(1, 5):
        messages = build_dialogue(*TEXTS[texts], count, system)
        expected = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
        encoded = encode_dialogue(messages, tokenizer, "<|im_end|>", 10_000)
        assert encoded["input_ids"] == expected["input_ids"]
        assert [int(label != IGNORED) for label in encoded["labels"]] == expected["assistant_masks"]
        assert 0 < sum(expected["assistant_masks"]) < len(expected["assistant_masks"])


def test_a_generation_block_changes_nothing():
    messages = build_dialogue(*TEXTS["english"], 4, "Be kind.")
    with_block, without = (tokenizer_of(STYLES[name]) for name in ("generation", "chatml"))
    assert encode_dialogue(messages, with_block, "<|im_end|>", 999) == encode_dialogue(
        messages, without, "<|im_end|>", 999
    )


def test_a_text_that_the_tokenizer_normalizes_is_found_where_it_stands():
    """It has one character less in pieces than in the text."""
    tokenizer = tokenizer_of(STYLES["inst"])
    messages = ask("cafe\u0301 cafe\u0301", "no cafe\u0301", "e\u0301?", "the cat")
    assert learn(tokenizer, messages, "</s>") == ["no caf\u00e9</s>", "the cat</s>"]


def test_a_piece_that_the_template_and_the_text_share_is_learnt():
    tokenizer = train_decoder_tokenizer(["a\n\n\nb", "c\n\n\nd"] * 5, vocab_size=300)
    tokenizer.chat_template = CHATML
    assert "ĊĊ" in tokenizer.get_vocab()
    # The second "\n" is all that stays apart in front of a word.
    assert learn(tokenizer, ask("Hi", "\nno"), "<|im_end|>") == ["\nno<|im_end|>"]
    assert learn(tokenizer, ask("Hi", "\n\nno"), "<|im_end|>") == ["\n\n\nno<|im_end|>"]


# What is thought


THOUGHT = "<think>\nThe cat is\nnot a dog.\n</think>\n\n"


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("text", [f"{THOUGHT}no", f"{THOUGHT}你好 😀\n", f"{THOUGHT}The cat is\nnot a dog."])
def test_the_thought_of_the_last_reply_is_learnt_and_those_of_others_are_left_out(text, system):
    tokenizer = tokenizer_of(STYLES["think"])
    for count in range(1, 5):
        messages = build_dialogue(ENGLISH, [text] * 5, count, system)
        answer = text.removeprefix(THOUGHT)
        assert learn(tokenizer, messages, "<|im_end|>") == [
            *[f"{answer}<|im_end|>"] * (count - 1), f"{text}<|im_end|>"
        ]  # fmt: skip
        assert learn(tokenizer, messages, "<|im_end|>", "last") == [f"{text}<|im_end|>"]


@pytest.mark.parametrize("thought", ["", "\n", "\n\n", "\n</think>\n<think>\n"])
def test_an_empty_thought_that_the_data_write_themselves_is_learnt(thought):
    messages = ask("Hi", "no", "Bye", f"<think>{thought}</think>\n\nno")
    expected = ["no<|im_end|>", "<think>\n\n</think>\n\nno<|im_end|>"]
    assert learn(tokenizer_of(STYLES["think"]), messages, "<|im_end|>") == expected


def test_a_thought_that_begins_like_the_template_goes_on_is_learnt_from_its_start():
    text = "<think>\n</thin is no end\n</think>\n\n</think>"
    tokenizer = build_byte_tokenizer(THINK)
    (learnt,) = learn(tokenizer, ask("Hi", text.removesuffix("</think>") + "no"), "<|im_end|>")
    assert learnt == "<think>\n</thin is no end\n</think>\n\nno<|im_end|>"


# Where replies stand


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (ask("a", "b"), ["b<|im_end|>"]),
        (ask("a", "a", "a", "a"), ["a<|im_end|>", "a<|im_end|>"]),
        (ask("a", " b ", "a"), [" b <|im_end|>"]),
    ],
)
def test_replies_are_given_with_their_message_their_text_and_their_turn(messages, expected):
    text, replies = find_replies(build_byte_tokenizer(CHATML), messages, "<|im_end|>")
    assert find_replies(build_byte_tokenizer(CHATML), messages, "<|im_end|>", "last") == (text, replies[-1:])
    assert [text[reply.start : reply.end_of_turn] for reply in replies] == expected
    assert [reply.message for reply in replies] == [1, 3][: len(expected)]
    assert [text[reply.start : reply.end] + "<|im_end|>" for reply in replies] == expected
    assert all(text[: reply.start].endswith("<|im_start|>assistant\n") for reply in replies)


def test_replies_are_found_where_the_template_looks_at_all_of_them_together():
    """What stands before each reply depends on whether any two are equal, as they are while places are looked for."""
    template = (
        "{% set said = messages | selectattr('role', 'equalto', 'assistant') | map(attribute='content') | list %}"
        "{% for m in messages %}{{ m.role + (':' if said | unique | list | length == said | length else '!!') }}"
        "{{ m.content + eos_token }}{% endfor %}"
    )
    texts = ["a", "one", "b", "two", "c", "three"]
    assert learn(build_byte_tokenizer(template), ask(*texts), "<|im_end|>") == [
        "one<|im_end|>", "two<|im_end|>", "three<|im_end|>"
    ]  # fmt: skip


@pytest.mark.parametrize("turns", [2, 20])
def test_the_places_of_many_replies_are_found_in_as_few_renderings_as_those_of_two(turns, monkeypatch):
    tokenizer, rendered = build_byte_tokenizer(CHATML), []
    apply = tokenizer.apply_chat_template
    count = lambda *args, **how: rendered.append(1) or apply(*args, **how)  # noqa: E731
    monkeypatch.setattr(tokenizer, "apply_chat_template", count)
    texts = [f"{'question' if number % 2 == 0 else 'reply'} {number}" for number in range(2 * turns)]
    text, replies = find_replies(tokenizer, ask(*texts), "<|im_end|>")
    assert [text[reply.start : reply.end] for reply in replies] == texts[1::2]
    assert len(rendered) == 4  # itself, without its replies, and the first prompt with and without what opens a reply


def test_a_turn_that_the_template_does_not_end_has_only_its_text():
    """Some templates end all turns but the last, or the last alone."""
    template = (
        "{% for m in messages %}{{ m.role + ':' + m.content }}{% if loop.last %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = build_byte_tokenizer(template)
    assert learn(tokenizer, ask("a", "b", "c", "d"), "<|im_end|>") == ["b", "d<|im_end|>"]


def test_a_space_before_the_end_of_the_turn_is_learnt_with_it():
    template = "{% for m in messages %}{{ m.role + ':' + m.content + ' ' + eos_token }}{% endfor %}"
    assert learn(build_byte_tokenizer(template), ask("a", "b", "c", "d"), "<|im_end|>") == [
        "b <|im_end|>", "d <|im_end|>"
    ]  # fmt: skip


def test_characters_that_stand_for_a_text_may_stand_in_texts():
    first, second, third = SENTINELS
    tokenizer = build_byte_tokenizer(CHATML)
    messages = ask("a", f"b{first}", second, f"{first}{second}")
    assert learn(tokenizer, messages, "<|im_end|>") == [f"b{first}<|im_end|>", f"{first}{second}<|im_end|>"]
    with pytest.raises(RowError, match="holds all of U\\+E000, U\\+F8FF, U\\+10FFFD"):
        find_replies(tokenizer, ask(first, second, third, "a"), "<|im_end|>")


def test_a_template_that_leaves_a_reply_out_is_refused():
    dropping = "{% for m in messages if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(RowError) as caught:
        find_replies(build_byte_tokenizer(dropping), ask("a", "b", "c", "d"), "<|im_end|>")
    assert str(caught.value) == "the chat template leaves message 2 of the assistant out; change the template"
    latest = "{% for m in messages[-2:] %}<|im_start|>{{ m.role + m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(RowError, match="leaves message 2 of the assistant out"):
        find_replies(build_byte_tokenizer(latest), ask("a", "b", "c", "d"), "<|im_end|>")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (INST, "Roles have to alternate"),
        ("{{ messages[9].content.lower() }}", "has no element 9"),
        ("{{ 'a' + 1 }}", "str"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_what_the_template_refuses_is_refused_with_its_reason(template, said):
    messages = [*ask("a", "b"), {"role": "assistant", "content": "c"}]
    for function in (render, lambda *args: find_replies(*args, "<|im_end|>")):
        with pytest.raises(RowError) as caught:
            function(build_byte_tokenizer(template), messages)
        assert str(caught.value).startswith("the chat template refuses the dialogue: ")
        assert said in str(caught.value)
        assert str(caught.value).endswith("; change the dialogue or the template")


# Control tokens


@pytest.mark.parametrize(
    ("build", "token"),
    [
        (build_byte_tokenizer, "<|im_start|>"), (build_byte_tokenizer, "<|im_end|>"),
        (build_byte_tokenizer, "<|endoftext|>"), (build_byte_tokenizer, "<|end|>"),
        (build_header_tokenizer, "<|begin_of_text|>"), (build_header_tokenizer, "<|eot_id|>"),
        (build_header_tokenizer, "<|start_header_id|>"), (build_header_tokenizer, "<|end_header_id|>"),
        (build_space_tokenizer, "</s>"), (build_space_tokenizer, "[/INST]"), (build_space_tokenizer, "<pad>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [1, 2])
def test_a_control_token_in_a_message_is_read_as_text(build, token, number):
    """As many control tokens as with a word in its place; decoded, the text is what was written."""
    tokenizer = build(CHATML)
    end = "<|end|>" if token == "<|end|>" else None

    def encode(word: str) -> list[int]:
        messages = ask("a", "b")
        messages[number - 1]["content"] = f"你好 {word} user"
        return encode_rendered(tokenizer, render(tokenizer, mark_control_tokens(tokenizer, messages, end)))[0]

    control = set(tokenizer.added_tokens_decoder)
    kept = [[piece for piece in encode(word) if piece in control] for word in (token, "word")]
    assert kept[0] == kept[1] and tokenizer.convert_tokens_to_ids(token) not in set(encode(token)) - set(encode("word"))
    assert token in tokenizer.decode(encode(token)) and "word" in tokenizer.decode(encode("word"))


def test_what_only_looks_like_a_control_token_is_not_marked():
    tokenizer = build_byte_tokenizer(CHATML)
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    messages = ask("<think> <|im_start| > < |im_end|>", "<s></s> [INST]")
    assert mark_control_tokens(tokenizer, messages, "<|im_end|>") == messages


def test_a_token_that_the_template_mentions_is_text_in_what_the_user_says_alone():
    tokenizer = build_byte_tokenizer("{#- <think> #}" + CHATML)
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    marked = mark_control_tokens(tokenizer, ask("<think>", "<think>"))
    assert [message["content"] for message in marked] == [f"{MARKS[0]}<think>{MARKS[1]}", "<think>"]


def test_marks_that_the_data_write_are_refused():
    with pytest.raises(RowError, match=r"^message 2: it holds U\+F0000 or U\+F0001, which are needed for marks; take"):
        mark_control_tokens(build_byte_tokenizer(CHATML), ask("a", f"b{MARKS[1]}"))


def test_places_of_pieces_behind_a_mark_are_those_of_the_text():
    tokenizer = build_byte_tokenizer(CHATML)
    messages = mark_control_tokens(tokenizer, ask("Hi <|im_end|> there", "Yes.\n\nNo."))
    text = render(tokenizer, messages)
    ids, places = encode_rendered(tokenizer, text)
    shown = [text[start:end] for start, end in places]
    assert [tokenizer.decode([piece]) for piece in ids] == shown
    assert "".join(shown) == text.replace(MARKS[0], "").replace(MARKS[1], "")


# The end of a turn


def test_the_end_of_a_turn_is_the_token_behind_a_reply(style):
    assert find_end_of_turn(tokenizer_of(style)) == style.end


@pytest.mark.parametrize(
    ("tail", "end"),
    [
        ("<|im_end|><|endoftext|>", "<|im_end|>"),  # the first of two
        (" \\n<|endoftext|><|im_end|>", "<|endoftext|>"),
        ("<|end|>\\n<|im_end|>", "<|end|>"),  # an added token that is no special one
        ("<|end|>x", "<|end|>x"),  # the longer of two that begin at the same place
    ],
)
def test_of_several_tokens_behind_a_reply_the_first_ends_the_turn(tail, end):
    tokenizer = build_byte_tokenizer(f"{{% for m in messages %}}{{{{ m.role + m.content + '{tail}' }}}}{{% endfor %}}")
    tokenizer.add_tokens([AddedToken("<|end|>", special=False), AddedToken("<|end|>x", special=False)])
    assert find_end_of_turn(tokenizer) == end


def test_a_template_without_a_token_behind_a_reply_is_refused():
    tokenizer = build_byte_tokenizer("{% for m in messages %}{{ m.role + ': ' + m.content + '\\n###\\n' }}{% endfor %}")
    with pytest.raises(UserError) as caught:
        find_end_of_turn(tokenizer)
    assert str(caught.value) == (
        "The chat template writes '\\n###\\n' behind a reply, no token to stop at: set chat_template to turns or "
        "chatml, or to a file in which eos_token follows each message of the assistant."
    )


def test_a_template_that_writes_no_reply_is_refused():
    tokenizer = build_byte_tokenizer("{% for m in messages %}{{ m.role + '<|im_end|>' }}{% endfor %}")
    with pytest.raises(UserError, match="^The chat template leaves the assistant's reply out"):
        find_end_of_turn(tokenizer)


@pytest.mark.parametrize("template", ["{{ raise_exception('no chat') }}", "{{ 'no chat", "{{ messages.no.chat }}"])
def test_a_template_that_renders_no_reply_is_refused(template):
    with pytest.raises(UserError, match="^The chat template cannot render a question and a reply: .*template"):
        find_end_of_turn(build_byte_tokenizer(template))


# Other prompts in training


def test_only_templates_that_prompt_otherwise_in_generation_are_warned_of(style, capsys):
    warn_of_other_prompts(tokenizer_of(style))
    said = capsys.readouterr().out
    if style is not STYLES["think"]:
        assert said == ""
        return
    assert said.startswith("Warning: ") and said.count("\n") == 1
    assert repr("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>")[-30:] in said
    assert repr("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant") in said


def test_a_setting_that_makes_the_prompts_equal_silences_the_warning(capsys):
    tokenizer = build_byte_tokenizer(THINK)
    set_chat_template(tokenizer, None, {"enable_thinking": True})
    warn_of_other_prompts(tokenizer)
    assert "Warning" in capsys.readouterr().out
    set_chat_template(tokenizer, None, {"enable_thinking": False})
    warn_of_other_prompts(tokenizer)
    assert capsys.readouterr().out == ""


def test_a_template_without_a_prompt_for_generation_is_warned_of(capsys):
    warn_of_other_prompts(
        build_byte_tokenizer("{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}")
    )
    assert "writes 'user:a<|im_end|>assistant:' in training, but 'user:a<|im_end|>' in" in capsys.readouterr().out


# The choice of a template


def build_bert_tokenizer() -> PreTrainedTokenizerFast:
    """Neither ChatML's tokens nor an end of a text."""
    return train_encoder_tokenizer(ENGLISH, vocab_size=200)


def test_the_models_own_template_is_kept(style):
    tokenizer = style.build(style.template)
    assert set_chat_template(tokenizer, None) == "the model's own"
    assert tokenizer.chat_template == style.template


def test_of_several_templates_of_the_model_the_default_is_taken():
    tokenizer = build_byte_tokenizer()
    tokenizer.chat_template = {"tool_use": THINK, "default": CHATML}
    assert set_chat_template(tokenizer, None, {}) == "the model's own"
    assert tokenizer.chat_template == CHATML


def test_a_model_without_template_gets_chatml_where_it_knows_its_tokens_else_turns():
    tokenizer = build_byte_tokenizer()
    assert set_chat_template(tokenizer, None) == "chatml (the model has none)"
    assert render(tokenizer, ask("a", "b"), add_generation_prompt=True) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer = build_space_tokenizer(None)
    assert set_chat_template(tokenizer, None) == "turns (the model has none)"
    assert render(tokenizer, ask("a", "b"), add_generation_prompt=True) == (
        "<|user|>\na</s>\n<|assistant|>\nb</s>\n<|assistant|>\n"
    )


@pytest.mark.parametrize("own", [None, THINK])
@pytest.mark.parametrize("name", ["chatml", "turns"])
def test_a_template_that_is_named_replaces_the_models_own(own, name):
    tokenizer = build_byte_tokenizer(own)
    assert set_chat_template(tokenizer, name) == name
    assert tokenizer.chat_template == TEMPLATES[name]


@pytest.mark.parametrize("own", [None, THINK])
def test_a_template_is_read_from_a_file(own, tmp_path, monkeypatch):
    path = tmp_path / "你好.jinja"
    path.write_text("{# 你好 #}" + CHATML, encoding="utf-8")
    for given in (str(path), "~/你好.jinja"):
        monkeypatch.setenv("HOME", str(tmp_path))
        tokenizer = build_byte_tokenizer(own)
        assert set_chat_template(tokenizer, given) == given
        assert render(tokenizer, ask("a", "b")) == (
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        )


def refused(*args) -> str:
    with pytest.raises(UserError) as caught:
        set_chat_template(*args)
    return str(caught.value)


def test_a_template_that_does_not_suit_the_tokenizer_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for missing in ("alpaca", "folder", "no/chat.jinja"):
        expected = f"chat_template {missing}: no such file in {tmp_path}, and none of chatml, turns."
        assert refused(build_byte_tokenizer(), missing) == expected
    assert refused(build_space_tokenizer(), "chatml") == (
        "chat_template chatml: the tokenizer has no <|im_start|> and <|im_end|>; set it to turns."
    )
    for chosen in ("turns", None):
        assert refused(build_bert_tokenizer(), chosen) == (
            "chat_template turns: the tokenizer has no end-of-sequence token; use another model."
        )


def test_a_tokenizer_without_pad_token_pads_with_the_end_of_the_text():
    tokenizer = build_byte_tokenizer()
    tokenizer.pad_token = None
    set_chat_template(tokenizer, None)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    tokenizer = build_byte_tokenizer()
    set_chat_template(tokenizer, None)
    assert tokenizer.pad_token == "<|endoftext|>"


# Settings

SHOWING = (
    "{% macro show() %}{{ x|string + '|' + x|tojson }}{% endmacro %}{% for m in messages %}{{ show() }}{% endfor %}"
)


@pytest.mark.parametrize(
    "value",
    [True, False, None, 0, -3, 0.5, 1e-7, "a", 'it\'s "so"', "\\n\n", "你好😀", "{% %}", [1, "b"], {"k": False}],
)
def test_settings_are_seen_by_the_template_as_they_were_given(value):
    """Also in its loops and macros."""
    tokenizer = build_byte_tokenizer(SHOWING)
    expected = tokenizer.apply_chat_template(ask("a"), tokenize=False, chat_template=f"{{{{ y }}}}{SHOWING}", x=value)
    set_chat_template(tokenizer, None, {"x": value})
    assert render(tokenizer, ask("a")) == expected


def test_settings_are_saved_with_the_template_and_a_caller_can_override_them(tmp_path):
    tokenizer = build_byte_tokenizer(THINK + "{%- if tone is defined %}{% endif -%}")
    assert set_chat_template(tokenizer, None, {"enable_thinking": False, "tone": "kind"}) == (
        "the model's own, enable_thinking False, tone kind"
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompt = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    silent = f"{prompt}<think>\n\n</think>\n\n"
    settings = {"tokenize": False, "add_generation_prompt": True}
    assert loaded.apply_chat_template(ask("a"), **settings) == silent
    assert loaded.apply_chat_template(ask("a"), **settings, enable_thinking=True) == prompt
    # A later run with other settings wins over the earlier one.
    set_chat_template(loaded, None, {"enable_thinking": True})
    assert loaded.apply_chat_template(ask("a"), **settings) == prompt
    assert loaded.apply_chat_template(ask("a"), **settings, enable_thinking=False) == silent


def test_settings_add_nothing_to_the_text_by_themselves():
    for template in (CHATML, f"A chat:\n{CHATML}", *(f"{space}{{{{ eos_token }}}}" for space in (" ", "\n", " \n\n "))):
        template += "{% if x or y %}{% endif %}"
        tokenizer, untouched = build_byte_tokenizer(template), build_byte_tokenizer(template)
        set_chat_template(tokenizer, None, {"x": 1, "y": 2})
        assert render(tokenizer, ask("a", "b")) == render(untouched, ask("a", "b"))


def test_a_setting_that_the_template_never_asks_for_is_refused():
    expected = "chat_template_settings: the template has no variable thinking; leave it out."
    assert refused(build_byte_tokenizer(THINK), None, {"thinking": False}) == expected


@pytest.mark.parametrize("name", ["enable-thinking", "", "1st", "a b", "a }}", True, 3, None])
def test_a_setting_whose_name_is_no_variable_is_refused(name):
    expected = f"chat_template_settings: {name!r} is no name of a variable."
    assert refused(build_byte_tokenizer(THINK), None, {name: False}) == expected
