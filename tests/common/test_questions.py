import json
import random

from common.data import RowError, require_text
from common.errors import UserError
from common.questions import SHORTEST_QUESTION, cut_questions, describe_windows, flatten_article, read_answers
from tests.conftest import build_tokenizer

import pytest
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

CONTEXT = "Ada left Paris. Ada came to Rome."  # Ada at 0 and 16, Paris at 9, Rome at 28


# Articles


def test_an_article_becomes_a_row_for_each_question_with_its_context_and_title():
    article = {
        "title": "Ada",
        "paragraphs": [
            {"context": "Ada left.", "qas": [{"id": "1", "question": "Who?", "answers": []}]},
            {"context": "No question.", "qas": []},
            {
                "context": "Tom came.",
                "qas": [
                    {"id": "2", "question": "Who?", "answers": [{"text": "Tom", "answer_start": 0}]},
                    {"id": "3", "question": "When?", "answers": [], "is_impossible": True},
                ],
            },
        ],
    }
    assert list(flatten_article(article)) == [
        {"title": "Ada", "context": "Ada left.", "id": "1", "question": "Who?", "answers": []},
        {"title": "Ada", "context": "Tom came.", "id": "2", "question": "Who?",
         "answers": [{"text": "Tom", "answer_start": 0}]},
        {"title": "Ada", "context": "Tom came.", "id": "3", "question": "When?", "answers": [], "is_impossible": True},
    ]  # fmt: skip


def test_an_article_needs_no_title_and_a_question_keeps_what_it_has_itself():
    article = {"paragraphs": [{"context": "Ada left.", "qas": [{"question": "Who?", "context": "Tom left."}]}]}
    assert list(flatten_article(article)) == [{"question": "Who?", "context": "Tom left."}]


@pytest.mark.parametrize("row", [{}, {"question": "Who?", "context": "Ada.", "answers": None}, {"title": "paragraphs"}])
def test_a_flat_row_is_given_back_as_it_is(row):
    (flat,) = flatten_article(row)
    assert flat is row


@pytest.mark.parametrize(
    ("article", "said"),
    [
        ({"paragraphs": None}, "the article: its paragraphs are 'None'"),
        ({"paragraphs": {"context": "Ada."}}, "the article: its paragraphs are"),
        ({"paragraphs": ["Ada."]}, r"paragraphs\[0\]: it has no context"),
        ({"paragraphs": [{"qas": []}]}, r"paragraphs\[0\]: it has no context"),
        ({"paragraphs": [{"context": "Ada.", "qas": []}, {"context": "Ada."}]}, r"paragraphs\[1\]: its qas are 'None'"),
        ({"paragraphs": [{"context": "Ada.", "qas": {"id": "1"}}]}, r"paragraphs\[0\]: its qas are .*give a list"),
        ({"paragraphs": [{"context": "Ada.", "qas": ["Who?"]}]}, r"paragraphs\[0\]: a question is .*Who\?"),
    ],
)
def test_a_malformed_article_is_refused_with_the_place(article, said):
    with pytest.raises(RowError, match=said):
        list(flatten_article(article))


# Questions and contexts


@pytest.mark.parametrize("name", ["question", "context"])
@pytest.mark.parametrize(
    ("text", "said"),
    [("", "it is empty"), (None, "it is empty"), (" \n", "it is ' "), (5, "it is 5"), (["Ada"], "it is .'Ada'")],
)
def test_an_empty_question_or_context_is_refused(name, text, said):
    with pytest.raises(RowError, match=f"^{name}: {said}.*; write a text"):
        require_text({"question": "Who?", "context": "Ada.", name: text}, name)


def test_a_text_is_given_with_the_spaces_around_it():
    """The starts of answers count them."""
    assert require_text({"context": "  Ada left. \n"}, "context") == "  Ada left. \n"


# Answers


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Ada", "Paris"], "answer_start": [16, 9]},
        [{"text": "Ada", "answer_start": 16}, {"text": "Paris", "answer_start": 9}],
        [{"answer_start": 16, "text": "Ada", "id": "x"}, {"text": "Paris", "answer_start": 9}],
    ],
)
@pytest.mark.parametrize("write", [lambda answers: answers, json.dumps, lambda answers: f" \n{json.dumps(answers)}"])
def test_both_shapes_of_answers_are_read_also_from_a_field_of_json(answers, write):
    assert read_answers(write(answers), CONTEXT) == (["Ada", "Paris"], [16, 9])


