from types import SimpleNamespace

from common.errors import UserError
from common.from_scratch import train_encoder_decoder_tokenizer
from common.languages import set_languages
from common.sequences import (
    choose_lengths,
    describe_cut_pairs,
    encode_pairs,
    encode_side,
    find_special_pieces,
    show_pair,
    warn_of_copies,
)
from common.windows import list_texts
from tests.multilingual import LANGUAGES, TEXTS, build_multilingual_tokenizer

import pytest
from datasets import Dataset, DatasetDict
from transformers import BartConfig, T5Config

NAMES = ["scratch", *LANGUAGES]


def build(name: str, directory):
    """A tokenizer of each kind: ours, and those that mark the language before or after a text."""
    if name == "scratch":
        return train_encoder_decoder_tokenizer(TEXTS * 4, vocab_size=400)
    tokenizer = build_multilingual_tokenizer(name, directory)
    set_languages(tokenizer, "en", "de")
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict:
    return {name: build(name, tmp_path_factory.mktemp("tokenizer")) for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def tokenizer(name, tokenizers):
    return tokenizers[name]


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def list_marks(name: str, tokenizer, is_target: bool) -> tuple[list[int], list[int]]:
    """What stands before and after a text, from the documentation of each class."""
    eos = tokenizer.eos_token_id
    if name == "scratch":
        return [], [eos]
    code = LANGUAGES[name][is_target]
    mark = tokenizer.convert_tokens_to_ids(f"__{code}__" if name == "M2M100Tokenizer" else code)
    return ([], [eos, mark]) if name == "MBartTokenizer" else ([mark], [eos])


def encode_whole(tokenizer, text: str, is_target: bool) -> list[int]:
    return tokenizer(**{"text_target" if is_target else "text": text})["input_ids"]


# Special pieces


@pytest.mark.parametrize("is_target", [False, True])
def test_the_special_pieces_are_those_of_the_class_and_the_side(tokenizer, name, is_target):
    assert find_special_pieces(tokenizer, is_target) == list_marks(name, tokenizer, is_target)


# One side


@pytest.mark.parametrize("is_target", [False, True])
def test_a_text_that_fits_is_as_the_tokenizer_writes_it(tokenizer, is_target):
    whole = [encode_whole(tokenizer, text, is_target) for text in TEXTS]
    longest = max(map(len, whole))
    assert encode_side(tokenizer, TEXTS, longest, is_target=is_target) == (whole, [False] * len(TEXTS))
    cut, are_cut = encode_side(tokenizer, TEXTS, longest - 1, is_target=is_target)
    assert are_cut == [len(ids) == longest for ids in whole] and any(are_cut)
    assert all(ids == full for ids, full, is_cut in zip(cut, whole, are_cut, strict=True) if not is_cut)


@pytest.mark.parametrize("is_target", [False, True])
@pytest.mark.parametrize("max_length", [3, 4, 7, 8])
def test_a_text_that_is_cut_keeps_its_head_and_its_special_pieces(tokenizer, name, max_length, is_target):
    before, after = list_marks(name, tokenizer, is_target)
    room = max_length - len(before) - len(after)
    encoded, are_cut = encode_side(tokenizer, TEXTS, max_length, is_target=is_target)
    for text, ids, is_cut in zip(TEXTS, encoded, are_cut, strict=True):
        whole = encode_whole(tokenizer, text, is_target)
        body = whole[len(before) : len(whole) - len(after)]
        assert ids == before + body[:room] + after
        assert is_cut == (len(whole) > max_length) and len(ids) == min(len(whole), max_length)


@pytest.mark.parametrize(("room", "head", "tail"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 2), (7, 4, 3)])
def test_head_and_tail_are_kept_in_equal_parts_the_odd_piece_at_the_head(tokenizer, name, room, head, tail):
    before, after = list_marks(name, tokenizer, False)
    ids, are_cut = encode_side(tokenizer, TEXTS[:1], len(before) + room + len(after), keep="head_tail")
    whole = encode_whole(tokenizer, TEXTS[0], False)
    body = whole[len(before) : len(whole) - len(after)]
    assert len(body) > 8 and are_cut == [True]
    assert ids == [before + body[:head] + body[len(body) - tail :] + after]


def test_a_text_without_a_known_piece_keeps_the_special_ones(tokenizer, name):
    before, after = list_marks(name, tokenizer, True)
    encoded, are_cut = encode_side(tokenizer, ["", "a dog"], 20, is_target=True)
    assert encoded[0] == before + after and are_cut == [False, False]
    assert encoded[1][: len(before)] == before and encoded[1][-len(after) :] == after


