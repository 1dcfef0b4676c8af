import copy

from common.data import RowError
from common.errors import UserError
from common.messages import (
    LIST_COLUMNS,
    ROLES,
    describe_messages,
    list_message_texts,
    require_replies,
    unfold_dialogue,
)

import pytest
from datasets import Dataset, DatasetDict

SPEAKERS = {"s": "system", "u": "user", "a": "assistant"}


def say(*parts: str) -> list[dict[str, str]]:
    """Messages from texts with the first letter of their role in front: say("u:Hi", "a:Hello")."""
    return [{"role": SPEAKERS[part[0]], "content": part[2:]} for part in parts]


def unfold(row: dict, **settings) -> dict:
    (unfolded,) = unfold_dialogue(row, **settings)
    return unfolded


def read(row: dict, **settings) -> list[dict[str, str]]:
    return unfold(row, **settings)["messages"]


def error_of(row: dict, **settings) -> str:
    with pytest.raises(RowError) as caught:
        list(unfold_dialogue(row, **settings))
    return str(caught.value)


# Shapes


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": say("u:Hi", "a:Hello")}, say("u:Hi", "a:Hello")),
        ({"messages": say("s:Be kind.", "u:你好", "a:您好！", "u:再见")},
         say("s:Be kind.", "u:你好", "a:您好！", "u:再见")),
        (
            {"conversations": [{"from": "system", "value": "要简短。"}, {"from": "human", "value": "你好"},
                               {"from": "gpt", "value": "您好！"}]},
            say("s:要简短。", "u:你好", "a:您好！"),
        ),
        # A list that speaks in two ways
        ({"messages": [*say("u:Hi"), {"from": "gpt", "value": "Hello"}]}, say("u:Hi", "a:Hello")),
        # More of a message than is read
        ({"messages": [{"role": "user", "content": "Hi", "weight": 1, "tool_calls": None}]}, say("u:Hi")),
        ({"messages": [{"role": "user", "content": "Hi", "from": None, "value": None}]}, say("u:Hi")),
        ({"dialog": ["你好", "您好！", "再见"]}, say("u:你好", "a:您好！", "u:再见")),
        ({"dialog": ["Hi"]}, say("u:Hi")),
        ({"prompt": "Hi", "completion": "Hello"}, say("u:Hi", "a:Hello")),
        ({"prompt": "天气？", "completion": "晴。"}, say("u:天气？", "a:晴。")),
        ({"prompt": say("s:Be kind.", "u:Hi"), "completion": say("a:Hello")}, say("s:Be kind.", "u:Hi", "a:Hello")),
        ({"prompt": say("u:Hi", "a:Hello", "u:Bye"), "completion": "See you"}, say("u:Hi", "a:Hello", "u:Bye",
                                                                                  "a:See you")),
        ({"prompt": "Hi", "completion": say("a:Hello", "u:Bye", "a:See you")}, say("u:Hi", "a:Hello", "u:Bye",
                                                                                 "a:See you")),
        ({"prompt": ["Hi", "Hello", "Bye"], "completion": "See you"}, say("u:Hi", "a:Hello", "u:Bye", "a:See you")),
        ({"prompt": "Hi", "completion": ["Hello", "Bye", "See you"]}, say("u:Hi", "a:Hello", "u:Bye", "a:See you")),
        ({"prompt": say("u:Hi", "a:Hello", "u:Bye")}, say("u:Hi", "a:Hello", "u:Bye")),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, say("u:Add.\n\n1 2", "a:3")),
        ({"instruction": "翻译。", "input": "早上好", "output": "Morning"}, say("u:翻译。\n\n早上好", "a:Morning")),
        ({"instruction": "Sing.", "input": "", "output": "La"}, say("u:Sing.", "a:La")),
        ({"instruction": "Sing.", "input": None, "output": "La"}, say("u:Sing.", "a:La")),
        ({"instruction": "Sing.", "output": "La"}, say("u:Sing.", "a:La")),
    ],
)  # fmt: skip
def test_every_shape_becomes_messages(row, expected):
    before = copy.deepcopy(row)
    assert unfold(row) == {"messages": expected, "merged": 0}
    assert row == before


@pytest.mark.parametrize(("name", "role"), ROLES.items())
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_the_roles_of_other_data_sets_are_known(name, role, keys):
    first = [dict(zip(keys, ("user", "Hi"), strict=True))] if role == "assistant" else []
    last = [dict(zip(keys, ("human", "Bye"), strict=True))] if role != "user" else []
    messages = read({"messages": [*first, dict(zip(keys, (name, "Hello"), strict=True)), *last]})
    assert messages[len(first)] == {"role": role, "content": "Hello"}


