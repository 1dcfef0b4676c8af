"""common/slices.py: intervals and parts of the rows in the outcome of a run."""

from common.results import Outcome
from common.slices import add_intervals, group_by_length, report_slices
from common.tallies import tally_predictions

import pytest

RECIPE = {"task": "text-classification", "labels": ["bad", "good"]}


def make_rows(*rights: bool, texts=None) -> list[dict]:
    texts = texts or ["x" * (length + 1) for length in range(len(rights))]
    return [
        {"id": str(n), "text": text, "label": "good", "predicted_label": "good" if right else "bad"}
        for n, (text, right) in enumerate(zip(texts, rights, strict=True))
    ]


# Intervals


def test_headline_scores_get_intervals_around_them():
    outcome = Outcome("text-classification", ["accuracy", "mcc"], metrics={"test_accuracy": 0.75, "test_mcc": 0.0})
    add_intervals(outcome, "test", tally_predictions(RECIPE, make_rows(True, True, False, True) * 10))
    assert list(outcome.metrics["test_intervals"]) == ["accuracy", "mcc"]
    low, high = outcome.list_intervals("test")["accuracy"]
    assert 0.55 < low < 0.75 < high < 0.95
    assert outcome.list_intervals("validation") == {}


def test_a_score_that_a_copied_recipe_computes_otherwise_gets_none():
    outcome = Outcome("text-classification", ["accuracy", "kappa"], metrics={"test_accuracy": 0.7, "test_kappa": 0.1})
    add_intervals(outcome, "test", tally_predictions(RECIPE, make_rows(True, True, False, True)))
    assert "test_intervals" not in outcome.metrics


@pytest.mark.parametrize("rows", [[], [{"id": "0", "text": "t", "predicted_label": "good"}], [{"other": 1}]])
def test_predictions_without_gold_or_of_another_shape_get_nothing(rows):
    outcome = Outcome("text-classification", ["accuracy"])
    tallied = tally_predictions(RECIPE, rows)
    add_intervals(outcome, "test", tallied)
    report_slices(outcome, "test", tallied)
    assert outcome == Outcome("text-classification", ["accuracy"])


# Parts of the rows


def test_scores_are_reported_by_quarters_of_the_length():
    outcome = Outcome("text-classification", ["accuracy"])
    rights = [True] * 4 + [True, True, True, False] + [True, True, False, False] + [False] * 4
    rows = make_rows(*rights)[::-1] + [{"id": "u", "text": "x" * 99}]
    report_slices(outcome, "test", tally_predictions(RECIPE, rows))
    assert outcome.slices == {
        "test accuracy by length of the text": {
            "1-4 characters (4)": 1.0, "5-8 characters (4)": 0.75, "9-12 characters (4)": 0.5,
            "13-16 characters (4)": 0.0,
        }
    }  # fmt: skip
    table = outcome.tables["test: accuracy of parts of the rows"]
    assert table[0] == {"by": "length of the text", "part": "1-4 characters", "rows": 4, "accuracy": 1.0}
    assert len(table) == 4 and outcome.spreads == {}


def test_texts_of_one_length_are_never_in_two_groups_and_none_is_lost():
    lengths = [3] * 12 + [5, 6, 7, 7]
    assert group_by_length(["x" * length for length in lengths]) == {
        "3 characters": [*range(12)],
        "5-7 characters": [12, 13, 14, 15],
    }
    assert group_by_length(["xx"] * 16) == {"2 characters": [*range(16)]}


def test_few_rows_have_no_groups_by_length():
    assert group_by_length(["x" * length for length in range(15)]) == {}


def test_rows_with_and_without_chinese_characters_are_told_apart():
    outcome = Outcome("text-classification", ["accuracy"])
    rows = make_rows(True, False, True, texts=["很好", "bad", "好 good"])
    report_slices(outcome, "test", tally_predictions(RECIPE, rows))
    assert outcome.tables["test: accuracy of parts of the rows"] == [
        {"by": "script", "part": "Chinese characters", "rows": 2, "accuracy": 1.0},
        {"by": "script", "part": "no Chinese characters", "rows": 1, "accuracy": 0.0},
    ]
    assert outcome.slices == {}


def test_questions_are_grouped_by_their_word_in_both_languages():
    rows = [
        {"question": "Who is it?", "answers": ["Ada"], "predicted_answer": "Ada"},
        {"question": "谁来了？", "answers": ["小王"], "predicted_answer": "小"},
        {"question": "Where is it?", "answers": ["here"], "predicted_answer": "there"},
    ]
    outcome = Outcome("question-answering", ["f1"])
    report_slices(outcome, "test", tally_predictions({"task": "question-answering", "language": None}, rows))
    table = [row for row in outcome.tables["test: f1 of parts of the rows"] if row["by"] == "question word"]
    assert [(row["part"], row["rows"], row["f1"]) for row in table] == [
        ("who", 2, pytest.approx(5 / 6)),
        ("where", 1, 0.0),
    ]


def test_scores_of_single_generated_texts_are_kept_for_a_histogram():
    rows = [{"source": "a", "target": "ein Hund", "predicted_target": text} for text in ("ein Hund", "xyz")]
    recipe = {"task": "translation", "target_lang": "de", "bleu_tokenizer": None, "ter": False}
    outcome = Outcome("translation", ["bleu"])
    report_slices(outcome, "test", tally_predictions(recipe, rows))
    assert outcome.spreads == {"test chrf of single texts": [pytest.approx(100.0), pytest.approx(0.0, abs=1e-6)]}
