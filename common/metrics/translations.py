"""BLEU, chrF++ and TER of translations: sacrebleu's, with the tokenizer that the target language needs."""

from collections.abc import Sequence

from common.errors import UserError
from common.languages import shorten_code

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF, TER

# Languages written without spaces, or whose words sacrebleu's default does not find.
TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
PACKAGES = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]", "flores200": "sentencepiece"}


class Translations(evaluate.Metric):
    """Corpus BLEU (Papineni et al. 2002), chrF++ (Popović 2017) and, on request, TER (Snover et al. 2006), in percent.

    The same numbers as the sacrebleu command line gives with `-tok` of the target language; `signatures` says how each
    was computed, once something was. To sacrebleu's default tokenizer a Chinese sentence is a single word.
    """

    # Whether the greater one is the better, None where neither is.
    SCORES = {"bleu": True, "chrf": True, "ter": False, "length_ratio": None}

    def __init__(self, target_lang: str | None = None, tokenizer: str | None = None, ter: bool = False, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)
        language = shorten_code(target_lang)
        tokenizer = tokenizer or TOKENIZERS.get(language, "13a")
        if tokenizer not in BLEU.TOKENIZERS:
            raise UserError(f"bleu_tokenizer must be one of {', '.join(BLEU.TOKENIZERS)}, not {tokenizer!r}.")
        try:
            self.scorers = {"bleu": BLEU(tokenize=tokenizer), "chrf": CHRF(word_order=2)}
        except RuntimeError as error:  # the package of a tokenizer is missing
            package = PACKAGES.get(tokenizer, "sacrebleu")
            raise UserError(
                f"BLEU for {language} needs the tokenizer {tokenizer}: pip install '{package}', or set bleu_tokenizer "
                "to char."
            ) from error
        if ter:
            without_spaces = language in TOKENIZERS  # characters are words only where the text is normalized too
            self.scorers["ter"] = TER(normalized=without_spaces, asian_support=without_spaces)
        self.sentence_scorer = CHRF(word_order=2)
        self.signatures: dict[str, str] = {}

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="@inproceedings{post-2018-call, title={A Call for Clarity in Reporting BLEU Scores}, year={2018}}",
            inputs_description="predictions: a translation a row; references: its gold translation",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        predictions, references = list(predictions), list(references)
        scores = {name: scorer.corpus_score(predictions, [references]) for name, scorer in self.scorers.items()}
        self.signatures = {name: str(scorer.get_signature()) for name, scorer in self.scorers.items()}
        return {name: score.score for name, score in scores.items()} | {"length_ratio": scores["bleu"].ratio}

    def score_rows(self, predictions: Sequence[str], references: Sequence[str | None]) -> list[dict[str, float] | None]:
        """chrF++ of each translation by itself, None where there is no reference."""
        return [
            None if gold is None else {"chrf": self.sentence_scorer.sentence_score(text, [gold]).score}
            for text, gold in zip(predictions, references, strict=True)
        ]