def test_a_role_is_known_in_capitals_too():
    row = {"messages": [{"role": "User", "content": "Hi"}, {"role": "ASSISTANT", "content": "Hello"}]}
    assert next(unfold_dialogue(row))["messages"] == say("u:Hi", "a:Hello")


@pytest.mark.parametrize("name", LIST_COLUMNS)
@pytest.mark.parametrize("value", [say("u:Hi", "a:Hello"), ["Hi", "Hello"]])
def test_lists_are_found_under_their_usual_names_also_beside_a_prompt(name, value):
    assert unfold({name: value, "prompt": "Hi"}) == {"prompt": "Hi", "messages": say("u:Hi", "a:Hello"), "merged": 0}


def test_a_list_that_is_null_is_passed_over():
    assert read({"messages": None, "conversations": None, "prompt": "Hi"}) == say("u:Hi")


def test_the_column_that_is_named_wins():
    row = {"messages": say("u:Not", "a:this"), "turns": say("u:Hi", "a:Hello")}
    assert read(row, column="turns") == say("u:Hi", "a:Hello")
    assert unfold({"turns": ["Hi", "Hello"], "prompt": "Not this"}, column="turns") == {
        "prompt": "Not this", "messages": say("u:Hi", "a:Hello"), "merged": 0
    }  # fmt: skip


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    ("question", "answer"), [({"prompt": "Hi"}, "completion"), ({"instruction": "Hi", "input": ""}, "output")]
)
def test_an_empty_answer_is_to_be_predicted(question, answer, empty):
    assert unfold(question | {answer: empty}) == unfold(question) == {"messages": say("u:Hi"), "merged": 0}


def test_a_completion_without_any_message_is_to_be_predicted():
    assert read({"prompt": say("u:Hi"), "completion": []}) == say("u:Hi")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": say("u:Hi", "a:Hello")},
        {"prompt": "Hi", "completion": "Hello"},
        {"instruction": "Hi", "input": None, "output": "Hello"},
        {"dialog": ["Hi", "Hello"]},
    ],
)
def test_the_other_columns_are_kept_and_the_used_ones_are_not(row):
    expected = {"id": "7", "source": "forum", "messages": say("u:Hi", "a:Hello"), "merged": 0}
    assert unfold({"id": "7", **row, "source": "forum"}) == expected


def test_texts_are_kept_with_the_spaces_around_them():
    assert read({"messages": say("u:  Hi \n", "a:\nHello\t")}) == say("u:  Hi \n", "a:\nHello\t")


# Roles that speak twice


@pytest.mark.parametrize(
    ("parts", "expected", "merged"),
    [
        (["u:Hi", "u:there", "a:Hello"], ["u:Hi\nthere", "a:Hello"], 1),
        (["u:你", "u:好", "u:吗", "a:好", "a:的"], ["u:你\n好\n吗", "a:好\n的"], 3),
        (["s:Be kind.", "s:Be brief.", "u:Hi"], ["s:Be kind.\nBe brief.", "u:Hi"], 1),
        (["u:Hi", "a:Hello", "u:Hi", "a:Hello"], ["u:Hi", "a:Hello", "u:Hi", "a:Hello"], 0),
    ],
)
def test_a_role_that_speaks_twice_is_merged_with_a_line_end_and_counted(parts, expected, merged):
    row = {"messages": say(*parts)}
    before = copy.deepcopy(row)
    assert unfold(row) == {"messages": say(*expected), "merged": merged}
    assert row == before


def test_names_of_one_role_are_merged_too():
    row = {"messages": [{"from": "human", "value": "Hi"}, {"from": "user", "value": "there"}]}
    assert unfold(row) == {"messages": say("u:Hi\nthere"), "merged": 1}


def test_a_prompt_that_ends_with_the_assistant_is_continued_by_the_completion():
    row = {"prompt": say("u:Count.", "a:One,"), "completion": "two."}
    assert unfold(row) == {"messages": say("u:Count.", "a:One,\ntwo."), "merged": 1}


