"""Answers picked from ranked spans, the threshold for giving none, and what is written and shown of them."""

import re

from common.metrics.answers import AnswerMetric, score_answer

import numpy as np
from datasets import Dataset, DatasetDict

WORST = 20  # rows of the report
# Question words and their Chinese counterparts; of those that begin at the same place the longest counts.
KINDS = {
    "why": ("为什么", "为何"),
    "when": ("什么时候", "哪年", "哪一年", "哪天", "何时"),
    "where": ("哪里", "哪儿", "什么地方", "哪个城市", "何处"),
    "how many": ("多少", "几"),
    "how much": (),
    "how": ("怎么", "怎样", "如何"),
    "who": ("谁",),
    "whom": (),
    "whose": (),
    "which": ("哪",),
    "what": ("什么", "何"),
}
_ENGLISH_KIND = re.compile(rf"\b({'|'.join(KINDS)})\b")


def pick_answers(ranked: list[dict], questions: Dataset, null_threshold: float | None, n_best: int = 1) -> list[dict]:
    """A row a question, in their order: its answer with probability and place, "" where `null_score` says so.

    `null_score` is the score of "no answer" minus that of the best span. Above `null_threshold` the answer is ""; with
    None there is always one. `score` is the probability among the ranked spans and, with a threshold, "no answer".
    """
    return [
        _pick_answer(found, question, null_threshold, n_best) for found, question in zip(ranked, questions, strict=True)
    ]


def _pick_answer(found: dict, question: dict, null_threshold: float | None, n_best: int) -> dict:
    spans = _trim_spans(found["spans"], question["context"])
    scores = [score for score, _, _ in spans] + ([] if null_threshold is None else [found["null_score"]])
    scores = np.array(scores, dtype=np.float64)
    probabilities = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
    probabilities = [round(float(probability), 4) for probability in probabilities / probabilities.sum()]
    # Rounded as it is written: whoever reads the file comes to the same decision, and equal scores are equal.
    null_score = round(found["null_score"] - spans[0][0], 4) if spans else None
    row = {"id": question["id"], "question": question["question"]}
    if question["answers"] is not None:
        row["answers"] = question["answers"]
    if not spans or (null_threshold is not None and null_score > null_threshold):
        row |= {"predicted_answer": "", "score": probabilities[-1] if null_threshold is not None else 0.0}
        row |= {"null_score": null_score, "start": None, "end": None}
    else:
        _, start, end = spans[0]
        row |= {"predicted_answer": question["context"][start:end], "score": probabilities[0]}
        row |= {"null_score": null_score, "start": start, "end": end}
    if n_best > 1:
        row["n_best"] = [
            {"text": question["context"][start:end], "start": start, "end": end, "score": probability}
            for (_, start, end), probability in zip(spans[:n_best], probabilities, strict=False)
        ]
    return row


def _trim_spans(spans: list[tuple[float, int, int]], context: str) -> list[tuple[float, int, int]]:
    """The spans without the spaces around their texts, each text once, in their order."""
    trimmed: dict[tuple[int, int], float] = {}
    for score, start, end in spans:
        text = context[start:end]
        if text.strip():
            trimmed.setdefault((start + len(text) - len(text.lstrip()), start + len(text.rstrip())), score)
    return [(score, *span) for span, score in trimmed.items()]


def choose_null_threshold(named: float | None, config, splits: DatasetDict, do_train: bool) -> float | None:
    """The threshold to begin with: the one `named`, the trained model's own, or 0 where some questions have no answer.

    None, always an answer, where all of them have one.
    """
    if named is not None:
        return named
    if not do_train and hasattr(config, "null_threshold"):
        return config.null_threshold
    return 0.0 if any(answers == [] for rows in splits.values() for answers in rows["answers"]) else None


def tune_null_threshold(ranked: list[dict], questions: Dataset, language: str | None) -> float | None:
    """The threshold with the best F1 on these questions; None where each of them has an answer or none is labelled.

    As find_best_thresh of SQuAD 2.0's script, but half-way between the two scores that it separates.
    """
    golds = questions["answers"]
    if not any(gold == [] for gold in golds):
        return None
    rows = pick_answers(ranked, questions, None)
    # A question of whose context the model sees nothing is not answered, whatever the threshold.
    labelled = [
        (row["null_score"], row["predicted_answer"], gold)
        for row, gold in zip(rows, golds, strict=True)
        if gold is not None and row["predicted_answer"]
    ]
    if not labelled:
        return 0.0
    labelled.sort(key=lambda item: item[0])
    null_scores = np.array([null_score for null_score, _, _ in labelled])
    with_answer = np.array([score_answer(answer, gold, language)[1] for _, answer, gold in labelled])
    without = np.array([score_answer("", gold, language)[1] for _, _, gold in labelled])
    # totals[k]: the k questions with the lowest null scores get their answers, the others none.
    totals = np.concatenate([[0], with_answer.cumsum()]) + np.concatenate([without[::-1].cumsum()[::-1], [0]])
    borders = np.concatenate([[null_scores[0] - 1], (null_scores[:-1] + null_scores[1:]) / 2, [null_scores[-1] + 1]])
    # Equal null scores cannot be separated.
    totals[1:-1][null_scores[:-1] == null_scores[1:]] = -1
    return float(borders[int(totals.argmax())])


def score_answers(rows: list[dict], language: str | None) -> dict[str, float]:
    """Exact match and F1 of the rows that have gold answers; {} where none has."""
    labelled = [row for row in rows if "answers" in row]
    if not labelled:
        return {}
    return AnswerMetric(language).compute(
        predictions=[row["predicted_answer"] for row in labelled], references=[row["answers"] for row in labelled]
    )


def list_wrong_answers(rows: list[dict], language: str | None) -> list[dict]:
    """The questions with the lowest F1 and, among equals, the most certain answers, for the report."""
    wrong = []
    for row in rows:
        if "answers" in row:
            exact, f1 = score_answer(row["predicted_answer"], row["answers"], language)
            if not exact:
                gold = " | ".join(dict.fromkeys(row["answers"])) or "(none)"
                wrong.append(
                    {"F1": f1, "score": row["score"], "question": row["question"],
                     "answer": row["predicted_answer"] or "(none)", "gold": gold}
                )  # fmt: skip
    return sorted(wrong, key=lambda row: (row["F1"], -row["score"]))[:WORST]


def score_kinds(rows: list[dict], language: str | None) -> dict[str, float]:
    """F1 by the question word, with the number of questions in brackets."""
    kinds: dict[str, list[float]] = {}
    for row in rows:
        if "answers" in row:
            f1 = score_answer(row["predicted_answer"], row["answers"], language)[1]
            kinds.setdefault(find_kind(row["question"]), []).append(f1)
    return {f"{kind} ({len(scores)})": sum(scores) / len(scores) for kind, scores in kinds.items()}


def find_kind(question: str) -> str:
    """The first question word, in English for Chinese questions too, or "other"."""
    places = [(match.start(), -len(match[0]), match[0]) for match in _ENGLISH_KIND.finditer(question.lower())]
    places += [
        (question.find(sign), -len(sign), kind) for kind, signs in KINDS.items() for sign in signs if sign in question
    ]
    return min(places, default=(0, 0, "other"))[2]


def report_answers(outcome, split: str, rows: list[dict], language: str | None) -> None:
    """Put F1 by question word and the wrong answers into the report."""
    outcome.bars[f"{split} F1 by question word"] = score_kinds(rows, language)
    outcome.tables[f"{split}: wrong answers"] = list_wrong_answers(rows, language)
