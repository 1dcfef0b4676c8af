import json
import math
import random
from types import SimpleNamespace

from common.answers import (
    WORST,
    choose_null_threshold,
    list_wrong_answers,
    pick_answers,
    score_answers,
    score_kinds,
    tune_null_threshold,
)

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

TEXT = Value("string")
FEATURES = Features({"id": TEXT, "question": TEXT, "context": TEXT, "answers": List(TEXT)})
CONTEXT = "alpha beta gamma"  # alpha 0-5, beta 6-10, gamma 11-16


def build_questions(*answers, context: str = CONTEXT) -> Dataset:
    rows = [{"id": f"q{i}", "question": "Who?", "context": context, "answers": gold} for i, gold in enumerate(answers)]
    return Dataset.from_list(rows, features=FEATURES)


def rank(*spans: tuple, null_score: float = 0.0) -> dict:
    """The ranked spans of a question, from (score, start, end)."""
    return {"spans": list(spans), "null_score": null_score}


# Picking


def test_the_best_span_is_the_answer_with_its_place_and_probability():
    """Scores log 3 and log 1: of 4 parts the better span has 3."""
    (row,) = pick_answers([rank((math.log(3), 6, 16), (0.0, 0, 5))], build_questions(["beta"]), None)
    assert row == {
        "id": "q0", "question": "Who?", "answers": ["beta"], "predicted_answer": "beta gamma", "score": 0.75,
        "null_score": -1.0986, "start": 6, "end": 16,
    }  # fmt: skip


def test_with_a_threshold_no_answer_has_its_part_of_the_probability():
    """Scores log 3, log 1 and log 4 for none."""
    ranked = [rank((math.log(3), 6, 16), (0.0, 0, 5), null_score=math.log(4))]
    questions = build_questions(["beta"])
    (none,) = pick_answers(ranked, questions, 0.0)
    assert (none["predicted_answer"], none["score"], none["start"], none["end"]) == ("", 0.5, None, None)
    (some,) = pick_answers(ranked, questions, 0.5)
    assert (some["predicted_answer"], some["score"], some["start"], some["end"]) == ("beta gamma", 0.375, 6, 16)
    (always,) = pick_answers(ranked, questions, None)
    assert (always["predicted_answer"], always["score"]) == ("beta gamma", 0.75)
    # By how much none is better than the best span: log 4 - log 3.
    assert none["null_score"] == some["null_score"] == always["null_score"] == 0.2877


@pytest.mark.parametrize(
    ("null_threshold", "texts"),
    [(None, ["alpha"] * 3), (-2, [""] * 3), (0, ["alpha", "", ""]), (1, ["alpha", "alpha", ""]), (3, ["alpha"] * 3)],
)
def test_above_the_threshold_there_is_no_answer_and_on_it_there_is(null_threshold, texts):
    ranked = [rank((5.0, 0, 5), null_score=5.0 + difference) for difference in (-1, 1, 3)]
    rows = pick_answers(ranked, build_questions([], [], []), null_threshold)
    assert [row["predicted_answer"] for row in rows] == texts
    assert [row["null_score"] for row in rows] == [-1, 1, 3]


def test_rows_keep_the_order_of_the_questions_and_only_labelled_ones_have_answers():
    ranked = [rank((1.0, 0, 5)), rank((1.0, 6, 10)), rank((1.0, 11, 16))]
    rows = pick_answers(ranked, build_questions(None, [], ["a", "b"]), None)
    assert [row["predicted_answer"] for row in rows] == ["alpha", "beta", "gamma"]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2"]
    assert "answers" not in rows[0] and rows[1]["answers"] == [] and rows[2]["answers"] == ["a", "b"]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (2, 9, ("alpha", 3, 8)),  # spaces at both ends
        (3, 8, ("alpha", 3, 8)),
        (0, 5, ("al", 3, 5)),
        (8, 15, ("b c", 11, 14)),  # tab, ideographic and no-break spaces; those within stay
        (0, 14, ("alpha \t\u3000b c", 3, 14)),
    ],
)
def test_spaces_around_an_answer_are_left_out_of_its_place_as_well(start, end, expected):
    context = "  \nalpha \t\u3000b c\u00a0"
    (row,) = pick_answers([rank((1.0, start, end))], build_questions(None, context=context), None)
    assert (row["predicted_answer"], row["start"], row["end"]) == expected
    assert context[row["start"] : row["end"]] == row["predicted_answer"]


