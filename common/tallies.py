"""What each row of a predictions file adds to the scores of its task: enough to compute them for any part of the rows.

The file and recipe.json are all that is read; the scores of all rows are those of metrics.json.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.intervals import Tally
from common.metrics.answers import score_answer
from common.metrics.replies import Replies, match_exactly
from common.metrics.summaries import Summaries
from common.metrics.translations import Translations
from common.tagging import find_entities, join_words

import numpy as np

# For each task what a row was given, what is right, what was predicted; of two names each the first that is there.
TEXTS = {
    "text-classification": ("text",),
    "token-classification": ("tokens",),
    "question-answering": ("question",),
    "translation": ("source",),
    "summarization": ("document",),
    "text-generation": ("prompt",),
}
GOLDS = {
    "text-classification": ("label", "labels"),
    "token-classification": ("tags",),
    "question-answering": ("answers",),
    "translation": ("target",),
    "summarization": ("summary",),
    "text-generation": ("reply",),
}
ROW_SCORES = {  # the score that says most about a single row
    "text-classification": "accuracy",
    "token-classification": "f1",
    "question-answering": "f1",
    "translation": "chrf",
    "summarization": "rougeL",
    "text-generation": "rougeL",
}


def list_entries(task: str, rows: list[dict]) -> list[dict]:
    """The rows of a predictions file that have a gold answer, of dialogues their replies, each with `row`, its number.

    [] for the rows of another task, and where a copied recipe writes other columns.
    """
    if task not in GOLDS:
        return []
    if task == "text-generation":
        entries = [
            {"row": number, "id": row.get("id"), **reply}
            for number, row in enumerate(rows)
            for reply in row.get("replies", [])
        ]
    else:
        entries = [{"row": number, **row} for number, row in enumerate(rows)]
    return [
        entry
        for entry in entries
        if TEXTS[task][0] in entry
        and any(name in entry and f"predicted_{_name_answer(name)}" in entry for name in GOLDS[task])
    ]


def _name_answer(name: str) -> str:
    return "answer" if name == "answers" else name


@dataclass(frozen=True)
class Tallied:
    """The entries of a predictions file, and a tally for each score that they suffice for, with a row for each."""

    task: str
    entries: list[dict]
    tallies: dict[str, Tally]

    def group_by_row(self) -> dict[str, Tally]:
        """The tallies with a row for each row of the file, the unit that an interval draws: replies with a dialogue."""
        numbers = np.array([entry["row"] for entry in self.entries])
        return {name: tally.group(numbers) for name, tally in self.tallies.items()}

    def score_each(self) -> np.ndarray:
        """The score of each entry by itself; a sentence in which there is no entity, and none was found, has 1."""
        tally = self.tallies[ROW_SCORES[self.task]]
        scores = tally.compute_each()
        if self.task == "token-classification":
            scores[~tally.counts.any(1)] = 1.0
        return scores


def tally_predictions(recipe: dict, rows: list[dict]) -> Tallied:
    """What the rows of a predictions file add to the scores of their task; `recipe` is that of recipe.json."""
    task, entries = recipe["task"], list_entries(recipe["task"], rows)
    tally = {
        "text-classification": _tally_classes,
        "token-classification": _tally_entities,
        "question-answering": _tally_answers,
        "translation": _tally_translations,
        "summarization": _tally_summaries,
        "text-generation": _tally_replies,
    }
    return Tallied(task, entries, tally[task](recipe, entries) if entries else {})


def name_unit(task: str) -> str:
    """What the rows of a predictions file are, which an interval draws."""
    return "dialogues" if task == "text-generation" else "rows"


def show_entry(task: str, entry: dict) -> dict[str, str]:
    """Text, gold answer and prediction of an entry, for people to read."""
    name = next(name for name in GOLDS[task] if name in entry)
    if task == "token-classification":
        gold, predicted = (_show_entities(entry["tokens"], entry[tags]) for tags in ("tags", "predicted_tags"))
        return {"text": join_words(entry["tokens"]), "gold": gold, "predicted": predicted}
    text = " / ".join(part for part in (entry[TEXTS[task][0]], entry.get("text_pair")) if part)
    gold, predicted = entry[name], entry[f"predicted_{_name_answer(name)}"]
    if name == "answers":
        gold = " | ".join(dict.fromkeys(gold))
    elif name == "labels":
        gold, predicted = ", ".join(gold), ", ".join(predicted)
    return {"text": text, "gold": gold or "(none)", "predicted": predicted or "(none)"}


def _show_entities(tokens: Sequence[str], tags: Sequence[str]) -> str:
    entities = find_entities(tags)
    return ", ".join(f"{join_words(tokens[e.start : e.end])} ({e.type})" for e in entities) or "(none)"


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, 0 where nothing is divided by."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator, dtype=float), where=denominator > 0)


def _average(values: Sequence[float]) -> Tally:
    """The tally of a mean over the rows."""
    return Tally(np.stack([np.asarray(values, float), np.ones(len(values))], axis=1), _score_mean)


def _score_mean(sums: np.ndarray) -> np.ndarray:
    return _divide(sums[:, 0], sums[:, 1])


def _tally_classes(recipe: dict, entries: list[dict]) -> dict[str, Tally]:
    numbers = {name: number for number, name in enumerate(recipe["labels"])}
    has_several = "labels" in entries[0]
    hits = np.zeros((len(entries), 3, len(numbers)))  # right, gold, predicted
    for row, entry in enumerate(entries):
        gold, predicted = (
            entry[f"{prefix}labels"] if has_several else [entry[f"{prefix}label"]] for prefix in ("", "predicted_")
        )
        hits[row, 1, [numbers[name] for name in gold]] = 1
        hits[row, 2, [numbers[name] for name in predicted]] = 1
    hits[:, 0] = hits[:, 1] * hits[:, 2]
    counts = hits.reshape(len(entries), -1)
    tallies = {"accuracy": _average((hits[:, 1] == hits[:, 2]).all(1)), "f1_macro": Tally(counts, _score_macro_f1)}
    if has_several:  # each pair of row and class is a decision
        pairs = np.full((len(entries), 1), len(numbers))
        tallies["mcc"] = Tally(np.hstack([hits.sum(2), pairs]), _score_binary_mcc)
    else:
        tallies["mcc"] = Tally(counts, _score_mcc)
    return tallies


def _score_macro_f1(sums: np.ndarray) -> np.ndarray:
    right, gold, predicted = sums.reshape(len(sums), 3, -1).transpose(1, 0, 2)
    return _divide(2 * right, gold + predicted).mean(1)


def _score_mcc(sums: np.ndarray) -> np.ndarray:
    """Matthews' coefficient of several classes (Gorodkin 2004), as scikit-learn has it."""
    return _correlate(*sums.reshape(len(sums), 3, -1).transpose(1, 0, 2))


