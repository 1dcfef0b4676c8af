"""How replies of a chat compare with the true ones: exact match, BLEU-4, ROUGE-L, length; and how varied they are."""

import re
from collections.abc import Sequence

from common.languages import shorten_code
from common.metrics.summaries import Summaries, WordTokenizer
from common.metrics.translations import TOKENIZERS

import datasets
import evaluate
from sacrebleu.metrics import BLEU

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


class Replies(evaluate.Metric):
    """Exact match, corpus BLEU-4 and mean ROUGE-L in percent, the ratio of the lengths, distinct-1 and distinct-2.

    Replies match exactly where they differ in spaces at most. BLEU is sacrebleu's, with the tokenizer of the language:
    without one, that for Chinese where any true reply has Chinese characters. distinct-n is the share of the n-grams of
    all replies that differ, in percent (Li et al. 2016): the lower, the more they repeat each other.
    """

    # Whether the greater one is the better, None where neither is.
    SCORES = {"exact_match": True, "bleu": True, "rougeL": True} | dict.fromkeys(
        ("length_ratio", "distinct_1", "distinct_2")
    )

    def __init__(self, language: str | None = None, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)
        self.language = shorten_code(language)
        self.rouge = Summaries(language)

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="@inproceedings{li-2016-diversity, title={A Diversity-Promoting Objective Function for Neural "
            "Conversation Models}, year={2016}}",
            inputs_description="predictions: a reply a row; references: the true reply",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        predictions, references = list(predictions), list(references)
        bleu = self.make_bleu(references).corpus_score(predictions, [references])
        rouge = self.rouge.compute(predictions=predictions, references=references)
        matches = [match_exactly(*pair) for pair in zip(predictions, references, strict=True)]
        return {
            "exact_match": 100 * sum(matches) / len(matches),
            "bleu": bleu.score,
            "rougeL": rouge["rougeL"],
            "length_ratio": bleu.ratio,
            "distinct_1": measure_distinct(predictions, 1),
            "distinct_2": measure_distinct(predictions, 2),
        }

    def make_bleu(self, references: Sequence[str]) -> BLEU:
        """sacrebleu's scorer for these true replies."""
        return BLEU(tokenize=self.choose_tokenizer(references))

    def choose_tokenizer(self, texts: Sequence[str]) -> str:
        """sacrebleu's tokenizer for the language, or for these texts where none is given."""
        if self.language is not None:
            return TOKENIZERS.get(self.language, "13a")
        return "zh" if any(map(_HAN.search, texts)) else "13a"

    def score_rows(self, predictions: Sequence[str], references: Sequence[str | None]) -> list[dict[str, float] | None]:
        """Exact match and ROUGE-L of each reply by itself, None where the true one is not known."""
        rouge = self.rouge.score_rows(predictions, references)
        return [
            scores and {"exact_match": 100.0 * match_exactly(text, gold), "rougeL": scores["rougeL"]}
            for scores, text, gold in zip(rouge, predictions, references, strict=True)
        ]


def match_exactly(text: str, gold: str) -> bool:
    """Whether two texts differ in spaces at most."""
    return text.split() == gold.split()


def measure_distinct(texts: Sequence[str], order: int) -> float:
    """Percent of the n-grams of all texts, n the `order`, that differ; 0 where there is none."""
    tokenizer = WordTokenizer()
    grams = []
    for text in texts:
        words = tokenizer.tokenize(text)
        grams += zip(*(words[start:] for start in range(order)), strict=False)
    return 100 * len(set(grams)) / len(grams) if grams else 0.0