@pytest.mark.parametrize(
    "answers", [{"text": "Ada", "answer_start": 0}, {"text": ["Ada"], "answer_start": 0},
                '{"text": "Ada", "answer_start": [0]}']
)  # fmt: skip
def test_a_single_answer_needs_no_list(answers):
    assert read_answers(answers, CONTEXT) == (["Ada"], [0])


@pytest.mark.parametrize(
    "answers", [[], "[]", {"text": [], "answer_start": []}, {"text": []}, '{"text": [], "answer_start": []}']
)
def test_no_answer_is_an_empty_list(answers):
    assert read_answers(answers, CONTEXT) == ([], [])


def test_without_a_label_the_answers_are_none():
    for find_answers in (False, True):
        assert read_answers(None, CONTEXT, find_answers) == (None, None)


def test_offsets_count_characters_and_not_bytes():
    assert read_answers({"text": ["北京", "😀b"], "answer_start": [2, 4]}, "é在北京😀b。") == (["北京", "😀b"], [2, 4])


def test_the_row_that_was_read_is_not_changed():
    answers = {"text": ["Ada"], "answer_start": [99]}
    assert read_answers(answers, CONTEXT, find_answers=True) == (["Ada"], [16])
    assert answers == {"text": ["Ada"], "answer_start": [99]}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        # Not what the context has there
        ({"text": ["Ada"], "answer_start": [1]}, "'Ada': at answer_start 1 the context has 'da '; it stands at 0, 16,"),
        ({"text": ["ada"], "answer_start": [0]}, "at answer_start 0 the context has 'Ada'; it stands nowhere"),
        ({"text": ["Rome. "], "answer_start": [28]}, "the context has 'Rome.'; it stands nowhere"),
        ({"text": ["Ada", "Paris"], "answer_start": [0, 8]}, "'Paris': at answer_start 8 the context has ' Pari'"),
        # Outside the context of 33 characters
        ({"text": ["Ada"], "answer_start": [33]}, "answer_start 33 is outside the context of 33 characters"),
        ({"text": ["."], "answer_start": [-1]}, "answer_start -1 is outside the context .*it stands at 14, 32,"),
        # Without a start
        ({"text": ["Ada"]}, "'Ada': it has no answer_start; it stands at 0, 16, correct it or set find_answers"),
        ([{"text": "Ada"}], "it has no answer_start"),
        ({"text": ["Ada"], "answer_start": [None]}, "it has no answer_start"),
        (["Ada"], "it has no answer_start"),
        ("Ada", "it has no answer_start"),
    ],
)
def test_an_answer_that_does_not_stand_where_it_should_is_refused_with_the_places(answers, said):
    with pytest.raises(RowError, match=said):
        read_answers(answers, CONTEXT)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": ["Ada"], "answer_start": ["0"]}, "answer_start is '0'"),
        ({"text": ["Ada"], "answer_start": [0.0]}, "answer_start is 0.0"),
        ({"text": ["Ada"], "answer_start": [False]}, "answer_start is False"),
        ({"text": ["Ada"], "answer_start": False}, "answer_start is False"),
        ({"text": ["Ada"], "answer_start": "0"}, "must be lists of the same length"),
        ({"text": ["Ada", "Rome"], "answer_start": [0]}, "must be lists of the same length"),
        ({"text": ["Ada"], "answer_start": [0, 16]}, "must be lists of the same length"),
        ({"text": None, "answer_start": [0]}, "must be lists of the same length"),
        ({"text": 5, "answer_start": [0]}, "must be lists of the same length"),
        ({"text": [""], "answer_start": [0]}, "the text is ''"),
        ({"text": [" "], "answer_start": [3]}, "the text is ' '"),
        ({"text": [None], "answer_start": [0]}, "the text is None"),
        ({"text": [5], "answer_start": [0]}, "the text is 5"),
        ("", "the text is ''"),
        ({}, "is no answer; write {'text'"),
        ({"answer_start": [0]}, "is no answer"),
        ([{"answer_start": 0}], "is no answer"),
        ([0], "is no answer"),
        (7, "'7' is no answer"),
        ("[0]", "is no answer"),
        ('{"text": ["Ada"]', "invalid JSON in the field"),
    ],
)
def test_answers_of_another_shape_or_type_are_refused_also_when_they_are_looked_for(answers, said):
    for find_answers in (False, True):
        with pytest.raises(RowError, match=f"answers: .*{said}"):
            read_answers(answers, CONTEXT, find_answers)


