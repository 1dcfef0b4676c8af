"""common/tallies.py: the scores of parts of the rows are those of the metrics, which have references of their own."""

from common.calibration import Calibration
from common.metrics.answers import AnswerMetric
from common.metrics.classes import ClassMetric
from common.metrics.entities import EntityMetric
from common.metrics.replies import Replies
from common.metrics.summaries import Summaries
from common.metrics.translations import Translations
from common.tagging import repair_iob2
from common.tallies import list_entries, show_entry, tally_predictions

import numpy as np
import pytest

NAMES = ["bad", "fine", "good", "never"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "猫", "坐", "在", "垫子"]


def draw_texts(rows: int, seed: int, words=WORDS) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, size=generator.integers(1, 9))) for _ in range(rows)]


def draw_tags(rows: int, seed: int) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    names = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    return [repair_iob2(generator.choice(names, size=number).tolist()) for number in range(1, rows + 1)]


def make_classified(rows: int = 60) -> tuple[dict, list[dict]]:
    generator = np.random.default_rng(0)
    recipe = {"task": "text-classification", "labels": NAMES}
    return recipe, [
        {"text": "t", "label": NAMES[gold], "predicted_label": NAMES[predicted]}
        for gold, predicted in generator.integers(3, size=(rows, 2)).tolist()
    ]


def make_several(rows: int = 60) -> tuple[dict, list[dict]]:
    generator = np.random.default_rng(1)
    recipe = {"task": "text-classification", "labels": NAMES}
    chosen = generator.random((rows, 2, 4)) < [0.5, 0.3, 0.2, 0.0]
    lists = [[[name for name, has in zip(NAMES, part, strict=True) if has] for part in row] for row in chosen]
    return recipe, [{"text": "t", "labels": gold, "predicted_labels": predicted} for gold, predicted in lists]


def number(names: list[str]) -> list[int]:
    return [NAMES.index(name) for name in names]


def score_classes(rows: list[dict], several: bool) -> dict[str, float]:
    gold, predicted = (
        [row[f"{prefix}labels"] if several else [row[f"{prefix}label"]] for row in rows]
        for prefix in ("", "predicted_")
    )
    probabilities = np.zeros((len(rows), 4))
    for row, names in enumerate(predicted):
        probabilities[row, number(names)] = 1.0
    thresholds = [0.5] * 4 if several else Calibration().thresholds
    metric = ClassMetric(NAMES, thresholds)
    return metric.compute(predictions=probabilities.tolist(), references=[number(names) for names in gold])


def make_generated(task: str, names: tuple[str, str], seed: int, **facts) -> tuple[dict, list[dict]]:
    source, target = names
    columns = draw_texts(40, seed), draw_texts(40, seed + 1), draw_texts(40, seed + 2)
    rows = [
        dict(zip((source, target, f"predicted_{target}"), texts, strict=True)) for texts in zip(*columns, strict=True)
    ]
    rows[0][f"predicted_{target}"], rows[1][f"predicted_{target}"] = rows[0][target], ""
    return {"task": task, **facts}, rows


def make_translated(target_lang: str = "zh"):
    return make_generated(
        "translation", ("source", "target"), 10, target_lang=target_lang, bleu_tokenizer=None, ter=False
    )


def make_summarized():
    return make_generated("summarization", ("document", "summary"), 20, language="zh")


def make_answered(language=None):
    recipe, rows = make_generated("question-answering", ("question", "answer"), 30, language=language)
    for index, row in enumerate(rows):
        gold = row.pop("answer")
        row["answers"] = [] if index % 5 == 0 else [gold, gold.split()[0]]
    return recipe, rows


def make_tagged():
    rows = zip(draw_tags(40, 2), draw_tags(40, 3), strict=True)
    return {"task": "token-classification"}, [
        {"tokens": ["w"] * len(gold), "tags": gold, "predicted_tags": predicted} for gold, predicted in rows
    ]


def score_texts(metric, rows: list[dict], name: str) -> dict[str, float]:
    return metric.compute(
        predictions=[row[f"predicted_{name}"] for row in rows], references=[row[name] for row in rows]
    )


def score_sentences(rows: list[dict]) -> dict[str, float]:
    return EntityMetric().compute(
        predictions=[row["predicted_tags"] for row in rows], references=[row["tags"] for row in rows]
    )


def score_answers(rows: list[dict], language=None) -> dict[str, float]:
    return AnswerMetric(language).compute(
        predictions=[row["predicted_answer"] for row in rows], references=[row["answers"] for row in rows]
    )


