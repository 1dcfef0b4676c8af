"""Exact match and F1 of extracted answers, by the arithmetic of the SQuAD 2.0 and CMRC 2018 evaluation scripts."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import datasets
import evaluate
import nltk

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# What CMRC's script leaves out: no comma, dot or bracket of ASCII, and of the quotation marks only these.
_CMRC_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_IDEOGRAPH = re.compile(r"[\u4e00-\u9fa5]")


class AnswerMetric(evaluate.Metric):
    """Exact match and F1 between 0 and 1, the best over a question's gold answers, averaged over the questions.

    `compute(predictions=texts, references=lists of gold texts)`: a question without gold answers is right when the
    prediction is empty. Where both kinds occur, `exact_match_answerable`, `f1_answerable` and `f1_unanswerable` tell
    them apart. With `language` zh answers are compared as in CMRC 2018: Chinese by characters, F1 over the longest
    common substring. Any other language is compared by words as in SQuAD; without one each question by its own script.
    """

    # Whether the greater one is the better.
    SCORES = dict.fromkeys(("exact_match", "f1", "exact_match_answerable", "f1_answerable", "f1_unanswerable"), True)

    def __init__(self, language: str | None = None, **kwargs):
        # Kept in memory: files of this name in a shared cache would be locked against other runs and processes.
        super().__init__(keep_in_memory=True, **kwargs)
        self.language = language

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="@inproceedings{rajpurkar-etal-2018-know, title={Know What You Don't Know}, year={2018}}",
            inputs_description="predictions: a text for each question; references: its gold texts",
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
        )

    def _compute(self, predictions, references):
        pairs = [
            score_answer(predicted, golds, self.language)
            for predicted, golds in zip(predictions, references, strict=True)
        ]
        scores = _average(pairs)
        answerable = [pair for pair, golds in zip(pairs, references, strict=True) if golds]
        unanswerable = [pair for pair, golds in zip(pairs, references, strict=True) if not golds]
        if answerable and unanswerable:
            scores |= {f"{name}_answerable": value for name, value in _average(answerable).items()}
            scores["f1_unanswerable"] = _average(unanswerable)["f1"]
        return scores


def _average(pairs: list[tuple[float, float]]) -> dict[str, float]:
    exact, f1 = zip(*pairs, strict=True)
    return {"exact_match": sum(exact) / len(pairs), "f1": sum(f1) / len(pairs)}


def score_answer(predicted: str, golds: Sequence[str], language: str | None = None) -> tuple[float, float]:
    """(exact match, F1) of one answer, the best over its gold texts; no gold text means that "" is right."""
    if language is None:
        chinese = bool(_IDEOGRAPH.search("".join([predicted, *golds])))
    else:
        chinese = language.lower().split("-")[0].split("_")[0] == "zh"
    # As the script of SQuAD 2.0: golds of which nothing is left count as no answer.
    normalize = normalize_chinese if chinese else normalize_answer
    golds = golds if chinese else [gold for gold in golds if normalize(gold)]
    normalized = normalize(predicted)
    if not golds:
        return float(not normalized), float(not normalized)
    exact = float(any(normalize(gold) == normalized for gold in golds))
    if chinese:
        parts = split_chinese(predicted)
        return exact, max(compute_f1(parts, split_chinese(gold), count_longest_common_run) for gold in golds)
    words = normalized.split()
    return exact, max(compute_f1(words, normalize(gold).split(), count_common_words) for gold in golds)


def compute_f1(predicted: list[str], gold: list[str], count_common: Callable[[list, list], int]) -> float:
    """The harmonic mean of precision and recall, 0 without anything in common."""
    common = count_common(predicted, gold)
    if not common:
        return 0.0
    # The same value in another order (2 * common / all) would differ in the last digit from the published scripts.
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and more than one space (Rajpurkar et al. 2016, 4)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def count_common_words(predicted: list[str], gold: list[str]) -> int:
    """How many words the two have in common, each as often as both have it."""
    return sum((Counter(predicted) & Counter(gold)).values())


def normalize_chinese(text: str) -> str:
    """Lower case without the signs that CMRC's script leaves out."""
    return "".join(character for character in text.lower().strip() if character not in _CMRC_SIGNS)


def split_chinese(text: str) -> list[str]:
    """Each ideograph by itself and what stands between them by words, without signs (CMRC's mixed segmentation)."""
    parts, other = [], ""
    for character in text.lower().strip():
        if character in _CMRC_SIGNS:
            continue
        if _IDEOGRAPH.match(character):
            parts += [*_split_words(other), character]
            other = ""
        else:
            other += character
    return parts + _split_words(other)


def _split_words(text: str) -> list[str]:
    # Not sentence by sentence as the script does: that needs a download, and tells only the dots within a text apart.
    return nltk.word_tokenize(text, preserve_line=True) if text else []


def count_longest_common_run(predicted: list[str], gold: list[str]) -> int:
    """The length of the longest run of parts that both have."""
    longest, before = 0, [0] * (len(gold) + 1)
    for part in predicted:
        row = [0] * (len(gold) + 1)
        for index, other in enumerate(gold, start=1):
            if part == other:
                row[index] = before[index - 1] + 1
        longest, before = max(longest, *row), row
    return longest
