import random

from common.metrics.summaries import (
    Summaries,
    WordTokenizer,
    measure_copying,
    score_lead_baseline,
    split_sentences,
)

import numpy as np
import pytest
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

NAMES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
WORDS = (
    "the bridge bridges bridged was closed closing on Monday after a storm damaged damages running runs U.S. 1,000 "
    'well-known it\'s "quoted" council (again) workers work worked and river rivers'
).split()


def draw_summary(generator: random.Random, base: list[list[str]] | None = None) -> list[list[str]]:
    """Sentences as lists of words: new ones, or those of another summary with some words exchanged and some lost."""
    if base is None:
        return [generator.choices(WORDS, k=generator.randrange(2, 9)) for _ in range(generator.randrange(1, 5))]
    changed = [
        [generator.choice(WORDS) if generator.random() < 0.3 else word for word in sentence] for sentence in base
    ]
    generator.shuffle(changed)
    return changed[: generator.randrange(len(changed) + 1)]


def write_sentences(sentences: list[list[str]]) -> list[str]:
    return [f"So {' '.join(words)} then." for words in sentences]


def score(predictions: list[str], references: list[str], language: str | None = None) -> dict[str, float]:
    return Summaries(language).compute(predictions=predictions, references=references)


# English


@pytest.mark.parametrize("language", ["en", "eng_Latn", None])
def test_english_scores_are_those_of_rouge_score_with_its_stemmer(language):
    generator = random.Random(8)
    golds = [draw_summary(generator) for _ in range(1000)]
    pairs = [(write_sentences(draw_summary(generator, gold)), write_sentences(gold)) for gold in golds]
    scorer = RougeScorer(NAMES, use_stemmer=True)
    expected = [scorer.score("\n".join(gold), "\n".join(text)) for text, gold in pairs]
    predictions, references = zip(*[(" ".join(text), " ".join(gold)) for text, gold in pairs], strict=True)
    assert "" in predictions
    scores = score(list(predictions), list(references), language)
    assert list(scores) == NAMES
    for name in NAMES:
        assert scores[name] == pytest.approx(100 * np.mean([row[name].fmeasure for row in expected])), name
    assert abs(scores["rougeL"] - scores["rougeLsum"]) > 1  # the sentences were seen
    rows = Summaries(language).score_rows(predictions, references)
    for row, right in zip(rows, expected, strict=True):
        assert row == {name: pytest.approx(100 * right[name].fmeasure) for name in NAMES}


def test_rouge_by_hand():
    """4 of 5 and 4 of 6 words, 2 of 4 and 2 of 5 pairs, and the longest common row of words is as long as 4."""
    scores = score(["the cat sat on mats"], ["the big cat sat on it"], "en")
    f1 = lambda right, written, wanted: 100 * 2 * right / (written + wanted)  # noqa: E731
    assert scores["rouge1"] == pytest.approx(f1(4, 5, 6)) and scores["rougeL"] == pytest.approx(f1(4, 5, 6))
    assert scores["rouge2"] == pytest.approx(f1(2, 4, 5))


def test_english_words_are_stemmed_and_others_are_not():
    assert score(["closing bridges"], ["closed bridge"], "en")["rouge1"] == pytest.approx(100)
    assert score(["closing bridges"], ["closed bridge"], "de")["rouge1"] == 0


def test_sentences_in_another_order_have_the_same_lsum_but_not_the_same_l():
    gold = "Cats sleep all day. Dogs bark at night."
    scores = score(["Dogs bark at night. Cats sleep all day."], [gold], "en")
    assert scores["rougeLsum"] == pytest.approx(100) and scores["rougeL"] == pytest.approx(50)


# Other languages


def test_the_same_chinese_summaries_score_100():
    texts = ["马洛的桥周一关闭。工人在修桥。", "北京下雪"]
    assert score(texts, texts) == {name: pytest.approx(100) for name in NAMES}
    assert score(texts, texts, "zh") == {name: pytest.approx(100) for name in NAMES}


def test_chinese_is_compared_by_characters():
    """我爱北京 against 他爱南京城: 爱 and 京 are right, no pair of neighbours is, and they stand in one order."""
    scores = score(["我爱北京"], ["他爱南京城"], "zh_CN")
    assert scores["rouge1"] == pytest.approx(100 * 2 * 2 / (4 + 5)) == scores["rougeL"]
    assert scores["rouge2"] == 0
    scores = score(["我爱北京。"], ["我爱南京！"], "zh")
    assert scores["rouge2"] == pytest.approx(100 * 2 * 1 / (3 + 3))  # 我爱 of three pairs; punctuation is no word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Straße, Ärger!", ["straße", "ärger"]),
        ("Он сказал: «да»", ["он", "сказал", "да"]),
        ("GPU在2024年很贵", ["gpu", "在", "2024", "年", "很", "贵"]),
        ("カタ ひら", ["カ", "タ", "ひ", "ら"]),
        ("snake_case don't", ["snake", "case", "don", "t"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("😀 ... —", []),
        ("", []),
    ],
)
def test_words_of_any_script(text, words):
    assert WordTokenizer().tokenize(text) == words