@pytest.mark.parametrize(
    ("parts", "number", "role"),
    [(["u:Hi", "u:there"], 2, "user"), (["u:Hi", "a:A", "a:B"], 3, "assistant"), (["s:A", "s:B", "u:Hi"], 2, "system")],
)
def test_a_role_that_speaks_twice_can_be_refused(parts, number, role):
    assert error_of({"messages": say(*parts)}, repeated_roles="refuse") == (
        f"messages, message {number}: {role} speaks twice in a row; join the two, or set repeated_roles: merge"
    )


def test_where_repeated_roles_are_refused_others_pass():
    assert unfold({"dialog": ["Hi", "Hello", "Hi"]}, repeated_roles="refuse")["merged"] == 0


# What is refused


KNOWN = "the roles are system, user, human, assistant, gpt, chatgpt, model, bot"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        # Roles and their order
        ({"messages": [{"role": "tool", "content": "4"}]}, f"messages, message 1: the role is 'tool'; {KNOWN}"),
        ({"messages": [*say("u:Hi"), {"role": "Users", "content": "4"}]},
         f"messages, message 2: the role is 'Users'; {KNOWN}"),
        ({"messages": [*say("u:Hi"), {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}]},
         "messages, message 2: reasoning_content is not read; write it into the text as <think>...</think>"),
        ({"messages": [{"role": None, "content": "4"}]}, f"messages, message 1: the role is None; {KNOWN}"),
        ({"conversations": [{"from": 3, "value": "4"}]}, f"conversations, message 1: the role is 3; {KNOWN}"),
        ({"messages": [{"role": ["user"], "content": "4"}]}, f"messages, message 1: the role is ['user']; {KNOWN}"),
        ({"messages": say("u:Hi", "s:Be kind.")},
         "messages, message 2: a system message stands within the dialogue; put it first"),
        ({"prompt": "Hi", "completion": say("s:Be kind.", "a:Hello")},
         "completion, message 1: a system message stands within the dialogue; put it first"),
        ({"messages": say("a:Hello", "u:Hi")},
         "messages, message 1: the assistant speaks first; let the user begin"),
        ({"messages": say("s:Be kind.", "a:Hello")},
         "messages, message 2: the assistant speaks first; let the user begin"),
        ({"completion": "Hello"}, "completion: the assistant speaks first; let the user begin"),
        ({"prompt": None, "completion": "Hello"}, "completion: the assistant speaks first; let the user begin"),
        ({"messages": say("s:Be kind.")},
         "nobody speaks to the assistant; give the dialogue a message of the user"),
        ({"prompt": None}, "nobody speaks to the assistant; give the dialogue a message of the user"),
        # Texts
        ({"messages": say("u:")}, "messages, message 1: it is empty; write a text"),
        ({"messages": [{"role": "user", "content": None}]}, "messages, message 1: it is empty; write a text"),
        ({"messages": [*say("u:Hi"), {"role": "assistant", "content": ""}]},
         "messages, message 2: it is empty; write a text"),
        ({"messages": say("u:\n　")}, "messages, message 1: it is '\\n\\u3000'; write a text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages, message 1: it is 5; write a text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
         "messages, message 1: it is [{'type': 'text', 'text': 'Hi'}]; write a text"),
        ({"messages": say("u:a\0b")},
         "messages, message 1: character 2 is NUL (\\u0000), which is no text; take it out"),
        ({"dialog": ["Hi", "  "]}, "dialog, message 2: it is '  '; write a text"),
        ({"prompt": "", "completion": "Hello"}, "prompt: it is empty; write a text"),
        ({"prompt": "Hi", "completion": " "}, "completion: it is ' '; write a text"),
        ({"prompt": "Hi", "completion": 5}, "completion: it is 5; write a text"),
        ({"instruction": "", "input": "Hi", "output": "Hello"}, "instruction: it is empty; write a text"),
        ({"instruction": None, "output": "Hello"}, "instruction: it is empty; write a text"),
        ({"instruction": "Add.", "input": " ", "output": "Hello"}, "input: it is ' '; write a text"),
        ({"instruction": "Add.", "input": 12, "output": "3"}, "input: it is 12; write a text"),
        ({"instruction": "Add.", "input": "1\0", "output": "3"},
         "input: character 2 is NUL (\\u0000), which is no text; take it out"),
        ({"instruction": "Add.", "output": "\0 3"},
         "output: character 1 is NUL (\\u0000), which is no text; take it out"),
        # Lists
        ({"messages": "Hi"}, "messages: it is 'Hi'; write a list of messages"),
        ({"messages": "x" * 99}, f"messages: it is '{'x' * 60}'; write a list of messages"),
        ({"messages": say("u:Hi")[0]},
         "messages: it is \"{'role': 'user', 'content': 'Hi'}\"; write a list of messages"),
        ({"conversations": []}, "conversations: it is '[]'; write a list of messages"),
        ({"prompt": [], "completion": "Hello"}, "prompt: it is '[]'; write a list of messages"),
        ({"messages": [*say("u:Hi"), "Hello"]},
         'messages, message 2: it is \'Hello\'; write {"role": "user", "content": "..."}'),
        ({"messages": [None]}, 'messages, message 1: it is \'None\'; write {"role": "user", "content": "..."}'),
        ({"messages": [{"role": "user"}]},
         'messages, message 1: it is "{\'role\': \'user\'}"; write {"role": "user", "content": "..."}'),
        ({"messages": [{"role": "user", "value": "y" * 60}]},
         f'messages, message 1: it is "{{\'role\': \'user\', \'value\': \'{"y" * 33}"; '
         'write {"role": "user", "content": "..."}'),
        ({"messages": [*say("u:2 + 2?"), {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
         "messages, message 2: it calls tools, which this recipe does not train; leave the dialogue out"),
        # Columns
        ({"id": "7", "text": "Hi"},
         "no dialogue, the columns are id, text; name one of them with messages_column_name, or write messages, "
         "conversations, dialog, prompt and completion, or instruction, input and output"),
    ],
)  # fmt: skip
def test_what_makes_no_dialogue_is_refused_with_its_place(row, said):
    assert error_of(row) == said


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "7", "messages": say("u:Hi")},
         'no column "chat", the columns are id, messages; mend messages_column_name'),
        ({"chat": None, "messages": say("u:Hi")}, "chat: it is 'None'; write a list of messages"),
        ({"chat": "Hi"}, "chat: it is 'Hi'; write a list of messages"),
        ({"chat": ["Hi", ""]}, "chat, message 2: it is empty; write a text"),
    ],
)  # fmt: skip
def test_the_column_that_is_named_has_to_be_there_and_to_hold_a_list(row, said):
    assert error_of(row, column="chat") == said


