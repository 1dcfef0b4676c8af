import random

from common.metrics.replies import Replies, match_exactly, measure_distinct
from common.metrics.summaries import WordTokenizer

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

NAMES = ["exact_match", "bleu", "rougeL", "length_ratio", "distinct_1", "distinct_2"]
ENGLISH = "the a bakery opens at 7 8.30 on Monday, it's in Mill Lane. (often) where? Yes! U.S. 1,000 well-known".split()
CHINESE = [*"面包店在大街几点开门关门我你的电话是号请问谢谢再见", "，", "。", "！", "？", "GPU", "3", " "]


def score(predictions: list[str], references: list[str], language: str | None = None) -> dict[str, float]:
    return Replies(language).compute(predictions=predictions, references=references)


def draw_pairs(words: list[str], joint: str) -> tuple[list[str], list[str]]:
    """1,000 true replies, and what was predicted: some the same, some with words exchanged or lost, some empty."""
    draw = random.Random(6)
    predictions, references = [], []
    for _ in range(1000):
        gold = draw.choices(words, k=draw.randrange(1, 15))
        text = [draw.choice(words) if draw.random() < 0.2 else word for word in gold][: draw.randrange(1, 30)]
        references.append(joint.join(gold).strip() or words[0])
        predictions.append("" if draw.random() < 0.02 else joint.join(text).strip())
    return predictions, references


def count_distinct(texts: list[str], order: int) -> float:
    """distinct-n in a loop of its own."""
    seen, count = {}, 0
    for text in texts:
        words = WordTokenizer().tokenize(text)
        for start in range(len(words) - order + 1):
            seen[" ".join(words[start : start + order])] = True
            count += 1
    return 100 * len(seen) / count


@pytest.mark.parametrize(
    ("language", "words", "joint", "tokenizer", "rouge"),
    [
        ("en", ENGLISH, " ", "13a", {"use_stemmer": True}),
        (None, ENGLISH, " ", "13a", {"use_stemmer": True}),
        ("de", ENGLISH, " ", "13a", {"tokenizer": WordTokenizer()}),
        ("zh", CHINESE, "", "zh", {"tokenizer": WordTokenizer()}),
        ("zho_Hans", CHINESE, "", "zh", {"tokenizer": WordTokenizer()}),
        (None, CHINESE, "", "zh", {"tokenizer": WordTokenizer()}),
    ],
)
def test_scores_of_a_thousand_replies_are_those_of_sacrebleu_and_rouge_score(language, words, joint, tokenizer, rouge):
    predictions, references = draw_pairs(words, joint)
    scores = score(predictions, references, language)
    assert list(scores) == NAMES
    bleu = sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenizer)
    assert scores["bleu"] == pytest.approx(bleu.score) and 10 < bleu.score < 90
    assert scores["length_ratio"] == pytest.approx(bleu.sys_len / bleu.ref_len) and scores["length_ratio"] < 1
    scorer = RougeScorer(["rougeL"], **rouge)
    pairs = list(zip(references, predictions, strict=True))
    expected = [100 * scorer.score(gold, text)["rougeL"].fmeasure for gold, text in pairs]
    assert scores["rougeL"] == pytest.approx(np.mean(expected))
    matches = [gold.split() == text.split() for gold, text in pairs]
    assert scores["exact_match"] == pytest.approx(sum(matches) / 10) and 0 < sum(matches) < 500
    for order in (1, 2):
        assert scores[f"distinct_{order}"] == pytest.approx(count_distinct(predictions, order))
    rows = Replies(language).score_rows(predictions, references)
    assert [row["rougeL"] for row in rows] == pytest.approx(expected)
    assert [row["exact_match"] for row in rows] == [100 * match for match in matches]


@pytest.mark.parametrize("language", ["zh", None])
def test_the_same_chinese_replies_score_100(language):
    texts = ["面包店在大街。", "药店的电话是626。", "不客气，再见！"]
    scores = score(texts, texts, language)
    assert {name: scores[name] for name in NAMES[:4]} == {
        "exact_match": 100, "bleu": pytest.approx(100), "rougeL": pytest.approx(100), "length_ratio": 1,
    }  # fmt: skip


def test_replies_in_two_languages_are_compared_by_characters_where_they_are_chinese():
    """To sacrebleu's default, which is right for English alone, 面包店在大街 is a single word."""
    predictions, references = ["面包店在大路上。", "It opens at 7."], ["面包店在大街上。", "It opens at 7."]
    expected = sacrebleu.corpus_bleu(predictions, [references], tokenize="zh").score
    assert score(predictions, references)["bleu"] == pytest.approx(expected) and expected > 50
    # 7 of 8 characters are right; their full stop is no word to ROUGE: 6 of 7.
    assert Replies().score_rows(predictions, references)[0]["rougeL"] == pytest.approx(100 * 6 / 7)
    # What is predicted does not decide: English replies are wanted.
    expected = sacrebleu.corpus_bleu(["面包店"], [["It opens at 7."]]).score
    assert score(["面包店"], ["It opens at 7."])["bleu"] == pytest.approx(expected)


def test_japanese_and_korean_have_the_tokenizers_of_sacrebleu():
    assert Replies("jpn").choose_tokenizer(["面"]) == "ja-mecab" and Replies("ko").choose_tokenizer([]) == "ko-mecab"


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("It opens at 7.", "It opens at 7.", True),
        (" It  opens\nat 7. ", "It opens at 7.", True),
        ("It opens at 7", "It opens at 7.", False),
        ("it opens at 7.", "It opens at 7.", False),
        ("", "It opens at 7.", False),
        ("在大街。", "在大街。", True),
        ("在 大街。", "在大街。", False),
    ],
)
def test_replies_match_where_they_differ_in_spaces_at_most(text, gold, expected):
    assert match_exactly(text, gold) == expected
    assert Replies().score_rows([text], [gold])[0]["exact_match"] == 100 * expected


def test_distinct_by_hand():
    """the cat the dog / the cat: 3 of 6 words differ; of the pairs the-cat, cat-the, the-dog, the-cat 3 of 4."""
    texts = ["The cat: the dog!", "the cat"]
    assert measure_distinct(texts, 1) == pytest.approx(100 * 3 / 6)
    assert measure_distinct(texts, 2) == pytest.approx(100 * 3 / 4)
    scores = score(texts, ["the cat and the dog", "a cat"])
    assert (scores["distinct_1"], scores["distinct_2"]) == (pytest.approx(50), pytest.approx(75))


def test_chinese_variety_is_of_characters():
    """好 好 的 / 好: 2 of 4 differ; 好好 and 好的 do."""
    assert measure_distinct(["好好的。", "好"], 1) == 50
    assert measure_distinct(["好好的。", "好"], 2) == 100


def test_replies_without_words_have_no_variety():
    assert measure_distinct(["", "..."], 1) == 0 and measure_distinct(["one"], 2) == 0
    assert score([""], ["Yes."])["distinct_1"] == 0 == score([""], ["Yes."])["length_ratio"]


def test_the_ratio_of_the_lengths_by_hand():
    """Four words against five, the full stop counted as one."""
    assert score(["It opens early."], ["It opens at 7."])["length_ratio"] == pytest.approx(4 / 5)


def test_a_reply_that_is_not_known_has_no_score():
    rows = Replies("en").score_rows(["Yes.", "No."], [None, "No."])
    assert rows == [None, {"exact_match": 100, "rougeL": pytest.approx(100)}]