def test_the_place_always_holds_the_answer():
    generator = random.Random(4)
    context = "".join(generator.choices("ab  \n\t\u3000北é😀", k=60))
    spans = [(score, start, start + generator.randrange(1, 9)) for score, start in enumerate(range(0, 50))][::-1]
    (row,) = pick_answers([rank(*spans)], build_questions(None, context=context), None, n_best=50)
    assert 30 < len(row["n_best"]) < 50
    places = [(found["start"], found["end"]) for found in row["n_best"]]
    # What differs in spaces only is one answer, and spaces alone are none.
    trimmed = [(start + len(text) - len(text.lstrip()), start + len(text.rstrip())) for start, text in
               ((start, context[start:end]) for _, start, end in spans) if text.strip()]  # fmt: skip
    assert places == list(dict.fromkeys(trimmed))
    assert all(found["text"] == context[found["start"] : found["end"]] for found in row["n_best"])


@pytest.mark.parametrize(("n_best", "expected"), [(2, 2), (3, 3), (9, 3)])
def test_the_best_spans_are_listed_with_their_probabilities(n_best, expected):
    spans = [(math.log(5), 0, 5), (math.log(2), 6, 10), (0.0, 11, 16)]
    for null_threshold, null_score, parts in ((None, 9.0, 8), (0.0, math.log(2), 10), (0.0, math.log(12), 20)):
        (row,) = pick_answers([rank(*spans, null_score=null_score)], build_questions([]), null_threshold, n_best)
        listed = [{"text": text, "start": start, "end": end, "score": round(part / parts, 4)} for text, start, end, part
                  in (("alpha", 0, 5, 5), ("beta", 6, 10, 2), ("gamma", 11, 16, 1))]  # fmt: skip
        assert row["n_best"] == listed[:expected]
        assert row["predicted_answer"] == ("" if parts == 20 else "alpha")


def test_a_single_best_span_is_not_listed():
    (row,) = pick_answers([rank((1.0, 0, 5))], build_questions(None), None, n_best=1)
    assert "n_best" not in row


@pytest.mark.parametrize("null_threshold", [None, 0.0])
def test_probabilities_are_those_of_a_softmax_and_sum_to_at_most_1(null_threshold):
    generator = np.random.default_rng(0)
    for _ in range(200):
        scores = np.sort(generator.normal(size=generator.integers(1, 12)) * generator.choice([1, 10, 1000]))[::-1]
        null_score = float(generator.normal() * 10)
        starts = [0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13]  # of other texts, all of them
        spans = [(float(score), start, 16) for score, start in zip(scores, starts, strict=False)]
        (row,) = pick_answers([rank(*spans, null_score=null_score)], build_questions(None), null_threshold, 12)
        everything = [*scores, null_score] if null_threshold is not None else list(scores)
        largest = max(everything)
        total = math.fsum(math.exp(score - largest) for score in everything)
        expected = [math.exp(score - largest) / total for score in scores]
        listed = [found["score"] for found in row["n_best"]]
        assert listed == pytest.approx(expected, abs=5.1e-5)  # four digits
        assert sum(listed) <= 1 + 5e-5 * len(listed) and all(0 <= score <= 1 for score in listed)


@pytest.mark.parametrize(("null_threshold", "score"), [(None, 0.0), (0.0, 1.0), (1e9, 1.0)])
def test_without_any_span_there_is_no_answer(null_threshold, score):
    (row,) = pick_answers([rank(null_score=-3.0)], build_questions(["alpha"]), null_threshold, n_best=5)
    assert (row["predicted_answer"], row["score"], row["start"], row["end"]) == ("", score, None, None)
    assert row["n_best"] == []


