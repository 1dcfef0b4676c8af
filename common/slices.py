"""What the predictions of a split say beyond the mean: intervals, scores by parts of the rows, their distribution."""

import math
from collections.abc import Iterable

from common.answers import find_kind
from common.intervals import Tally, find_intervals
from common.tagging import join_words
from common.tallies import ROW_SCORES, TEXTS, Tallied

import numpy as np
import regex

PARTS, FEWEST = 4, 16  # groups by length, and how many rows they take
GENERATING = {"translation", "summarization", "text-generation"}
NOUNS = {"tokens": "sentence"}  # what to call the texts of a column of another name
_HAN = regex.compile(r"\p{Han}")


def add_intervals(outcome, split: str, tallied: Tallied) -> None:
    """Keep 95 % intervals of the headline scores as `<split>_intervals`, a [low, high] for each name.

    Left out are scores that are not made from the predictions alone, as perplexity, or that the recipe computes in
    another way than `tally_predictions` does.
    """
    tallies = {
        name: tally
        for name, tally in tallied.group_by_row().items()
        if name in outcome.headline and _agrees(tally, outcome.metrics.get(f"{split}_{name}"))
    }
    intervals = find_intervals(tallies)
    if intervals:
        ordered = [name for name in outcome.headline if name in intervals]
        outcome.metrics[f"{split}_intervals"] = {name: intervals[name] for name in ordered}


def _agrees(tally: Tally, score: float | None) -> bool:
    return score is not None and math.isclose(tally.compute(), score, rel_tol=1e-6, abs_tol=1e-9)


def report_slices(outcome, split: str, tallied: Tallied) -> None:
    """Put the score by length, script and question word into the report, and of generated texts how it is spread."""
    task, entries, tallies = tallied.task, tallied.entries, tallied.tallies
    if not entries:
        return
    name, column = ROW_SCORES[task], TEXTS[task][0]
    texts = [join_words(entry[column]) if column == "tokens" else entry[column] for entry in entries]
    noun = NOUNS.get(column, column)
    table = []
    groups = {f"length of the {noun}": group_by_length(texts), "script": _group_by_script(texts)}
    if task == "question-answering":
        groups["question word"] = _group(map(find_kind, texts))
    for kind, parts in groups.items():
        scored = {part: tallies[name].compute(numbers) for part, numbers in parts.items()}
        table += [{"by": kind, "part": part, "rows": len(parts[part]), name: score} for part, score in scored.items()]
        if kind.startswith("length") and parts:
            bars = {f"{part} ({len(parts[part])})": score for part, score in scored.items()}
            outcome.slices[f"{split} {name} by {kind}"] = bars
    outcome.tables[f"{split}: {name} of parts of the rows"] = table
    if task in GENERATING:
        outcome.spreads[f"{split} {name} of single texts"] = tallied.score_each().tolist()


def group_by_length(texts: list[str]) -> dict[str, list[int]]:
    """Numbers of the texts in quarters, about, from the shortest to the longest; {} of too few texts.

    Texts of one length are never in two groups, so that there may be fewer.
    """
    if len(texts) < FEWEST:
        return {}
    lengths = np.array([len(text) for text in texts])
    firsts = np.unique(np.sort(lengths)[[len(texts) * part // PARTS for part in range(PARTS)]])
    groups = [np.flatnonzero(np.digitize(lengths, firsts) == part) for part in range(1, len(firsts) + 1)]
    return {_name_lengths(lengths[numbers]): numbers.tolist() for numbers in groups}


def _name_lengths(lengths: np.ndarray) -> str:
    shortest, longest = lengths.min(), lengths.max()
    return f"{shortest} characters" if shortest == longest else f"{shortest}-{longest} characters"


def _group_by_script(texts: list[str]) -> dict[str, list[int]]:
    """Numbers of the texts with and without Chinese characters; {} where there is one kind alone."""
    groups = _group("Chinese characters" if _HAN.search(text) else "no Chinese characters" for text in texts)
    return groups if len(groups) > 1 else {}


def _group(names: Iterable[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(name, []).append(number)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))