def test_a_text_that_is_a_number_without_any_start_is_refused():
    with pytest.raises(RowError, match="answers"):
        read_answers({"text": 5}, CONTEXT)


@pytest.mark.parametrize(
    ("answers", "starts"),
    [
        ("Ada", [0]),  # without a start the first one
        (["Rome", "Ada"], [28, 0]),
        ({"text": ["Ada"]}, [0]),
        ({"text": ["Ada"], "answer_start": [None]}, [0]),
        ({"text": ["Ada"], "answer_start": [7]}, [0]),
        ({"text": ["Ada"], "answer_start": [8]}, [0]),  # as far from 0 as from 16
        ({"text": ["Ada"], "answer_start": [9]}, [16]),
        ({"text": ["Ada"], "answer_start": [10**9]}, [16]),
        ({"text": ["Ada"], "answer_start": [-5]}, [0]),
        ({"text": ["Ada"], "answer_start": [16]}, [16]),  # it fits and stays
        ({"text": ["Berlin", "Rome"], "answer_start": [9, 9]}, [-1, 28]),
        ([{"text": "Ada left Rome", "answer_start": 0}], [-1]),
    ],
)
def test_looked_for_answers_stand_at_the_nearest_place_or_nowhere(answers, starts):
    assert read_answers(answers, CONTEXT, find_answers=True)[1] == starts


def test_places_that_overlap_count_as_well():
    assert read_answers({"text": ["aa"], "answer_start": [5]}, "aaaa b", find_answers=True) == (["aa"], [2])


# Questions cut to a length


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def split(tokenizer, text: str) -> list[str]:
    return tokenizer.tokenize(text)


LONG = "Who lives in Paris and works in Berlin and left the house in the year when the other one came home again ? " * 3


@pytest.mark.parametrize(
    ("max_length", "doc_stride", "most"),
    # [CLS] and two [SEP] are 3; windows have to get further than they overlap: max_length - 3 - doc_stride - 1.
    [(32, 8, 16), (32, 12, 16), (32, 13, 15), (32, 15, 13), (32, 20, 8), (16, 0, 8), (64, 0, 32)],
)
def test_a_long_question_keeps_half_of_the_input_or_what_the_windows_leave(tokenizer, max_length, doc_stride, most):
    pieces = split(tokenizer, LONG)
    assert len(pieces) > 64
    (shown,), are_cut = cut_questions(tokenizer, [LONG], max_length, doc_stride)
    assert are_cut == [True] and LONG.startswith(shown)
    assert split(tokenizer, shown) == pieces[:most]
    # It goes through the tokenizer with windows that share doc_stride pieces.
    windows = tokenizer(
        [shown], ["Ada left. " * 40], truncation="only_second", max_length=max_length, stride=doc_stride,
        return_overflowing_tokens=True,
    )["input_ids"]  # fmt: skip
    assert len(windows) > 2 and max(map(len, windows)) == max_length


def test_questions_that_fit_stay_as_they_are(tokenizer):
    words = LONG.split()
    generator = random.Random(3)
    questions = ["  ".join(generator.choices(words, k=k)) + " " for k in range(1, 30)]
    lengths = [len(split(tokenizer, question)) for question in questions]
    assert min(lengths) < 16 < max(lengths)
    shown, are_cut = cut_questions(tokenizer, questions, 32, 8)
    assert are_cut == [length > 16 for length in lengths]
    for question, text, is_cut in zip(questions, shown, are_cut, strict=True):
        assert (text == question) is not is_cut


def test_a_question_of_just_as_many_pieces_is_not_cut(tokenizer):
    assert split(tokenizer, "Who lives") == ["Who", "lives"]
    exact, longer = "Who lives " * 8, "Who lives " * 8 + "in"
    assert cut_questions(tokenizer, [exact, longer], 32, 8) == ([exact, ("Who lives " * 8)[:-1]], [False, True])