def test_a_length_without_room_for_a_piece_is_refused_with_the_shortest(tokenizer, name):
    marks = sum(map(len, list_marks(name, tokenizer, False)))
    for max_length in (marks, 0):
        assert error_of(encode_side, tokenizer, TEXTS, max_length) == (
            f"max_source_length is {max_length}: it must be at least {marks + 1} to hold a piece."
        )
        message = error_of(encode_side, tokenizer, TEXTS, max_length, is_target=True)
        assert message.startswith(f"max_target_length is {max_length}: it must be at least {marks + 1} ")
    assert all(len(ids) == marks + 1 for ids in encode_side(tokenizer, TEXTS, marks + 1)[0])


def test_no_texts_are_no_pieces(tokenizer):
    assert encode_side(tokenizer, [], 10) == ([], [])


def test_texts_longer_than_the_model_takes_are_not_warned_of(tokenizers, capfd):
    encode_side(tokenizers["scratch"], ["a dog " * 2000], 16)
    assert "longer than" not in "".join(capfd.readouterr())


# Pairs


def test_a_pair_is_source_attention_and_labels_with_what_was_cut(tokenizer, name):
    sources, targets = TEXTS[:2], TEXTS[2:]
    encoded = encode_pairs(tokenizer, sources, targets, 9, 6, keep="head_tail")
    assert set(encoded) == {"input_ids", "attention_mask", "labels", "source_is_cut", "target_is_cut"}
    assert (encoded["input_ids"], encoded["source_is_cut"]) == encode_side(tokenizer, sources, 9, "head_tail")
    assert (encoded["labels"], encoded["target_is_cut"]) == encode_side(tokenizer, targets, 6, "head", True)
    assert encoded["attention_mask"] == [[1] * len(ids) for ids in encoded["input_ids"]]
    assert encoded["source_is_cut"][0] is True and encoded["target_is_cut"][0] is True
    _, after = list_marks(name, tokenizer, True)
    assert all(ids[-len(after) :] == after and len(ids) <= 6 for ids in encoded["labels"])


def test_a_missing_target_has_one_label_which_is_ignored_and_the_others_stay_with_their_sources(tokenizer):
    targets = [None, TEXTS[2], None, TEXTS[3]]
    encoded = encode_pairs(tokenizer, TEXTS, targets, 50, 50)
    whole = [encode_whole(tokenizer, text, True) for text in TEXTS[2:]]
    assert encoded["labels"] == [[-100], whole[0], [-100], whole[1]]
    assert encoded["target_is_cut"] == [False] * 4


def test_rows_without_any_target_are_sources_alone(tokenizer):
    encoded = encode_pairs(tokenizer, TEXTS, [None] * 4, 50, 50)
    assert encoded["labels"] == [[-100]] * 4 and encoded["target_is_cut"] == [False] * 4
    assert encoded["input_ids"] == [encode_whole(tokenizer, text, False) for text in TEXTS]


def test_a_pair_is_shown_by_its_pieces_without_padding(tokenizers):
    tokenizer = tokenizers["M2M100Tokenizer"]
    labels = tokenizer(text_target="der Hund")["input_ids"]
    row = {"input_ids": [*tokenizer("the dog")["input_ids"], 1, 1], "labels": [*labels, -100]}
    source, target = show_pair(row, tokenizer).split(" -> ")
    assert source.split()[0] == "__en__" and source.split()[-1] == "</s>" and "<pad>" not in source
    assert target.split()[0] == "__de__" and target.split()[-1] == "</s>"
    assert "".join(target.split()[1:-1]) == "▁der▁Hund"
    assert show_pair({"input_ids": row["input_ids"], "labels": [-100]}, tokenizer) == source
    assert show_pair({"input_ids": row["input_ids"]}, tokenizer) == source


def test_the_texts_of_both_sides_are_listed_without_missing_ones():
    rows = Dataset.from_dict({"source": ["a", "b"], "target": ["c", None], "other": ["x", "y"]})
    assert sorted(list_texts(rows, ("source", "target"))) == ["a", "b", "c"]


# Lengths


def ask(max_source_length=None, max_target_length=None) -> SimpleNamespace:
    return SimpleNamespace(max_source_length=max_source_length, max_target_length=max_target_length)