# Splits


def build_splits(**dialogues: list[list[dict[str, str]]]) -> DatasetDict:
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "origin": [f"{split}.jsonl:{line}" for line, _ in enumerate(rows, start=1)],
                    "messages": rows,
                    "merged": list(range(len(rows))),
                }
            )
            for split, rows in dialogues.items()
        }
    )


WITH, WITHOUT = say("u:Hi", "a:Hello"), say("s:Be kind.", "u:Hi")


def test_dialogues_to_learn_or_to_score_need_a_reply_and_are_named_where_they_have_none():
    splits = build_splits(train=[WITH, WITHOUT, WITH], validation=[WITHOUT, WITH], test=[WITHOUT])
    with pytest.raises(UserError) as caught:
        require_replies(splits)
    assert str(caught.value).splitlines() == [
        "train.jsonl:2: no message of the assistant, nothing to learn; add its reply",
        "validation.jsonl:1: no message of the assistant, nothing to learn; add its reply",
    ]


def test_dialogues_to_predict_need_no_reply():
    require_replies(build_splits(train=[WITH], validation=[WITH], test=[WITHOUT, WITH]))


def test_of_many_dialogues_without_reply_twenty_are_named():
    with pytest.raises(UserError) as caught:
        require_replies(build_splits(train=[WITHOUT] * 22))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[19].startswith("train.jsonl:20: ") and lines[20].startswith("and 2 more")


def test_tokenizers_learn_from_every_message_with_its_role():
    rows = build_splits(train=[say("s:要简短。", "u:你好", "a:您好！"), say("u:Hi\nthere")])["train"]
    assert list(list_message_texts(rows)) == ["system\n要简短。", "user\n你好", "assistant\n您好！", "user\nHi\nthere"]


def test_messages_are_described_by_how_many_there_are_and_what_was_merged():
    # 2 + 2 + 2 messages of 3 dialogues and 1 of another; merged are 0 + 1 + 2 and 0.
    splits = build_splits(train=[WITH, WITHOUT, WITH], test=[say("u:Hi")])
    assert describe_messages(splits) == "1.8 a dialogue, 2 replies; 3 merged into the one before, of the same role"
    many = build_splits(train=[WITH]).map(lambda row: {"messages": row["messages"] * 1000})
    assert describe_messages(many) == "2000.0 a dialogue, 1,000 replies"
