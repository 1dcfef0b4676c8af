"""Tagged sentences put together from the predictions for their windows, and what is written and shown of them."""

from common.lines import shorten
from common.losses import IGNORED, CrossEntropy
from common.tagging import find_entities, join_words, repair_iob2

import numpy as np
import torch
from datasets import Dataset


def reduce_logits(logits: torch.Tensor, labels: torch.Tensor | None, loss: CrossEntropy):
    """Tag number and its probability for each piece, and the summed loss of each window: all that scoring needs.

    Given to Trainer as preprocess_logits_for_metrics, it keeps three numbers a piece in memory instead of one a tag.
    """
    probabilities, tag_ids = logits.float().softmax(-1).max(-1)
    losses = torch.zeros_like(probabilities[:, 0]) if labels is None else loss.per_item(logits, labels).sum(-1)
    return tag_ids, probabilities, losses


def tag_sentences(predictions, windows: Dataset, sentences: Dataset, label_names: list[str]) -> list[dict[str, list]]:
    """For each sentence the predicted tag and its probability of each word, from the window that owns the word.

    `predictions` is what `reduce_logits` gave, [windows, pieces]; in `windows`, `positions` says where the first pieces
    of the owned words are and `first_word` which word of `sentence` is the first of them. The tags are valid IOB2.
    """
    tag_ids, probabilities = predictions[:2]
    tagged = [{"tags": [""] * len(words), "scores": [0.0] * len(words)} for words in sentences["tokens"]]
    for row, window in enumerate(windows.select_columns(["row", "first_word", "positions"])):
        sentence = tagged[window["row"]]
        for word, position in enumerate(window["positions"], start=window["first_word"]):
            sentence["tags"][word] = label_names[tag_ids[row, position]]
            sentence["scores"][word] = float(probabilities[row, position])
    for sentence in tagged:
        sentence["tags"] = repair_iob2(sentence["tags"])
    return tagged


def list_predictions(predictions, windows: Dataset, sentences: Dataset, label_names: list[str]) -> list[dict]:
    """A row a sentence, in their order: id, words, gold tags if any, predicted tags, entities with mean probability."""
    rows = []
    for sentence, found in zip(sentences, tag_sentences(predictions, windows, sentences, label_names), strict=True):
        words = sentence["tokens"]
        entities = [
            {
                "type": entity.type,
                "start": entity.start,
                "end": entity.end,
                "text": join_words(words[entity.start : entity.end]),
                "score": round(float(np.mean(found["scores"][entity.start : entity.end])), 4),
            }
            for entity in find_entities(found["tags"])
        ]
        gold = {} if sentence["tags"] is None else {"tags": sentence["tags"]}
        rows.append(
            {"id": sentence["id"], "tokens": words, **gold, "predicted_tags": found["tags"], "entities": entities}
        )
    return rows


def list_mistakes(rows: list[dict], most: int = 20) -> list[dict]:
    """The sentences with the most missed and invented entities, from rows that `list_predictions` made."""
    mistakes = []
    for row in rows:
        if "tags" not in row:
            continue
        gold, predicted = set(find_entities(row["tags"])), set(find_entities(row["predicted_tags"]))
        if gold != predicted:
            missed, invented = (
                ", ".join(f"{join_words(row['tokens'][e.start : e.end])} ({e.type})" for e in sorted(entities))
                for entities in (gold - predicted, predicted - gold)
            )
            text = join_words(row["tokens"])
            mistakes.append({"wrong": len(gold ^ predicted), "text": text, "missed": missed, "invented": invented})
    return sorted(mistakes, key=lambda mistake: -mistake["wrong"])[:most]


def list_suspects(rows: list[dict], most: int = 20) -> list[dict]:
    """The entities that are not among the gold ones, the most probable first: some of the gold tags may be wrong."""
    suspects = []
    for row in rows:
        gold = find_entities(row["tags"]) if "tags" in row else None
        for found in row["entities"] if gold is not None else []:
            start, end = found["start"], found["end"]
            if (found["type"], start, end) not in gold:
                there = [e for e in gold if e.start < end and start < e.end]
                tagged = ", ".join(f"{join_words(row['tokens'][e.start : e.end])} ({e.type})" for e in there)
                text = f"{found['text']} ({found['type']})"
                suspects.append(
                    {"score": found["score"], "found": text, "tagged": tagged or "(none)",
                     "text": shorten(join_words(row["tokens"]))}
                )  # fmt: skip
    return sorted(suspects, key=lambda suspect: -suspect["score"])[:most]


def list_type_scores(metrics: dict[str, float], prefix: str) -> list[dict]:
    """A row for each entity type that the metrics name, for the report."""
    types = [name.removeprefix(f"{prefix}_support_") for name in metrics if name.startswith(f"{prefix}_support_")]
    return [
        {"type": t, **{name: metrics[f"{prefix}_{name}_{t}"] for name in ("precision", "recall", "f1", "support")}}
        for t in types
    ]


def report_entities(outcome, split: str, rows: list[dict]) -> None:
    """Put scores by entity type, the sentences with the most mistakes and suspected label errors into the report."""
    types = list_type_scores(outcome.metrics, split)
    outcome.bars[f"{split} F1 by entity type"] = {row["type"]: row["f1"] for row in types}
    outcome.tables[f"{split}: entity types"] = types
    outcome.tables[f"{split}: sentences with the most mistakes"] = list_mistakes(rows)
    outcome.tables[f"{split}: suspected label errors (surest entities that are tagged otherwise)"] = list_suspects(rows)


def show_window(row: dict[str, list], tokenizer, label_names: list[str]) -> str:
    """The pieces of a window as the model gets them, each with its tag, or without one where it is not trained."""
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    tags = ["" if label == IGNORED else f"/{label_names[label]}" for label in row["labels"]]
    return " ".join(piece + tag for piece, tag in zip(pieces, tags, strict=True) if piece != tokenizer.pad_token)
