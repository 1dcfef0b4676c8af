import random
import re
import string
from collections import Counter

from common.metrics.answers import AnswerMetric, score_answer

import pytest
from nltk import word_tokenize

# The published arithmetic, written down anew


def normalize(text: str) -> str:
    """SQuAD: lower case, no punctuation, no articles, single spaces, in this order."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def compute_squad_f1(predicted: str, gold: str) -> float:
    """As of version 2.0: where either is empty, 1 if both are."""
    predicted_words, gold_words = normalize(predicted).split(), normalize(gold).split()
    if not predicted_words or not gold_words:
        return float(predicted_words == gold_words)
    common = sum((Counter(predicted_words) & Counter(gold_words)).values())
    if common == 0:
        return 0.0
    precision, recall = 1.0 * common / len(predicted_words), 1.0 * common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def score_as_squad_2(predicted: str, golds: list[str]) -> tuple[float, float]:
    golds = [gold for gold in golds if normalize(gold)] or [""]
    return (
        max(float(normalize(predicted) == normalize(gold)) for gold in golds),
        max(compute_squad_f1(predicted, gold) for gold in golds),
    )


def score_as_squad_1(predicted: str, golds: list[str]) -> tuple[float, float]:
    """Without a rule for what is empty, and without choosing among the golds."""
    scores = []
    for gold in golds:
        common = sum((Counter(normalize(predicted).split()) & Counter(normalize(gold).split())).values())
        scores.append(compute_squad_f1(predicted, gold) if common else 0.0)
    return max(float(normalize(predicted) == normalize(gold)) for gold in golds), max(scores)


SIGNS = "- : _ * ^ / \\ ~ ` + = ， 。 ： ？ ！ “ ” ； ’ 《 》 …… · 、 「 」 （ ） － ～ 『 』".split(" ")


def segment(text: str) -> list[str]:
    """CMRC 2018: ideographs one by one, the rest in words; signs go, without ending a word."""
    segments, word = [], ""
    for character in text.lower().strip():
        if character in SIGNS:  # "……" is one entry of two characters, which no single character is
            continue
        if re.search("[\u4e00-\u9fa5]", character):
            if word != "":
                segments.extend(word_tokenize(word, preserve_line=True))
                word = ""
            segments.append(character)
        else:
            word += character
    if word != "":
        segments.extend(word_tokenize(word, preserve_line=True))
    return segments


def find_longest_run(first: list[str], second: list[str]) -> int:
    """By trying all runs, the longest ones first."""
    for length in range(min(len(first), len(second)), 0, -1):
        runs = {tuple(first[start : start + length]) for start in range(len(first) - length + 1)}
        if any(tuple(second[start : start + length]) in runs for start in range(len(second) - length + 1)):
            return length
    return 0


def score_as_cmrc(predicted: str, golds: list[str]) -> tuple[float, float]:
    def leave_out_signs(text: str) -> str:
        return "".join(character for character in text.lower().strip() if character not in SIGNS)

    scores, predicted_parts = [], segment(predicted)
    for gold in golds:
        gold_parts = segment(gold)
        longest = find_longest_run(gold_parts, predicted_parts)
        if longest == 0:
            scores.append(0.0)
            continue
        precision, recall = 1.0 * longest / len(predicted_parts), 1.0 * longest / len(gold_parts)
        scores.append((2 * precision * recall) / (precision + recall))
    return float(any(leave_out_signs(gold) == leave_out_signs(predicted) for gold in golds)), max(scores)


# Texts to score

ENGLISH = [
    "a", "an", "the", "A", "An", "The", "THE", "theatre", "ant", "a.", "the-", "'s", "don't", "-", "--", "_", ",", ".",
    "!", "$", "(", ")", "%", "1", "42", "3.5", "1,000", "U.S.", "US", "us", "e-mail", "email", "café", "cafe\u0301",
    "CAFÉ", "ß", "İ", "ﬁ", "€", "“", "”", "’", "—", "Ada", "ada", "Lovelace", "Rome", "I", "\u200b", "", "", "x-a-y",
]  # fmt: skip
CHINESE = [
    "北", "京", "北京", "大学", "大", "学", "的", "一", "在", "中国", "1999", "年", "3.5", "%", "，", "。", "？", "：",
    "！", "“", "”", "‘", "’", "；", "《", "》", "…", "……", "·", "、", "「", "」", "（", "）", "(", ")", "-", "－", "—",
    "～", "~", "『", "』", "*", "/", "\\", "`", "^", "+", "=", "_", ":", ",", ".", " ", "  ", "\u3000", "iPhone",
    "IPHONE", "don't", "U.S.", "A", "a", "the", "龥", "龦", "㐀", "𠀀", "〇", "１", "の", "é", "İ", "", "\"", "'", "[",
    "]", "&",
]  # fmt: skip


def draw_texts(generator: random.Random, parts: list[str], spaces: list[str]) -> tuple[str, list[str]]:
    """A prediction and one to three gold texts; most of the predictions are made of a gold one."""

    def join(words: list[str]) -> str:
        return "".join(word + generator.choice(spaces) for word in words)

    words = [generator.choices(parts, k=generator.randrange(0, 6)) for _ in range(generator.randrange(1, 4))]
    predicted = list(generator.choice(words))
    kind = generator.randrange(6)
    if kind == 0:
        predicted = generator.choices(parts, k=generator.randrange(0, 6))
    elif kind == 1:
        predicted = predicted[1:] + generator.choices(parts, k=2)
    elif kind == 2:
        generator.shuffle(predicted)
    elif kind == 3:
        predicted = predicted + predicted
    elif kind == 4:
        predicted = [generator.choice([word.upper(), word.lower()]) for word in predicted]
    return join(predicted), [join(gold) for gold in words]


def draw_pairs(seed: int, parts: list[str], spaces: list[str], count: int) -> list[tuple[str, list[str]]]:
    generator = random.Random(seed)
    return [draw_texts(generator, parts, spaces) for _ in range(count)]


ENGLISH_PAIRS = draw_pairs(0, ENGLISH, ["", " ", " ", " ", "  ", "\t", "\u00a0", "\u3000", "\n"], 3000)
CHINESE_PAIRS = draw_pairs(1, CHINESE, ["", "", "", "", " "], 3000)
MIXED_PAIRS = draw_pairs(2, ENGLISH + CHINESE, ["", " "], 1000)


def count_outcomes(scores: list[tuple[float, float]]) -> tuple[int, int, int]:
    """How many are exact, partly right and wrong."""
    exact, partly = sum(exact for exact, _ in scores), sum(0 < f1 < 1 for _, f1 in scores)
    return int(exact), partly, sum(f1 == 0 for _, f1 in scores)


def test_the_texts_of_these_tests_are_right_partly_right_and_wrong():
    for pairs, score in ((ENGLISH_PAIRS, score_as_squad_2), (CHINESE_PAIRS, score_as_cmrc)):
        assert min(count_outcomes([score(*pair) for pair in pairs])) > 300
    assert sum(not any(map(normalize, golds)) for _, golds in ENGLISH_PAIRS) > 100
    assert sum(not normalize(predicted) for predicted, _ in ENGLISH_PAIRS) > 100


# Scores of single answers


def test_english_scores_are_those_of_squad_2():
    pairs = ENGLISH_PAIRS + [(predicted, []) for predicted, _ in ENGLISH_PAIRS[:500]]
    for predicted, golds in pairs:
        for language in ("en", None):
            assert score_answer(predicted, golds, language) == score_as_squad_2(predicted, golds), (predicted, golds)


def test_english_scores_are_those_of_squad_1_where_every_gold_answer_has_a_word():
    pairs = [(predicted, golds) for predicted, golds in ENGLISH_PAIRS if all(map(normalize, golds))]
    assert len(pairs) > 1000
    for predicted, golds in pairs:
        assert score_answer(predicted, golds, "en") == score_as_squad_1(predicted, golds), (predicted, golds)


def test_other_languages_are_scored_by_words_even_with_ideographs():
    for predicted, golds in CHINESE_PAIRS[:1000] + MIXED_PAIRS:
        for language in ("en", "ja", "de-CH", ""):
            assert score_answer(predicted, golds, language) == score_as_squad_2(predicted, golds), (predicted, golds)


@pytest.mark.parametrize("language", ["zh", "zh-CN", "zh_TW", "ZH-hant"])
def test_chinese_scores_are_those_of_cmrc_2018(language):
    pairs = CHINESE_PAIRS + MIXED_PAIRS + ENGLISH_PAIRS[:500]
    for predicted, golds in pairs if language == "zh" else pairs[::20]:
        assert score_answer(predicted, golds, language) == score_as_cmrc(predicted, golds), (predicted, golds)


def test_without_a_language_each_question_is_scored_by_its_script():
    chosen = Counter()
    for predicted, golds in CHINESE_PAIRS + MIXED_PAIRS:
        is_chinese = any("\u4e00" <= character <= "\u9fa5" for text in (predicted, *golds) for character in text)
        expected = (score_as_cmrc if is_chinese else score_as_squad_2)(predicted, golds)
        assert score_answer(predicted, golds) == expected, (predicted, golds)
        chosen[is_chinese] += 1
    assert min(chosen.values()) > 500


@pytest.mark.parametrize(
    ("predicted", "golds", "exact", "f1"),
    [
        ("the Eiffel Tower in Paris", ["Eiffel Tower"], 0, 2 / 3),  # 2 of 4 words, 2 of 2
        ("Ada Ada", ["Ada Lovelace"], 0, 1 / 2),  # the second Ada has no counterpart
        ("U.S.", ["The US!"], 1, 1),
        ("10-20", ["1020"], 1, 1),
        ("well-known", ["well known"], 0, 0),
        ("“Rome”", ["Rome"], 0, 0),  # quotation marks that are not ASCII stay
        ("an  ant,\ta theatre", ["ant theatre"], 1, 1),
        ("Paris", ["Rome", "in Paris", "the city of Paris"], 0, 2 / 3),  # the best: 1 of 1, 1 of 2
        ("", ["Rome"], 0, 0),
        ("the", ["Rome"], 0, 0),
        ("", [], 1, 1),
        ("the.", [], 1, 1),
        ("Rome", [], 0, 0),
        ("", ["the", "..."], 1, 1),  # nothing is left of the golds: no answer
        ("the", ["a", "Rome"], 0, 0),  # of the golds only Rome counts
    ],
)
def test_english_answers_scored_by_hand(predicted, golds, exact, f1):
    for language in ("en", None):
        assert score_answer(predicted, golds, language) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("predicted", "golds", "exact", "f1"),
    [
        ("北京大学", ["北京"], 0, 2 / 3),  # 2 of 4, 2 of 2
        ("北大京", ["北京大"], 0, 1 / 3),  # no two stand side by side in both
        ("1998年", ["1999年"], 0, 1 / 2),  # of two parts the second
        ("《北京》。", ["北京"], 1, 1),
        ("北京……", ["北京"], 0, 4 / 5),  # the dots stay: 2 of 3, 2 of 2
        ("北京,", ["北京"], 0, 4 / 5),  # so does a comma of ASCII
        ("IPHONE 5", ["苹果iPhone 5"], 0, 2 / 3),  # 2 of 2, 2 of 4
        ("1998-1999年", ["19981999年"], 1, 1),  # a sign goes without ending the word
        ("北京", ["上海", "北京市"], 0, 4 / 5),
        ("", ["北京"], 0, 0),
        ("在北京的大学", ["北京大学"], 0, 2 / 5),  # 2 of 6 and 2 of 4: 北京 and 大学 do not touch
    ],
)
def test_chinese_answers_scored_by_hand(predicted, golds, exact, f1):
    for language in ("zh", "zh-CN", None):
        assert score_answer(predicted, golds, language) == pytest.approx((exact, f1))


@pytest.mark.parametrize(("predicted", "score"), [("", 1.0), ("。", 1.0), ("北京", 0.0)])
def test_a_chinese_question_without_an_answer_is_right_when_nothing_is_left_of_the_prediction(predicted, score):
    assert score_answer(predicted, [], "zh") == (score, score)


def test_the_language_changes_the_score_of_the_same_answer():
    assert score_answer("北京 大学", ["北京"], "en") == pytest.approx((0, 2 / 3))  # two words, one of them right
    assert score_answer("北京大学", ["北京"], "en") == (0, 0)
    assert score_answer("the Rome", ["Rome"], "en") == (1, 1)
    assert score_answer("the Rome", ["Rome"], "zh") == pytest.approx((0, 2 / 3))  # Chinese has no articles


# Scores of all answers


@pytest.mark.parametrize(
    ("language", "pairs", "score"),
    [
        ("en", ENGLISH_PAIRS, score_as_squad_2),
        (None, ENGLISH_PAIRS, score_as_squad_2),
        ("zh", CHINESE_PAIRS[:1000], score_as_cmrc),
    ],
)
def test_the_scores_of_all_answers_are_averages(language, pairs, score):
    answerable = [score(*pair) for pair in pairs]
    unanswerable = [(float(not predicted.strip()),) * 2 for predicted in ("", "Rome", "  ", "北京", "")]
    scores = AnswerMetric(language).compute(
        predictions=[predicted for predicted, _ in pairs] + ["", "Rome", "  ", "北京", ""],
        references=[golds for _, golds in pairs] + [[]] * 5,
    )
    everything = answerable + unanswerable
    assert scores == pytest.approx(
        {
            "exact_match": sum(exact for exact, _ in everything) / len(everything),
            "f1": sum(f1 for _, f1 in everything) / len(everything),
            "exact_match_answerable": sum(exact for exact, _ in answerable) / len(answerable),
            "f1_answerable": sum(f1 for _, f1 in answerable) / len(answerable),
            "f1_unanswerable": 3 / 5,
        }
    )


@pytest.mark.parametrize("golds", [["Rome"], []])
def test_questions_of_one_kind_get_no_scores_by_kind(golds):
    scores = AnswerMetric().compute(predictions=["Rome", "Paris"], references=[golds, golds])
    assert scores == ({"exact_match": 0.5, "f1": 0.5} if golds else {"exact_match": 0.0, "f1": 0.0})


def test_two_instances_at_once_do_not_mix():
    first, second = AnswerMetric("en"), AnswerMetric("zh")
    first.add_batch(predictions=["Rome"], references=[["Rome"]])
    second.add_batch(predictions=["the Rome"], references=[["Rome"]])
    assert first.compute()["exact_match"] == 1
    assert second.compute() == pytest.approx({"exact_match": 0, "f1": 2 / 3})
