import json
import random
import sys
from pathlib import Path

from common.errors import UserError
from common.metrics.translations import Translations
from tests.conftest import launch

import pytest

ENGLISH = (
    "the a cat dog house river sat ran jumped over under Mr. Smith's well-known 3.5 1,000 U.S. isn't (often) "
    '"quoted" & <unk> fast! why? e.g. naïve - / %'
).split()
CHINESE = [*"我你他爱看见北京上海天安门猫狗大小好不的了在是有", "，", "。", "！", "GPU", "3.5", "（", "）", " "]
JAPANESE = "私は 猫が 好きです 東京 大阪に 行きました 本を 読んで います 。 、 GPU カメラ 3".split()
KOREAN = "나는 고양이를 좋아한다. 서울에 갔다 책을 읽고 있다, 개가 큰 GPU 3.5 안녕하세요! 오늘은 날씨가".split()


def draw_pairs(words: list[str], joint: str, count: int = 1000) -> tuple[list[str], list[str]]:
    """Gold texts, and the same after random edits: words dropped, repeated, exchanged, moved, or none left at all."""
    generator = random.Random(5)
    predictions, references = [], []
    for _ in range(count):
        gold = generator.choices(words, k=generator.randrange(1, 25))
        text = list(gold)
        for _ in range(generator.randrange(6)):
            place = generator.randrange(len(text) + 1)
            edit = generator.randrange(4)
            if edit == 0:
                text.insert(place, generator.choice(words))
            elif edit == 1:
                text = text[:place] + text[place + 1 :]
            elif edit == 2:
                text = text[place:] + text[:place]
            elif text:
                text[place % len(text)] = generator.choice(words)
        predictions.append("" if generator.random() < 0.03 else joint.join(text).strip())
        references.append(joint.join(gold).strip() or words[0])
    return predictions, references


def run_sacrebleu(
    folder: Path, predictions: list[str], references: list[str], *flags: str, ter=True
) -> dict[str, dict]:
    """What the sacrebleu command line says of these texts, by the name of the score."""
    files = []
    for name, texts in (("ref", references), ("hyp", predictions)):
        files.append(folder / f"{name}.txt")
        files[-1].write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(files[0]), "-i", str(files[1]), "--chrf-word-order", "2"]
    run = launch([*command, "-f", "json", "-w", "10", *flags, "-m", "bleu", "chrf", *(["ter"] if ter else [])])
    assert run.returncode == 0, run.stderr
    return {score["name"]: score for score in json.loads(run.stdout)}


def error_of(*args) -> str:
    with pytest.raises(UserError) as caught:
        Translations(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("target_lang", "words", "joint", "count", "flags"),
    [
        ("eng_Latn", ENGLISH, " ", 1000, ["-tok", "13a"]),
        ("zh_CN", CHINESE, "", 1000, ["-tok", "zh", "--ter-normalized", "--ter-asian-support"]),
        ("jpn_Jpan", JAPANESE, "", 100, ["-tok", "ja-mecab", "--ter-normalized", "--ter-asian-support"]),
        ("ko", KOREAN, " ", 100, ["-tok", "ko-mecab", "--ter-normalized", "--ter-asian-support"]),
    ],
)
def test_the_scores_are_those_of_the_sacrebleu_command_line(target_lang, words, joint, count, flags, tmp_path):
    predictions, references = draw_pairs(words, joint, count)
    assert "" in predictions and len(set(predictions)) > 0.8 * count
    expected = run_sacrebleu(tmp_path, predictions, references, *flags)
    metric = Translations(target_lang, ter=True)
    scores = metric.compute(predictions=predictions, references=references)
    assert scores["bleu"] == pytest.approx(expected["BLEU"]["score"], abs=1e-9)
    assert scores["chrf"] == pytest.approx(expected["chrF2++"]["score"], abs=1e-9)
    assert scores["ter"] == pytest.approx(expected["TER"]["score"], abs=1e-9)
    assert 20 < scores["bleu"] < 95 and 5 < scores["ter"] < 90  # the texts are neither all right nor all wrong
    said = {"bleu": "BLEU", "chrf": "chrF2++", "ter": "TER"}
    for name, signature in metric.signatures.items():
        assert signature in expected[said[name]]["signature"] or expected[said[name]]["signature"] in signature
    ratio = float(expected["BLEU"]["verbose_score"].split("ratio = ")[1].split()[0])
    assert scores["length_ratio"] == pytest.approx(ratio, abs=1e-3)


