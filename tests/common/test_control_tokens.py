"""Names of control tokens in texts of the data, with tokenizers of every kind that the recipes meet."""

from common.control_tokens import describe_control_tokens, encode_as_text, reading_text
from common.errors import UserError
from common.questions import encode_questions
from common.sequences import encode_side
from common.windows import encode_texts, encode_word_windows
from tests.conftest import build_tokenizer

import pytest
from datasets import Dataset, DatasetDict
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

CONTROL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def build_unigram(splitter=pre_tokenizers.Metaspace) -> PreTrainedTokenizerFast:
    """As T5 and XLM-R have it: the names of control tokens are pieces of the vocabulary, of the best score."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdeps<>/[]2"] + [("▁a", -2.5), ("▁b", -2.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.decoder = decoders.Metaspace()
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **CONTROL)


def build_word_level() -> PreTrainedTokenizerFast:
    """Words at spaces: a control token between spaces would be a word of the vocabulary."""
    words = ["<pad>", "</s>", "<unk>", "a", "b", "<", "/s>", "pad>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **CONTROL)


def name_pieces(tokenizer, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_a_name_that_is_a_piece_of_the_vocabulary_is_cut():
    tokenizer = build_unigram()
    # What the library's own switch does: the end of the text stands in its middle.
    switched = tokenizer(["a</s>b"], split_special_tokens=True)["input_ids"][0]
    assert name_pieces(tokenizer, switched) == ["▁a", "</s>", "b", "</s>"]
    encoded = encode_as_text(tokenizer, ["a</s>b", "a <pad>"])["input_ids"]
    assert name_pieces(tokenizer, encoded[0]) == ["▁a", "<", "/", "s", ">", "b", "</s>"]
    assert name_pieces(tokenizer, encoded[1]) == ["▁a", "▁", "<", "p", "a", "d", ">", "</s>"]


@pytest.mark.parametrize("build", [build_unigram, lambda: build_unigram(None), build_word_level])
def test_afterwards_the_tokenizer_is_as_it_was(build):
    tokenizer = build()
    before = tokenizer.backend_tokenizer.to_str()
    encode_as_text(tokenizer, ["a </s> b"])
    assert tokenizer.backend_tokenizer.to_str() == before and not tokenizer.backend_tokenizer.encode_special_tokens
    assert tokenizer("a </s> b")["input_ids"].count(1) == 2
    with pytest.raises(KeyError), reading_text(tokenizer):
        raise KeyError
    assert tokenizer.backend_tokenizer.to_str() == before and not tokenizer.backend_tokenizer.encode_special_tokens


def test_words_that_are_control_tokens_are_cut_too():
    tokenizer = build_word_level()
    assert name_pieces(tokenizer, encode_as_text(tokenizer, ["a </s> b"])["input_ids"][0]) == [
        "a", "<", "/s>", "b", "</s>"
    ]  # fmt: skip


def test_ordinary_texts_have_the_pieces_that_they_had():
    for tokenizer in (build_unigram(), build_word_level(), build_tokenizer()):
        texts = ["a b", "a<b/", "", "[a] < /s>"]
        assert encode_as_text(tokenizer, texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_a_tokenizer_in_python_reads_them_as_text():
    tokenizer = ByT5Tokenizer()
    ids = encode_as_text(tokenizer, ["a</s>"])["input_ids"][0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "<", "/", "s", ">", "</s>"]


def test_a_control_token_of_one_letter_is_refused_with_the_text():
    """There is nothing in it to cut."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "#": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="#")
    assert encode_as_text(tokenizer, ["a"])["input_ids"] == [[1]]
    with pytest.raises(UserError, match="reads '#' as a control token wherever it stands, as in 'a # a': take it out"):
        encode_as_text(tokenizer, ["a", "a # a"])


def test_added_words_that_steer_nothing_stay_words():
    tokenizer = build_unigram()
    tokenizer.add_tokens([AddedToken("abcabc", special=False)])
    assert "abcabc" in name_pieces(tokenizer, encode_as_text(tokenizer, ["a abcabc b"])["input_ids"][0])


# The functions that read the texts of each recipe


def count(tokenizer, ids: list[int], *names: str) -> list[int]:
    return [ids.count(tokenizer.convert_tokens_to_ids(name)) for name in names]


def test_classified_texts_have_the_control_tokens_of_the_tokenizer_alone():
    tokenizer = build_tokenizer()
    windows = encode_texts(tokenizer, ["a [SEP] b", "[CLS][SEP]"], ["[PAD] c", "[MASK]"], 32)
    for ids in windows["input_ids"]:
        assert count(tokenizer, ids, "[CLS]", "[SEP]", "[PAD]", "[MASK]") == [1, 2, 0, 0]
    (ids,) = encode_texts(tokenizer, ["[SEP] " * 9], None, 64, 4)["input_ids"]
    assert count(tokenizer, ids, "[CLS]", "[SEP]") == [1, 1]


def test_words_of_a_sentence_have_none():
    tokenizer = build_tokenizer()
    windows = encode_word_windows(tokenizer, [["a", "[SEP]", "[CLS]b", "[MASK]"]], 32, 4)
    assert count(tokenizer, windows["input_ids"][0], "[CLS]", "[SEP]", "[MASK]") == [1, 1, 0]
    assert len(windows["positions"][0]) == 4


def test_questions_and_contexts_have_none_and_answers_keep_their_places():
    tokenizer = build_tokenizer()
    context = "[CLS] the [SEP] 12"
    windows = encode_questions(tokenizer, ["[SEP] where?"], [context], 64, 8)
    assert count(tokenizer, windows["input_ids"][0], "[CLS]", "[SEP]") == [1, 2]
    places = zip(windows["starts"][0], windows["ends"][0], strict=True)
    assert "".join(context[start:end] for start, end in places) == context.replace(" ", "")


@pytest.mark.parametrize("is_target", [False, True])
def test_sources_and_targets_have_none(is_target):
    tokenizer = build_unigram()
    encoded, _ = encode_side(tokenizer, ["a </s> b", "<pad>"], 32, is_target=is_target)
    assert [count(tokenizer, ids, "</s>", "<pad>") for ids in encoded] == [[1, 0], [1, 0]]


def test_a_prefix_may_steer_the_model_where_no_text_does():
    tokenizer = build_unigram()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<2de>"]})
    plain, forged = encode_side(tokenizer, ["a", "a <2de></s>"], 32, prefix="<2de> ")[0]
    assert name_pieces(tokenizer, plain) == ["<2de>", "▁a", "</s>"]
    assert count(tokenizer, forged, "<2de>", "</s>") == [1, 1]
    assert name_pieces(tokenizer, forged)[0] == "<2de>" and tokenizer.decode(forged).count("<2de>") == 2


def test_rows_that_write_one_are_counted():
    tokenizer = build_tokenizer()
    rows = [{"id": "[SEP]", "text": ["a", "[MASK]"]}, {"id": "b", "text": ["b"]}, {"id": "c", "text": ["[SEP]", "c"]}]
    splits = DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[1:2]))
    said = "rows that write one, as [MASK]: train 2 of 3; they are read as text"
    assert describe_control_tokens(tokenizer, splits) == said
    assert describe_control_tokens(tokenizer, DatasetDict(test=splits["test"])) == ""