def test_words_that_are_written_with_signs_over_their_letters_are_whole():
    """Hindi, Thai and Arabic write vowels as marks, which are no letters to Python."""
    assert WordTokenizer().tokenize("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert WordTokenizer().tokenize("Zu\u0308rich") in (["zu\u0308rich"], ["zürich"])


def test_the_references_decide_the_language_where_none_is_given():
    assert score(["Brücken"], ["brücken"])["rouge1"] == pytest.approx(100)
    assert score(["closing bridges"], ["closed bridge"])["rouge1"] == pytest.approx(100)  # English: stemmed
    russian = score(["мост закрыт"], ["мост закрыт"])
    assert russian["rouge1"] == pytest.approx(100)
    # One foreign word in a hundred leaves it English; a tenth of other letters does not.
    mostly = [*["closed bridge"] * 99, "Zürich"]
    assert score(["closing bridges"] * 100, mostly)["rouge1"] == pytest.approx(99)
    assert score(["closing bridges"] * 2, ["closed bridge", "мост закрыт"])["rouge1"] == 0


def test_predictions_do_not_decide_the_language():
    assert score(["мост"], ["closed bridge"])["rouge1"] == 0
    assert score(["closing bridges", "мост закрыт"], ["closed bridge", "bridge"])["rouge1"] == pytest.approx(50)


def test_a_row_without_reference_has_no_score():
    rows = Summaries("en").score_rows(["a cat", "a dog"], [None, "a dog"])
    assert rows == [None, {name: pytest.approx(100) for name in NAMES}]


# Sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met Mrs. Jones. They left.", ["Dr. Smith met Mrs. Jones.", "They left."]),
        ("J. R. Tolkien wrote it. We read it.", ["J. R. Tolkien wrote it.", "We read it."]),
        ("It cost 3.5 million. Yes.", ["It cost 3.5 million.", "Yes."]),
        ("Fruit, e.g. apples. Nuts, i.e. these.", ["Fruit, e.g. apples.", "Nuts, i.e. these."]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("He left (at last.) We stayed.", ["He left (at last.)", "We stayed."]),
        ("first line\nsecond line\n\n third", ["first line", "second line", "third"]),
        ("我爱北京。你呢？好！", ["我爱北京。", "你呢？", "好！"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("what?! no...  yes", ["what?!", "no...", "yes"]),
        ("One.  \n Two.", ["One.", "Two."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_end_at_their_punctuation_and_at_line_ends(text, sentences):
    assert split_sentences(text) == sentences


# Copying


def test_copied_words_and_new_pairs_by_hand():
    """2 of 4 words are in the document, and 2 of 3 pairs are new; in the other row 2 of 2 and none of 1."""
    scores = measure_copying(["the bridge falls down", "A b"], ["On Monday the bridge was closed", "a b a"])
    assert scores["copied_words"] == pytest.approx(100 * (2 / 4 + 2 / 2) / 2)
    assert scores["novel_bigrams"] == pytest.approx(100 * (2 / 3 + 0) / 2)


def test_a_pair_counts_once_however_often_it_is_written():
    scores = measure_copying(["a b a b c"], ["a b"])  # ab, ba, bc: the last two are new
    assert scores["novel_bigrams"] == pytest.approx(100 * 2 / 3)
    assert scores["copied_words"] == pytest.approx(100 * 4 / 5)


def test_chinese_copying_is_of_characters():
    scores = measure_copying(["桥关了"], ["马洛的桥周一关闭。"])
    assert scores == {"copied_words": pytest.approx(200 / 3), "novel_bigrams": pytest.approx(100)}


def test_summaries_without_words_copy_nothing_and_do_not_count():
    assert measure_copying(["", "..."], ["a", "b"]) == {"copied_words": 0, "novel_bigrams": 0}
    assert measure_copying(["", "a b"], ["c", "a b"]) == {"copied_words": 100, "novel_bigrams": 0}
    assert measure_copying(["a"], ["a"]) == {"copied_words": 100, "novel_bigrams": 0}  # a word alone is no pair


# The baseline


ROWS = Dataset.from_list(
    [
        {"document": "The bridge closed. Nobody came. It rained.", "summary": "The bridge closed."},
        {"document": "Cats sleep.", "summary": "Dogs bark."},
        {"document": "Not scored. At all.", "summary": None},
    ]
)


def test_the_first_sentences_are_scored_as_summaries():
    """One sentence: all words and none. Two: 3 of 5 and 3 of 3 words, and none."""
    one = score_lead_baseline(ROWS, 1, Summaries("en"))
    assert one == {name: pytest.approx(50) for name in NAMES}
    two = score_lead_baseline(ROWS, 2, Summaries("en"))
    assert two["rouge1"] == pytest.approx(100 * (2 * 3 / (5 + 3) + 0) / 2)
    assert score_lead_baseline(ROWS, 3, Summaries("en"))["rouge1"] == pytest.approx(100 * (2 * 3 / (7 + 3)) / 2)
    assert score_lead_baseline(ROWS, 9, Summaries("en"))["rouge1"] == pytest.approx(100 * (2 * 3 / (7 + 3)) / 2)


def test_there_is_no_baseline_without_sentences_or_summaries():
    assert score_lead_baseline(ROWS, 0, Summaries("en")) == {}
    assert score_lead_baseline(ROWS.select([2]), 3, Summaries("en")) == {}