def test_rows_without_any_span_are_json_as_well():
    """Infinity, which json.dumps writes, is none: other readers refuse the file."""
    for null_threshold in (None, 0.0):
        rows = pick_answers([rank(null_score=-3.0)], build_questions(["alpha"]), null_threshold)
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows


# The threshold


@pytest.mark.parametrize(
    ("named", "saved", "do_train", "answers", "expected"),
    [
        (1.5, {"null_threshold": 3.0}, True, [["a"], []], 1.5),
        (1.5, {"null_threshold": 3.0}, False, [["a"], []], 1.5),
        (0.0, {"null_threshold": 3.0}, False, [["a"]], 0.0),
        (None, {"null_threshold": 3.0}, False, [["a"]], 3.0),
        (None, {"null_threshold": None}, False, [["a"], []], None),
        (None, {"null_threshold": 3.0}, True, [["a"], []], 0.0),  # to be trained anew
        (None, {}, False, [["a"], []], 0.0),
        (None, {}, True, [["a"], None], None),
        (None, {}, False, [None, None], None),
    ],
)
def test_the_threshold_to_begin_with(named, saved, do_train, answers, expected):
    splits = DatasetDict({"train": build_questions(["b"]), "validation": build_questions(*answers)})
    assert choose_null_threshold(named, SimpleNamespace(**saved), splits, do_train) == expected


# A gold answer and a span of the context, with the F1 that the span then has.
CASES = [
    (["alpha"], (0, 5), 1.0),
    (["alpha"], (0, 10), 2 / 3),  # 1 of 2 words, 1 of 1
    (["beta"], (0, 16), 1 / 2),  # 1 of 3, 1 of 1
    (["gamma"], (0, 10), 0.0),
    (["x", "beta"], (6, 10), 1.0),
    ([], (0, 5), 0.0),
    ([], (6, 16), 0.0),
]


def draw_ranked(generator: random.Random, rows: int) -> tuple[list[dict], Dataset, list[tuple]]:
    """Ranked spans and questions, and (null score, F1 with an answer, F1 without one) of the labelled ones."""
    ranked, answers, values = [], [], []
    step = generator.choice([1.0, 0.25, 0.001])  # few different null scores, so that many are equal
    for _ in range(rows):
        gold, span, f1 = generator.choice(CASES)
        null_score = generator.randrange(-8, 8) * step
        best = float(generator.randrange(-3, 3))
        ranked.append(rank((best, *span), (best - 1, 0, 16), null_score=best + null_score))
        is_labelled = generator.random() < 0.8
        answers.append(gold if is_labelled else None)
        if is_labelled:
            values.append((null_score, f1, float(not gold)))
    return ranked, build_questions(*answers), values


def test_the_tuned_threshold_is_as_good_as_the_best_of_all():
    generator = random.Random(6)
    outcomes = {"none": 0, "some": 0, "all": 0}
    for _ in range(120):
        ranked, questions, values = draw_ranked(generator, generator.randrange(1, 14))
        if not any(empty for _, _, empty in values):
            assert tune_null_threshold(ranked, questions, "en") is None
            outcomes["none"] += 1
            continue

        def average(threshold: float, values=values) -> float:
            return sum(f1 if score <= threshold else empty for score, f1, empty in values) / len(values)

        scores = sorted({score for score, _, _ in values})
        best = max(average(threshold) for threshold in [scores[0] - 1, *scores])
        tuned = tune_null_threshold(ranked, questions, "en")
        assert average(tuned) == pytest.approx(best), (tuned, values)
        assert score_answers(pick_answers(ranked, questions, tuned), "en")["f1"] == pytest.approx(best)
        assert min(abs(tuned - score) for score in scores) > 1e-4  # between the scores and on none
        outcomes["all" if tuned > scores[-1] else "some"] += 1
    assert min(outcomes.values()) > 5, outcomes


