"""common/panels.py: what W&B gets to show, against counts by hand and scikit-learn."""

from common.panels import draw_confusions, draw_precision_recall, list_panels, make_table, unfold
from common.results import Outcome
from tests.conftest import write_jsonl

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve


def read_chart(chart) -> list[list]:
    return chart.table.data


def test_a_table_has_the_columns_of_all_rows_and_cuts_long_texts():
    table = make_table([{"id": "1", "tokens": ["小", "林"]}, {"id": "2", "text": "x" * 401, "score": 0.5}])
    assert table.columns == ["id", "tokens", "text", "score"]
    assert table.data == [["1", '["小", "林"]', None, None], ["2", None, "x" * 400 + " ...", 0.5]]


def test_a_column_may_hold_numbers_and_texts():
    assert make_table([{"value": 1}, {"value": "none"}]).data == [[1], ["none"]]


def test_a_dialogue_has_a_row_for_each_reply():
    replies = [{"turn": 1, "reply": "Hi."}, {"turn": 3, "reply": "Bye."}]
    assert unfold({"id": "d", "replies": replies}) == [{"id": "d", **reply} for reply in replies]
    tagged = {"id": "s", "tokens": ["Ada"], "entities": [{"type": "PER"}]}
    assert unfold(tagged) == [tagged]


def test_confusions_are_drawn_from_their_counts():
    chart = draw_confusions("test confusion matrix", ["bad", "good"], [[3, 1], [0, 2]])
    assert read_chart(chart) == [["bad", "bad", 3], ["bad", "good", 1], ["good", "bad", 0], ["good", "good", 2]]


def test_precision_over_recall_is_the_best_that_a_threshold_with_this_recall_reaches():
    random = np.random.default_rng(0)
    gold, scores = random.integers(0, 2, 60), random.random(60).round(2)
    rows = [
        {"label": "yes" if is_yes else "no", "scores": {"yes": score, "no": 1 - score}}
        for is_yes, score in zip(gold, scores, strict=True)
    ]
    points = read_chart(draw_precision_recall("curve", rows))
    assert {name for name, _, _ in points} == {"no", "yes"} and len(points) == 2 * 101
    precision, recall = (values[:-1] for values in precision_recall_curve(gold, scores)[:2])
    for name, wanted, height in points:
        if name == "yes":
            assert height == pytest.approx(max(precision[recall >= wanted]))


def test_several_labels_have_a_curve_each_and_one_without_gold_rows_has_none():
    rows = [
        {"labels": ["a", "b"], "scores": {"a": 0.9, "b": 0.2, "c": 0.1}},
        {"labels": [], "scores": {"a": 0.3, "b": 0.6, "c": 0.1}},
    ]
    points = read_chart(draw_precision_recall("curve", rows))
    assert {name for name, _, _ in points} == {"a", "b"}
    assert {height for name, _, height in points if name == "a"} == {1.0}
    assert {height for name, _, height in points if name == "b"} == {0.5}  # both rows, to find the one


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "1", "predicted_tags": ["O"]}],
        [{"scores": {"a": 0.9, "b": 0.1}}],  # no gold label
        [{"label": "a", "scores": {"a": 0.9, "b": 0.1}}, {"label": "a", "scores": {"a": 0.9, "c": 0.1}}],
    ],
)
def test_without_labels_or_with_the_best_of_many_classes_there_is_no_curve(rows):
    assert draw_precision_recall("curve", rows) is None


def test_the_panels_are_those_of_the_outcome_and_the_first_rows_of_the_predictions(tmp_path):
    rows = [{"id": str(n), "label": "a", "scores": {"a": 0.75, "b": 0.25}} for n in range(9)]
    write_jsonl(tmp_path / "predictions_test.jsonl", rows)
    outcome = Outcome("text-classification", ["f1"], bars={"test F1 by class": {"a": 1.0}}, slices={"empty": {}})
    outcome.tables = {"test: surest mistakes": [], "test: classes": [{"class": "a", "f1": 1.0}]}
    outcome.add_confusions("test", ["a", "b"], [[9, 0], [0, 0]])
    panels = list_panels(outcome, tmp_path, most_rows=4)
    assert sorted(panels) == [
        "charts/test F1 by class", "charts/test confusion matrix", "charts/test precision and recall",
        "predictions/test", "tables/test classes",
    ]  # fmt: skip
    assert [row[0] for row in panels["predictions/test"].data] == ["0", "1", "2", "3"]
    assert "predictions/test" not in list_panels(outcome, tmp_path, most_rows=0)
