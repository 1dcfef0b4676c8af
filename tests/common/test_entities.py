import json
import random
import socket
from pathlib import Path

from common.metrics.entities import EntityMetric

import evaluate
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

STRICT = {"mode": "strict", "scheme": IOB2, "zero_division": 0}


def draw_tags(generator: random.Random, length: int, types: list[str]) -> list[str]:
    """Valid IOB2 of this length."""
    tags = []
    while len(tags) < length:
        entity_type = generator.choice(types)
        entity = [f"B-{entity_type}"] + [f"I-{entity_type}"] * generator.randrange(3)
        tags += generator.choice([["O"], entity])
    return tags[:length]


def draw_corpus(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of some sentences; most predictions are partly right, some types are in one side only."""
    generator = random.Random(seed)
    gold_types = generator.sample(["PER", "LOC", "ORG", "creative-work"], k=generator.randrange(1, 5))
    predicted_types = generator.sample(["PER", "LOC", "ORG", "GPE"], k=generator.randrange(1, 5))
    gold, predicted = [], []
    for _ in range(generator.randrange(1, 6)):
        tags = draw_tags(generator, generator.randrange(1, 12), gold_types)
        gold.append(tags)
        cut = generator.randrange(len(tags) + 1)
        while cut < len(tags) and tags[cut].startswith("I"):  # behind a whole entity, so that the tags stay valid
            cut += 1
        predicted.append(tags[:cut] + draw_tags(generator, len(tags) - cut, predicted_types))
    return gold, predicted


CORPORA = [draw_corpus(seed) for seed in range(300)]


def list_all(corpora) -> set[str]:
    return {entity_type for sentences in corpora for tags in sentences for entity_type, _, _ in get_entities(tags)}


def test_the_corpora_of_these_tests_hold_right_wrong_and_no_entities():
    scores = [f1_score(gold, predicted, **STRICT) for gold, predicted in CORPORA if list_all([gold, predicted])]
    assert 50 > len(CORPORA) - len(scores) > 0
    assert sum(score == 1 for score in scores) > 5 and sum(0 < score < 1 for score in scores) > 100


@pytest.fixture(scope="module")
def all_scores():
    metric = EntityMetric()
    return [metric.compute(predictions=predicted, references=gold) for gold, predicted in CORPORA]


def test_scores_are_those_of_seqeval_in_strict_iob2(all_scores):
    for (gold, predicted), scores in zip(CORPORA, all_scores, strict=True):
        types = sorted(list_all([gold, predicted]))
        if not types:
            assert scores["precision"] == scores["recall"] == scores["f1"] == scores["f1_macro"] == 0
            continue
        assert scores["precision"] == pytest.approx(precision_score(gold, predicted, **STRICT))
        assert scores["recall"] == pytest.approx(recall_score(gold, predicted, **STRICT))
        assert scores["f1"] == pytest.approx(f1_score(gold, predicted, **STRICT))
        assert scores["f1_macro"] == pytest.approx(f1_score(gold, predicted, average="macro", **STRICT))
        by_type = precision_recall_fscore_support(gold, predicted, average=None, **STRICT)
        for number, entity_type in enumerate(types):
            for name, values in zip(("precision", "recall", "f1", "support"), by_type, strict=True):
                assert scores[f"{name}_{entity_type}"] == pytest.approx(values[number]), name
        assert len(scores) == 5 + 4 * len(types)


def test_scores_are_those_of_counted_entities(all_scores):
    """Without any of seqeval's scoring: what gold and prediction have in common, over what each has."""
    for (gold, predicted), scores in zip(CORPORA, all_scores, strict=True):
        wanted = {(row, *entity) for row, tags in enumerate(gold) for entity in get_entities(tags)}
        found = {(row, *entity) for row, tags in enumerate(predicted) for entity in get_entities(tags)}
        words = [pair for sentences in zip(gold, predicted, strict=True) for pair in zip(*sentences, strict=True)]
        assert scores["precision"] == pytest.approx(len(wanted & found) / max(len(found), 1))
        assert scores["recall"] == pytest.approx(len(wanted & found) / max(len(wanted), 1))
        assert scores["f1"] == pytest.approx(2 * len(wanted & found) / max(len(wanted) + len(found), 1))
        assert scores["accuracy"] == pytest.approx(sum(a == b for a, b in words) / len(words))


def test_the_scores_of_an_example_counted_by_hand():
    gold = ["B-PER I-PER O B-LOC".split(), "B-LOC O B-PER".split()]
    predicted = ["B-PER I-PER O B-PER".split(), "B-LOC I-LOC B-PER".split()]
    # Gold: 2 PER, 2 LOC. Predicted: 3 PER, of which 2 are right; 1 LOC, which is a word too long. 5 of 7 words right.
    assert EntityMetric().compute(predictions=predicted, references=gold) == pytest.approx(
        {
            "precision": 2 / 4, "recall": 2 / 4, "f1": 0.5, "f1_macro": 0.4, "accuracy": 5 / 7,
            "precision_PER": 2 / 3, "recall_PER": 1.0, "f1_PER": 0.8, "support_PER": 2,
            "precision_LOC": 0.0, "recall_LOC": 0.0, "f1_LOC": 0.0, "support_LOC": 2,
        }
    )  # fmt: skip


def test_without_any_entity_the_scores_are_0_and_the_words_still_count():
    scores = EntityMetric().compute(predictions=[["O", "O"], ["O"]], references=[["O", "O"], ["O"]])
    assert scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "f1_macro": 0.0, "accuracy": 1.0}


@pytest.mark.parametrize("sides", [("O B-PER", "O O"), ("O O", "O B-PER")])
def test_entities_on_one_side_alone_give_0_and_no_warning(sides, recwarn):
    gold, predicted = ([tags.split()] for tags in sides)
    scores = EntityMetric().compute(predictions=predicted, references=gold)
    assert scores["precision"] == scores["recall"] == scores["f1"] == scores["f1_macro"] == scores["f1_PER"] == 0
    assert scores["support_PER"] == (1 if sides[0] == "O B-PER" else 0) and scores["accuracy"] == 0.5
    assert [warning.message for warning in recwarn] == []


def test_an_i_that_goes_on_with_nothing_is_no_entity():
    """seqeval's default mode would take it for one; predictions are repaired before they are scored."""
    scores = EntityMetric().compute(predictions=[["I-PER", "O"]], references=[["B-PER", "O"]])
    assert scores["precision"] == scores["recall"] == scores["f1"] == 0


def test_scores_are_plain_numbers_that_json_takes():
    scores = EntityMetric().compute(predictions=[["B-PER", "O"]], references=[["B-PER", "B-LOC"]])
    assert {type(value) for value in scores.values()} == {float, int}
    assert json.loads(json.dumps(scores)) == scores


def test_two_instances_at_once_do_not_mix():
    first, second = EntityMetric(), EntityMetric()
    first.add_batch(predictions=[["B-PER"]], references=[["B-PER"]])
    second.add_batch(predictions=[["O"]], references=[["B-PER"]])
    first.add(prediction=["B-PER"], reference=["O"])
    assert second.compute()["f1"] == 0
    scores = first.compute()
    assert scores["precision"] == 0.5 and scores["recall"] == 1.0


def test_no_network_is_needed(monkeypatch):
    def refuse(*args):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert EntityMetric().compute(predictions=[["B-PER"]], references=[["B-PER"]])["f1"] == 1


def test_no_file_is_left_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    metric = EntityMetric()
    assert Path(metric.data_dir).is_relative_to(tmp_path)
    assert metric.compute(predictions=[["B-PER"]], references=[["B-PER"]])["f1"] == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