@pytest.mark.parametrize(
    ("null_scores", "answers", "expected"),
    [
        ([1.0, 4.0], [["alpha"], []], 2.5),  # half-way
        ([4.0, 1.0], [[], ["alpha"]], 2.5),
        ([1.0, 4.0], [[], ["beta"]], 0.0),  # nothing is gained by an answer: below all of them
        ([1.0, 2.0, 4.0], [["alpha"], [], ["alpha"]], 1.5),  # as good as above all of them, and lower
        ([1.0, 2.0, 2.0, 4.0], [["alpha"], [], ["alpha"], []], 1.5),  # equal ones are not separated
        ([1.0, 2.0, 2.0, 2.0, 4.0], [["alpha"], ["alpha"], [], ["alpha"], []], 3.0),
        ([-7.0, 1.0, 3.0, 4.0], [None, ["alpha"], None, []], 2.5),  # unlabelled ones do not count
        ([2.0], [[]], 1.0),
    ],
)
def test_the_tuned_threshold_by_hand(null_scores, answers, expected):
    ranked = [rank((0.0, 0, 5), null_score=score) for score in null_scores]
    assert tune_null_threshold(ranked, build_questions(*answers), "en") == expected


@pytest.mark.parametrize("answers", [[["alpha"], ["beta"]], [["alpha"], None], [None, None]])
def test_there_is_no_threshold_where_nothing_tells_it(answers):
    assert tune_null_threshold([rank((0.0, 0, 5))] * 2, build_questions(*answers), "en") is None


def test_the_threshold_is_tuned_in_the_language_that_is_scored():
    """北京大学 for 北京 is 2/3 right by characters, and wrong as a word."""
    questions = build_questions(["北京"], [], context="北京大学")
    ranked = [rank((0.0, 0, 4), null_score=score) for score in (1.0, 4.0)]
    assert tune_null_threshold(ranked, questions, "zh") == tune_null_threshold(ranked, questions, None) == 2.5
    assert tune_null_threshold(ranked, questions, "en") == 0.0


@pytest.mark.parametrize("null_scores", [(1.0, None), (None, 1.0), (None, None)])
def test_the_tuned_threshold_is_a_number_where_a_question_has_no_span(null_scores):
    """It is saved in config.json."""
    ranked = [rank(null_score=1.0) if score is None else rank((0.0, 0, 5), null_score=score) for score in null_scores]
    assert math.isfinite(tune_null_threshold(ranked, build_questions(["alpha"], []), "en"))


# Scores and what is shown


def make_row(predicted: str, score: float = 0.5, question: str = "Who?", **answers) -> dict:
    return {"id": "x", "question": question, "predicted_answer": predicted, "score": score, **answers}


def test_unlabelled_rows_do_not_count():
    rows = [
        make_row("alpha", answers=["alpha"]), make_row("alpha beta", answers=["beta"]), make_row("alpha"),
        make_row("", answers=[]), make_row("alpha", answers=[]), make_row(""),
    ]  # fmt: skip
    assert score_answers(rows, "en") == pytest.approx(
        {
            "exact_match": 2 / 4, "f1": (1 + 2 / 3 + 1) / 4,
            "exact_match_answerable": 1 / 2, "f1_answerable": (1 + 2 / 3) / 2, "f1_unanswerable": 1 / 2,
        }
    )  # fmt: skip
    assert score_answers(rows[:2] + rows[2:3], "en") == pytest.approx({"exact_match": 0.5, "f1": 5 / 6})


def test_without_labelled_rows_there_are_no_scores():
    assert score_answers([make_row("alpha"), make_row("")], "en") == score_answers([], None) == {}