CASES = {
    "one label": (make_classified, lambda rows: score_classes(rows, False), ["accuracy", "f1_macro", "mcc"]),
    "several labels": (make_several, lambda rows: score_classes(rows, True), ["accuracy", "f1_macro", "mcc"]),
    "entities": (make_tagged, score_sentences, ["f1", "precision", "recall"]),
    "answers": (make_answered, score_answers, ["exact_match", "f1"]),
    "Chinese answers": (lambda: make_answered("zh"), lambda rows: score_answers(rows, "zh"), ["exact_match", "f1"]),
    "translations": (make_translated, lambda rows: score_texts(Translations("zh"), rows, "target"), ["bleu", "chrf"]),
    "German": (
        lambda: make_translated("de"), lambda rows: score_texts(Translations("de"), rows, "target"), ["bleu", "chrf"],
    ),
    "summaries": (
        make_summarized, lambda rows: score_texts(Summaries("zh"), rows, "summary"), ["rougeL", "rouge1", "rouge2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_tally_of_any_rows_gives_the_scores_of_the_metric(case):
    make, score, names = CASES[case]
    recipe, rows = make()
    tallies = tally_predictions(recipe, rows).tallies
    parts = [range(len(rows)), range(0, len(rows), 3), range(5)]
    for part in map(list, parts):
        expected = score([rows[index] for index in part])
        for name in names:
            assert tallies[name].compute(part) == pytest.approx(expected[name], abs=1e-9), (name, len(part))


def test_replies_are_tallied_each_and_drawn_by_dialogue():
    _, flat = make_generated("", ("prompt", "reply"), 50)
    rows = [{"id": str(n), "replies": [{"turn": 1, **flat[2 * n]}, {"turn": 3, **flat[2 * n + 1]}]} for n in range(20)]
    rows[3]["replies"][1].pop("reply")  # the dialogue ends with the user
    recipe = {"task": "text-generation", "language": None}
    known = [entry for row in rows for entry in row["replies"] if "reply" in entry]
    expected = score_texts(Replies(), known, "reply")
    tallies = tally_predictions(recipe, rows).group_by_row()
    for name in ("rougeL", "bleu", "exact_match"):
        assert len(tallies[name].counts) == 20 and tallies[name].compute() == pytest.approx(expected[name], abs=1e-9)
    entries = list_entries("text-generation", rows)
    assert len(entries) == 39 and [entry["row"] for entry in entries[5:9]] == [2, 3, 4, 4]


def test_rows_without_gold_rows_of_other_tasks_and_other_columns_are_left_out():
    recipe, rows = make_classified(4)
    rows[1].pop("label")
    assert [entry["row"] for entry in list_entries("text-classification", rows)] == [0, 2, 3]
    assert list_entries("image-classification", rows) == []
    assert list_entries("text-classification", [{"sentence": "t", "label": "bad", "predicted_label": "bad"}]) == []
    assert list_entries("text-classification", [{"text": "t", "label": "bad", "guess": "bad"}]) == []
    assert tally_predictions(recipe, [{"text": "t", "predicted_label": "bad"}]).group_by_row() == {}


def test_entries_are_shown_as_text_gold_and_prediction():
    entry = {"text": "a", "text_pair": "b", "labels": [], "predicted_labels": ["x", "y"]}
    shown = {"text": "a / b", "gold": "(none)", "predicted": "x, y"}
    assert show_entry("text-classification", entry) == shown
    entry = {"tokens": ["北", "京", "。"], "tags": ["B-LOC", "I-LOC", "O"], "predicted_tags": ["O", "O", "O"]}
    assert show_entry("token-classification", entry) == {"text": "北京。", "gold": "北京 (LOC)", "predicted": "(none)"}
    entry = {"question": "who?", "answers": ["Ada", "Ada", "A. L."], "predicted_answer": ""}
    assert show_entry("question-answering", entry) == {"text": "who?", "gold": "Ada | A. L.", "predicted": "(none)"}


def test_a_sentence_without_entities_is_right_where_none_is_found():
    def score(gold, predicted):
        rows = [{"tokens": ["w"], "tags": [gold], "predicted_tags": [predicted]}]
        return tally_predictions({"task": "token-classification"}, rows).score_each().tolist()

    assert score("O", "O") == [1.0] == score("B-PER", "B-PER")
    assert score("O", "B-PER") == [0.0] == score("B-PER", "O")