def _score_binary_mcc(sums: np.ndarray) -> np.ndarray:
    right, gold, predicted, pairs = sums.T
    rest = (pairs - gold - predicted + right, pairs - gold, pairs - predicted)
    return _correlate(*(np.stack(both, axis=1) for both in zip((right, gold, predicted), rest, strict=True)))


def _correlate(right: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    rows = gold.sum(1)
    covariance = right.sum(1) * rows - (gold * predicted).sum(1)
    variances = (rows**2 - (part**2).sum(1) for part in (gold, predicted))
    return _divide(covariance, np.sqrt(np.prod(list(variances), axis=0)))


def _tally_entities(recipe: dict, entries: list[dict]) -> dict[str, Tally]:
    counts = np.zeros((len(entries), 3))
    for row, entry in enumerate(entries):
        gold, predicted = (set(find_entities(entry[name])) for name in ("tags", "predicted_tags"))
        counts[row] = len(gold & predicted), len(gold), len(predicted)
    return {
        "f1": Tally(counts, _score_entity_f1),
        "precision": Tally(counts[:, [0, 2]], _score_mean),
        "recall": Tally(counts[:, [0, 1]], _score_mean),
    }


def _score_entity_f1(sums: np.ndarray) -> np.ndarray:
    return _divide(2 * sums[:, 0], sums[:, 1] + sums[:, 2])


def _tally_answers(recipe: dict, entries: list[dict]) -> dict[str, Tally]:
    scores = [score_answer(entry["predicted_answer"], entry["answers"], recipe["language"]) for entry in entries]
    exact, f1 = zip(*scores, strict=True)
    return {"exact_match": _average(exact), "f1": _average(f1)}


def _tally_translations(recipe: dict, entries: list[dict]) -> dict[str, Tally]:
    metric = Translations(recipe["target_lang"], recipe["bleu_tokenizer"], recipe["ter"])
    texts, golds = ([entry[name] for entry in entries] for name in ("predicted_target", "target"))
    return {name: _tally_sacrebleu(scorer, texts, golds) for name, scorer in metric.scorers.items()}


def _tally_sacrebleu(scorer, texts: list[str], golds: list[str]) -> Tally:
    # What sacrebleu's own significance tests are made of: there is no public name for it (2.6).
    counts = np.array(scorer._extract_corpus_statistics(texts, [golds]), dtype=float)
    return Tally(counts, _score_by(lambda sums: scorer._compute_score_from_stats(sums).score))


def _score_by(score: Callable[[list[float]], float]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of one list of sums as a function of several."""
    return lambda sums: np.array([score(row) for row in sums.tolist()], dtype=float)


def _tally_summaries(recipe: dict, entries: list[dict]) -> dict[str, Tally]:
    texts, golds = ([entry[name] for entry in entries] for name in ("predicted_summary", "summary"))
    scores = Summaries(recipe["language"]).score_rows(texts, golds)
    return {name: _average([row[name] for row in scores]) for name in scores[0]}


def _tally_replies(recipe: dict, entries: list[dict]) -> dict[str, Tally]:
    metric = Replies(recipe["language"])
    texts, golds = ([entry[name] for entry in entries] for name in ("predicted_reply", "reply"))
    matches = [100 * match_exactly(*pair) for pair in zip(texts, golds, strict=True)]
    return {
        "rougeL": _average([row["rougeL"] for row in metric.rouge.score_rows(texts, golds)]),
        "bleu": _tally_sacrebleu(metric.make_bleu(golds), texts, golds),
        "exact_match": _average(matches),
    }