def test_given_lengths_win_over_kept_ones_and_kept_ones_over_the_default(tokenizers):
    tokenizer = tokenizers["scratch"]
    config = BartConfig(max_position_embeddings=512)
    assert choose_lengths(ask(), config, tokenizer, (256, 64)) == (256, 64)
    config = BartConfig(max_position_embeddings=512, max_source_length=200, max_target_length=40)
    assert choose_lengths(ask(), config, tokenizer, (256, 64)) == (200, 40)
    assert choose_lengths(ask(100), config, tokenizer, (256, 64)) == (100, 40)
    assert choose_lengths(ask(300, 30), config, tokenizer, (256, 64)) == (300, 30)


def test_the_chosen_lengths_are_kept_in_the_config(tokenizers, tmp_path):
    config = BartConfig(max_position_embeddings=512)
    choose_lengths(ask(100, 20), config, tokenizers["scratch"], (256, 64))
    config.save_pretrained(tmp_path)
    loaded = BartConfig.from_pretrained(tmp_path)
    assert choose_lengths(ask(), loaded, tokenizers["scratch"], (256, 64)) == (100, 20)


def test_the_default_is_at_most_what_the_model_takes(tokenizers):
    config = BartConfig(max_position_embeddings=48)
    assert choose_lengths(ask(), config, tokenizers["scratch"], (256, 32)) == (48, 32)


@pytest.mark.parametrize(("lengths", "flag"), [((65, 10), "max_source_length"), ((10, 65), "max_target_length")])
def test_a_length_above_the_positions_of_the_model_is_refused_with_its_flag(tokenizers, lengths, flag):
    config = BartConfig(max_position_embeddings=64)
    message = error_of(choose_lengths, ask(*lengths), config, tokenizers["scratch"], (256, 64))
    assert message == f"{flag} is 65, but the model takes 64 pieces: set it to 64 or less."


def test_t5_takes_texts_of_any_length(tokenizers):
    assert choose_lengths(ask(5000, 4000), T5Config(), tokenizers["scratch"], (256, 64)) == (5000, 4000)


@pytest.mark.parametrize(("lengths", "flag"), [((-3, 10), "max_source_length"), ((10, 1), "max_target_length")])
def test_a_length_that_holds_no_word_is_refused_with_its_flag(tokenizers, lengths, flag):
    message = error_of(choose_lengths, ask(*lengths), BartConfig(), tokenizers["scratch"], (256, 64))
    assert message.startswith(f"{flag} is {min(lengths)}: it must be at least 3 ")


def test_a_length_of_0_is_refused_and_not_taken_for_unset(tokenizers):
    assert error_of(choose_lengths, ask(0, 10), BartConfig(), tokenizers["scratch"], (256, 64)).startswith(
        "max_source_length is 0: "
    )


# What is said


def make_cut(source: list[bool], target: list[bool]) -> Dataset:
    return Dataset.from_dict({"source_is_cut": source, "target_is_cut": target})


def test_nothing_cut_is_said_so():
    features = DatasetDict(train=make_cut([False] * 3, [False] * 3))
    assert describe_cut_pairs(features, 64, 32) == "sources up to 64 pieces, targets up to 32: no text is cut"


def test_what_is_cut_is_said_by_side_and_split():
    features = DatasetDict(
        train=make_cut([True, False, True], [False, False, True]), validation=make_cut([True], [False])
    )
    assert describe_cut_pairs(features, 64, 32) == (
        "sources up to 64 pieces, targets up to 32: the end of longer sources is cut off "
        "(train 2 of 3, validation 1 of 1); the end of longer targets is cut off (train 1 of 3)"
    )
    assert (
        describe_cut_pairs(features, 64, 32, "head_tail")
        .split(": ")[1]
        .startswith(
            "the middle of longer sources is cut off (train 2 of 3, validation 1 of 1); the end of longer targets"
        )
    )


def test_large_numbers_are_written_with_commas():
    features = DatasetDict(train=make_cut([True] * 1200 + [False] * 300, [False] * 1500))
    assert "(train 1,200 of 1,500)" in describe_cut_pairs(features, 64, 32)


def test_pairs_of_equal_texts_are_warned_of_above_a_fifth(capsys):
    def make(copies: int) -> Dataset:
        pairs = [{"source": f"a{n}", "target": f" a{n} " if n < copies else "b"} for n in range(10)]
        return Dataset.from_list([*pairs, {"source": "a", "target": None}])

    warn_of_copies(DatasetDict(train=make(3), validation=make(2)), "source", "target")
    assert capsys.readouterr().out == "Warning: train: 3 of 10 rows have the same text as source and target.\n"
