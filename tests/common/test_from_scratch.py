import json
import os
import subprocess
import sys
from pathlib import Path

from common.arguments import ModelArguments
from common.errors import UserError
from common.from_scratch import ENCODER_PRESETS, build_encoder_config, train_encoder_tokenizer
from common.models import load_config, load_tokenizer

import pytest
from transformers import AutoModelForTokenClassification, AutoTokenizer

ROOT = Path(__file__).parents[2]
TEXTS = [
    "Ada Lovelace lives in Paris, near the Seine.",
    "Tom ate 3 figs and left; nobody saw him leave Paris in 1999!",
    "The unhappiness of the foxes, the happiness of the figs.",
    "我爱北京天安门。他在Paris工作，我在北京。",
    "Ångström und Zürich: naïve façades, straße, coöperating.",
] * 4
PROBES = ["Ada ate unhappy figs.", "I ÅNGSTRÖM zürich", "北京Paris和東京。", "", "\u200bxyz [MASK] ##a", "  a\n b "]


@pytest.fixture(scope="module")
def tokenizer():
    return train_encoder_tokenizer(TEXTS, vocab_size=400)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    """A directory as a run leaves it: the tokenizer beside a model, whose class might name another tokenizer."""
    directory = tmp_path_factory.mktemp("saved")
    config = build_encoder_config("encoder_tiny", tokenizer)
    AutoModelForTokenClassification.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


# The tokenizer


def test_the_same_texts_give_the_same_files_in_every_process(tmp_path):
    """Seen to fail without the care that is taken: hash tables in Python and in Rust are seeded a process."""
    program = (
        "import sys, json\n"
        "from common.from_scratch import train_encoder_tokenizer\n"
        "train_encoder_tokenizer(json.load(sys.stdin), 300).save_pretrained(sys.argv[1])\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / seed)],
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": ".", "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        )
        for seed in ("1", "2")
    ]
    for run in runs:
        run.communicate(json.dumps(TEXTS))
        assert run.returncode == 0
    files = [sorted(path.name for path in (tmp_path / seed).iterdir()) for seed in ("1", "2")]
    assert files[0] == files[1] and "tokenizer.json" in files[0] and len(files[0]) >= 2
    for name in files[0]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_the_same_texts_give_the_same_tokenizer_again_and_again(tokenizer):
    for _ in range(5):
        again = train_encoder_tokenizer(iter(TEXTS), vocab_size=400)
        assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_texts_begin_and_end_with_special_tokens(tokenizer):
    names = tokenizer.convert_ids_to_tokens(tokenizer("figs")["input_ids"])
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]") and "".join(names[1:-1]).replace("##", "") == "figs"
    pair = tokenizer("figs", "Tom", return_token_type_ids=True)
    names = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    second = names.index("[SEP]") + 1
    assert names.count("[SEP]") == 2 and names[-1] == "[SEP]"
    assert pair["token_type_ids"] == [0] * second + [1] * (len(names) - second)


def test_special_tokens_are_known_and_come_first(tokenizer):
    expected = {
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    }  # fmt: skip
    assert tokenizer.special_tokens_map == expected
    assert tokenizer.all_special_ids and sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.model_max_length == 512


def test_pieces_that_go_on_are_not_special(tokenizer):
    ids = tokenizer("unhappiest of foxes", add_special_tokens=False)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(ids)
    assert any(name.startswith("##") for name in names)
    assert tokenizer.decode(tokenizer("unhappiness of figs")["input_ids"], skip_special_tokens=True) == (
        "unhappiness of figs"
    )


def test_a_piece_written_in_the_text_is_text(tokenizer):
    """`##a` in a text is two signs and a letter, not the piece of that name."""
    names = tokenizer.tokenize("##a")
    assert "##a" not in names and len(names) == 3