def test_another_tokenizer_can_be_asked_for(tmp_path):
    predictions, references = draw_pairs(ENGLISH, " ", 200)
    for tokenizer in ("char", "intl", "none"):
        expected = run_sacrebleu(tmp_path, predictions, references, "-tok", tokenizer, ter=False)["BLEU"]["score"]
        scores = Translations("en", tokenizer).compute(predictions=predictions, references=references)
        assert scores["bleu"] == pytest.approx(expected, abs=1e-9)


def test_the_same_chinese_texts_score_100():
    texts = ["我爱北京天安门。", "他在上海工作，我在北京。"]
    scores = Translations("zho_Hans", ter=True).compute(predictions=texts, references=texts)
    assert scores == {
        "bleu": pytest.approx(100), "chrf": pytest.approx(100), "ter": 0, "length_ratio": 1
    }  # fmt: skip


def test_a_chinese_sentence_is_more_than_one_word():
    """One of eight characters differs; with sacrebleu's default tokenizer the sentence would be one wrong word."""
    references, predictions = ["我爱北京天安门。"], ["你爱北京天安门。"]
    assert Translations("zh").compute(predictions=predictions, references=references)["bleu"] > 70
    assert Translations("en").compute(predictions=predictions, references=references)["bleu"] < 20


def test_bleu_by_hand():
    """7 of 8 words, 5 of 7 pairs, 4 of 6 triples and 3 of 5 quadruples are right; the lengths are equal."""
    references = ["the cat sat on the mat all day"]
    predictions = ["the cat lay on the mat all day"]
    scores = Translations("en").compute(predictions=predictions, references=references)
    assert scores["bleu"] == pytest.approx(100 * (7 / 8 * 5 / 7 * 3 / 6 * 2 / 5) ** 0.25)
    assert scores["length_ratio"] == 1 and "ter" not in scores


def test_ter_by_hand():
    """Two of eight words have to be changed."""
    metric = Translations("en", ter=True)
    scores = metric.compute(predictions=["the dog sat on a mat all day"], references=["the cat sat on the mat all day"])
    assert scores["ter"] == pytest.approx(25)


def test_empty_translations_score_0():
    scores = Translations("en", ter=True).compute(predictions=["", ""], references=["a cat", "a dog ran"])
    assert (scores["bleu"], scores["chrf"], scores["ter"], scores["length_ratio"]) == (0, 0, 100, 0)


def test_signatures_say_how_the_scores_were_computed():
    metric = Translations("zh")
    assert metric.signatures == {}
    metric.compute(predictions=["我爱你。"], references=["我爱他。"])
    assert set(metric.signatures) == {"bleu", "chrf"}
    assert "tok:zh" in metric.signatures["bleu"] and "nw:2" in metric.signatures["chrf"]


def test_the_metric_can_be_computed_again_and_again():
    metric = Translations("en")
    first = metric.compute(predictions=["a b c d"], references=["a b c d"])
    metric.compute(predictions=["x y"], references=["a b"])
    assert metric.compute(predictions=["a b c d"], references=["a b c d"]) == first


def test_each_row_has_the_chrf_of_sacrebleu_and_none_without_a_reference():
    from sacrebleu import sentence_chrf

    predictions, references = draw_pairs(ENGLISH, " ", 30)
    references[3] = references[7] = None
    scores = Translations("en").score_rows(predictions, references)
    assert [score is None for score in scores] == [gold is None for gold in references]
    for text, gold, score in zip(predictions, references, scores, strict=True):
        if gold is not None:
            assert score == {"chrf": pytest.approx(sentence_chrf(text, [gold], word_order=2).score)}


@pytest.mark.parametrize(
    ("language", "code", "module", "text"),
    [("ja", "jpn_Jpan", "MeCab", "これは猫です。"), ("ko", "ko_KR", "mecab_ko", "나는 고양이를 좋아한다.")],
)
def test_a_language_whose_tokenizer_is_not_installed_is_told_with_its_package(
    language, code, module, text, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"sacrebleu.tokenizers.tokenizer_{language}_mecab", raising=False)
    assert error_of(code) == (
        f"BLEU for {language} needs the tokenizer {language}-mecab: pip install 'sacrebleu[{language}]', or set "
        "bleu_tokenizer to char."
    )
    scores = Translations(code, "char").compute(predictions=[text], references=[text])
    assert scores["bleu"] == pytest.approx(100)


def test_an_unknown_tokenizer_is_refused_with_the_known_ones():
    message = error_of("en", "moses")
    assert "bleu_tokenizer" in message and "moses" in message and "13a" in message