def test_a_stride_that_leaves_no_room_for_questions_is_refused_with_one_that_does(tokenizer):
    with pytest.raises(UserError, match="doc_stride 21 .*max_seq_length 32: set it to 20 or less"):
        cut_questions(tokenizer, ["Who?"], 32, 21)
    cut_questions(tokenizer, ["Who?"], 32, 20)


def test_where_no_stride_leaves_room_none_is_proposed(tokenizer):
    """Half of 15 pieces is less than a question needs, whatever the stride."""
    assert 15 // 2 < SHORTEST_QUESTION
    with pytest.raises(UserError) as caught:
        cut_questions(tokenizer, ["Who?"], 15, 0)
    assert str(caught.value) == "max_seq_length is 15: set it to 16 or more, to hold a question."


def build_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a piece, as rare characters are in byte-level tokenizers."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.model = BPE({letter: number for number, letter in enumerate(["<s>", "</s>", *letters])}, [])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("doc_stride", [8, 16, 17, 18, 19, 20])
def test_a_cut_question_is_never_longer_than_its_room_where_a_character_is_several_pieces(doc_stride):
    """One piece too many and the tokenizer panics, since a window then no longer gets further than it overlaps."""
    tokenizer = build_byte_tokenizer()
    questions = ["😀" * 30, "a" + "😀" * 30, "ab" + "北京" * 30, "é" * 60]
    pieces = tokenizer(questions, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in pieces] == [len(question.encode()) for question in questions]
    shown, are_cut = cut_questions(tokenizer, questions, 32, doc_stride)
    assert are_cut == [True] * 4
    for question, text in zip(questions, shown, strict=True):
        assert text and question.startswith(text) and len(text.encode()) <= min(16, 32 - 3 - doc_stride - 1)


# What the windows do


def build_windows(rows: list[tuple]) -> Dataset:
    """Windows from (row, labels, question_is_cut); their contexts begin at piece 4."""
    return Dataset.from_list(
        [
            {"row": question, "labels": labels, "question_is_cut": is_cut, "context_start": 4}
            for question, labels, is_cut in rows
        ]
    )


def test_windows_are_described_by_what_they_add_lose_and_cut():
    train = build_windows(
        [
            (0, [0, 0], False), (0, [6, 7], False),  # held by one of two windows
            (1, [0, 0], True), (1, [0, 0], True), (1, [0, 0], True),  # held by none, and its question is cut
            (2, [0, 0], False),  # has no answer
            (3, [-100, -100], False),  # is not in its context
            (4, [4, 4], True),  # at the first piece of the context
        ]
    )  # fmt: skip
    validation = build_windows(
        [(0, [0, 0, 4, 9, 0], False), (1, [-100, -100, 4, 9, 0], False), (1, [-100, -100, 4, 9, 0], False)]
    )
    questions = DatasetDict(
        {
            "train": Dataset.from_dict({"answer_starts": [[3], [50, 1], [], [-1], [0]]}),
            "validation": Dataset.from_dict({"answer_starts": [[8], None]}),
        }
    )
    windows = DatasetDict({"train": train, "validation": validation})
    assert describe_windows(windows, questions, 384) == (
        "up to 384 pieces, 4 more than questions; 2 answers fit into no window, 1 are not in their context, "
        "2 questions are cut"
    )


def test_nothing_is_lost_where_every_question_has_one_window_with_its_answer():
    windows = DatasetDict({"test": build_windows([(0, [5, 5, 4, 9, 0], False), (1, [0, 0, 4, 9, 0], False)])})
    questions = DatasetDict({"test": Dataset.from_dict({"answer_starts": [[8], []]})})
    assert describe_windows(windows, questions, 64) == (
        "up to 64 pieces, 0 more than questions; 0 answers fit into no window, 0 are not in their context, "
        "0 questions are cut"
    )


def test_an_answer_whose_second_text_has_a_place_is_lost_where_no_window_holds_it():
    """The first text stands nowhere in the context: the recipe trains on the second one."""
    windows = DatasetDict({"train": build_windows([(0, [0, 0], False)])})
    questions = DatasetDict({"train": Dataset.from_dict({"answer_starts": [[-1, 70]]})})
    assert describe_windows(windows, questions, 64) == (
        "up to 64 pieces, 0 more than questions; 1 answers fit into no window, 0 are not in their context, "
        "0 questions are cut"
    )