def test_wrong_answers_are_the_least_right_and_then_the_most_certain_ones():
    rows = [
        make_row("alpha beta", 0.9, "half right", answers=["beta"]),
        make_row("Beta.", 0.9, "right", answers=["beta"]),
        make_row("alpha", 0.2, "wrong, not certain", answers=["beta", "gamma", "beta"]),
        make_row("alpha", 0.8, "wrong, certain", answers=["beta"]),
        make_row("alpha", 0.5, "has none", answers=[]),
        make_row("", 0.4, "has one", answers=["beta"]),
        make_row("", 0.9, "has none, rightly", answers=[]),
        make_row("alpha", 0.9, "unlabelled"),
    ]
    assert list_wrong_answers(rows, "en") == [
        {"F1": 0.0, "score": 0.8, "question": "wrong, certain", "answer": "alpha", "gold": "beta"},
        {"F1": 0.0, "score": 0.5, "question": "has none", "answer": "alpha", "gold": "(none)"},
        {"F1": 0.0, "score": 0.4, "question": "has one", "answer": "(none)", "gold": "beta"},
        {"F1": 0.0, "score": 0.2, "question": "wrong, not certain", "answer": "alpha", "gold": "beta | gamma"},
        {"F1": pytest.approx(2 / 3), "score": 0.9, "question": "half right", "answer": "alpha beta", "gold": "beta"},
    ]


def test_only_the_worst_answers_are_listed():
    rows = [make_row("alpha", score / 100, answers=["beta"]) for score in range(60)]
    listed = list_wrong_answers(rows, "en")
    assert [row["score"] for row in listed] == [score / 100 for score in range(59, 59 - WORST, -1)]
    assert list_wrong_answers([make_row("beta", answers=["beta"])], "en") == []


def test_the_f1_of_question_words_is_that_of_their_labelled_questions():
    rows = [
        make_row("alpha", question="Who left?", answers=["alpha"]),
        make_row("beta", question="WHO came?", answers=["alpha"]),
        make_row("alpha beta", question="Who is it?", answers=["beta"]),
        make_row("alpha", question="Who is not labelled?"),
        make_row("", question="how many seats", answers=[]),
        make_row("6", question="How many rooms are there?", answers=["7"]),
        make_row("6", question="Name a number.", answers=["6"]),
    ]
    # Who: 1, 0 and 2/3; the unlabelled one does not count.
    assert score_kinds(rows, "en") == pytest.approx({"who (3)": 5 / 9, "how many (2)": 0.5, "other (1)": 1.0})


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who left?", "who"),
        ("When did Ada leave?", "when"),
        ("how much is it?", "how much"),
        ("How many are there?", "how many"),
        ("How did she leave?", "how"),
        ("Whose house is it?", "whose"),
        ("By whom was it built?", "whom"),
        ("In which city is it?", "which"),
        ("What happened?", "what"),
        ("Who's there?", "who"),
        ("It stands (where)?", "where"),
        ("Why,or how?", "why"),
        ("Show the whole, somehow, nowhere", "other"),
        ("", "other"),
        # Chinese
        ("谁开了书店？", "who"),
        ("书店是谁开的？", "who"),
        ("书店是什么时候开的？", "when"),
        ("哪一年开的？", "when"),
        ("创办于何时？", "when"),
        ("为什么关门？", "why"),
        ("为何关门？", "why"),
        ("书店在哪里？", "where"),
        ("书店在什么地方？", "where"),
        ("里面有几间教室？", "how many"),
        ("有多少座位？", "how many"),
        ("怎么去？", "how"),
        ("如何去？", "how"),
        ("哪家最有名？", "which"),
        ("最有名的是什么？", "what"),
        ("请写出名字。", "other"),
    ],
)
def test_questions_are_told_apart_by_their_question_word(question, kind):
    assert score_kinds([make_row("北京", question=question, answers=["北京"])], None) == {f"{kind} (1)": 1.0}


def test_chinese_questions_are_scored_by_characters_and_together_with_english_ones():
    rows = [
        make_row("北京大学", question="他在哪里？", answers=["北京"]),
        make_row("Beijing", question="Where is he?", answers=["Beijing"]),
    ]
    assert score_kinds(rows, "zh") == score_kinds(rows, None) == pytest.approx({"where (2)": 5 / 6})
    assert score_kinds(rows, "en") == pytest.approx({"where (2)": 1 / 2})


def test_without_labelled_rows_there_is_no_question_word():
    assert score_kinds([make_row("alpha")], None) == {}