def test_each_chinese_character_is_a_word_of_its_own(tokenizer):
    assert tokenizer.tokenize("我爱北京") == ["我", "爱", "北", "京"]
    pieces = tokenizer.tokenize("他在Paris工作。")
    assert pieces[:2] == ["他", "在"] and pieces[-3:] == ["工", "作", "。"]
    assert "".join(pieces[2:-3]).replace("##", "") == "Paris"
    assert not [piece for piece in tokenizer.get_vocab() if piece.startswith("##") and "\u4e00" <= piece[2] <= "\u9fff"]


def test_case_and_accents_are_kept(tokenizer):
    for word in ("Paris", "Ångström", "Zürich", "straße"):
        assert "".join(tokenizer.tokenize(word)).replace("##", "") == word
    assert tokenizer.tokenize("the") != tokenizer.tokenize("The")


def test_unknown_characters_are_the_unknown_token(tokenizer):
    assert tokenizer.tokenize("Ж") == ["[UNK]"]


@pytest.mark.parametrize("vocab_size", [100, 150, 180])
def test_no_more_pieces_are_learnt_than_asked_for(vocab_size):
    tokenizer = train_encoder_tokenizer(TEXTS, vocab_size)
    assert len(tokenizer) == vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocab_size))


def test_a_vocabulary_too_small_for_the_characters_is_refused():
    """Every character is a piece, at the beginning of a word and inside it: no fewer pieces than that can be given."""
    with pytest.raises(UserError, match="vocab_size"):
        train_encoder_tokenizer(TEXTS, vocab_size=50)


def test_a_piece_that_occurs_once_is_not_learnt():
    tokenizer = train_encoder_tokenizer(["abc abc", "xyz"], vocab_size=1000)
    assert "abc" in tokenizer.get_vocab() and "xyz" not in tokenizer.get_vocab()
    assert tokenizer.tokenize("xyz") == ["x", "##y", "##z"]


def test_a_saved_tokenizer_loads_with_the_auto_class_and_gives_the_same_ids(tokenizer, saved):
    loaded = AutoTokenizer.from_pretrained(saved)
    assert loaded.is_fast and len(loaded) == len(tokenizer)
    for text in PROBES:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"], text
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.model_max_length == 512
    assert loaded("a", "b")["input_ids"] == tokenizer("a", "b")["input_ids"]


# The model


@pytest.mark.parametrize("preset", ["encoder_tiny", "encoder_small"])
def test_a_preset_is_a_bert_of_its_size_for_the_tokenizer(tokenizer, preset):
    config = build_encoder_config(preset, tokenizer)
    assert config.model_type == "bert"
    assert config.vocab_size == len(tokenizer) and config.pad_token_id == tokenizer.pad_token_id
    assert config.max_position_embeddings == 512 == tokenizer.model_max_length
    sizes = {"encoder_tiny": (128, 2, 2, 512), "encoder_small": (256, 4, 4, 1024)}
    assert sizes[preset] == (
        config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
    )  # fmt: skip
    assert set(ENCODER_PRESETS) == set(sizes)


def test_an_unknown_preset_is_refused_with_the_known_ones(tokenizer):
    with pytest.raises(UserError) as caught:
        build_encoder_config("encoder_huge", tokenizer)
    assert str(caught.value) == "from_scratch must be one of encoder_tiny, encoder_small, not 'encoder_huge'."


def test_the_arguments_choose_tokenizer_and_model_from_scratch(tokenizer):
    arguments = ModelArguments(from_scratch="encoder_tiny", vocab_size=400)
    learnt = load_tokenizer(arguments, (text for text in TEXTS))
    assert learnt.get_vocab() == tokenizer.get_vocab()
    assert load_config(arguments, learnt).hidden_size == 128


def test_another_tokenizer_may_be_named_for_a_model_from_scratch(tokenizer, saved):
    arguments = ModelArguments(from_scratch="encoder_tiny", tokenizer_name_or_path=str(saved), vocab_size=10)
    assert load_tokenizer(arguments, ["other texts"]).get_vocab() == tokenizer.get_vocab()
