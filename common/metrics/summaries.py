"""ROUGE of summaries in any language, and how much of them is copied."""

import re
from collections.abc import Sequence

from common.languages import shorten_code

import datasets
import evaluate
import numpy as np
import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# Scripts without spaces between words: each character counts as one.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\U00020000-\U0003ffff"
# Not by re, which takes the vowel signs of Hindi and Arabic for the ends of words.
_WORD = regex.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# After a full stop with a space behind it, but not after a title or an initial; after an ideographic one; at line ends.
_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)\]]))(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|Sr|Jr|St|vs)\.)(?<!\b(?:Mrs|etc)\.)"
    r"(?<!\b(?:e\.g|i\.e)\.)\s+"
    r"|(?:(?<=[。！？])|(?<=[。！？][”’」』）]))(?![”’」』）])|\n+"
)


class WordTokenizer(Tokenizer):
    """Words of any script in lower case, each character of scripts without spaces by itself, no punctuation."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


class Summaries(evaluate.Metric):
    """ROUGE-1, -2, -L and -Lsum (Lin 2004): mean F1 over the rows, in percent, as rouge_score computes it.

    English words are stemmed. rouge_score knows ASCII letters only, so that a Chinese or Russian summary scores 0 even
    against itself: other languages are compared by words of any script, Chinese by characters. Without a language the
    references decide.
    """

    # Whether the greater one is the better; neither is in what `measure_copying` says.
    SCORES = dict.fromkeys(NAMES, True) | {"copied_words": None, "novel_bigrams": None}

    def __init__(self, language: str | None = None, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)
        self.language = shorten_code(language)

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="@inproceedings{lin-2004-rouge, title={ROUGE}, year={2004}}",
            inputs_description="predictions: a summary a row; references: its gold summary",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        rows = self.score_rows(predictions, references)
        return {name: float(np.mean([row[name] for row in rows])) for name in NAMES}

    def score_rows(self, predictions: Sequence[str], references: Sequence[str | None]) -> list[dict[str, float] | None]:
        """The scores of each summary by itself, None where there is no reference."""
        scorer = RougeScorer(list(NAMES), tokenizer=self.choose_tokenizer(references))
        return [
            None if gold is None else self._score(scorer, text, gold)
            for text, gold in zip(predictions, references, strict=True)
        ]

    def choose_tokenizer(self, texts: Sequence[str | None]) -> Tokenizer:
        """English with a stemmer, or words of any script; without a language English where most letters are ASCII."""
        language = self.language
        if language is None:
            letters = [letter for text in texts if text for letter in text if letter.isalpha()]
            language = "en" if sum(map(str.isascii, letters)) >= 0.95 * len(letters) else "other"
        return DefaultTokenizer(use_stemmer=True) if language == "en" else WordTokenizer()

    @staticmethod
    def _score(scorer: RougeScorer, text: str, gold: str) -> dict[str, float]:
        # ROUGE-Lsum reads a line as a sentence.
        scores = scorer.score("\n".join(split_sentences(gold)), "\n".join(split_sentences(text)))
        return {name: 100 * scores[name].fmeasure for name in NAMES}


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, by its punctuation and line ends alone: nothing is downloaded."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def measure_copying(summaries: Sequence[str], documents: Sequence[str]) -> dict[str, float]:
    """Percent of the words of the summaries that their documents have too, and of their pairs of words that are new.

    Both are means over the rows (novel n-grams: See et al. 2017, section 5.1).
    """
    tokenizer = WordTokenizer()
    copied, novel = [], []
    for summary, document in zip(summaries, documents, strict=True):
        words, known = tokenizer.tokenize(summary), tokenizer.tokenize(document)
        pairs, known_pairs = (set(zip(part, part[1:], strict=False)) for part in (words, known))
        if words:
            known = set(known)
            copied.append(np.mean([word in known for word in words]))
        if pairs:
            novel.append(len(pairs - known_pairs) / len(pairs))
    return {
        "copied_words": float(100 * np.mean(copied)) if copied else 0.0,
        "novel_bigrams": float(100 * np.mean(novel)) if novel else 0.0,
    }


def score_lead_baseline(rows: datasets.Dataset, sentences: int, metric: Summaries) -> dict[str, float]:
    """The scores of the first sentences of each document: a summary for nothing, and in news hard to beat.

    {} where `sentences` is 0 or no row has a summary.
    """
    known = [row for row in rows if row["summary"] is not None]
    if not sentences or not known:
        return {}
    leads = [" ".join(split_sentences(row["document"])[:sentences]) for row in known]
    return metric.compute(predictions=leads, references=[row["summary"] for row in known])
