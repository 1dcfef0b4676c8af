import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

from common.arguments import ModelArguments, TrainingArguments
from common.errors import UserError
from common.from_scratch import (
    DECODER_PRESETS,
    ENCODER_DECODER_PRESETS,
    ENCODER_PRESETS,
    build_config,
    build_encoder_config,
    cut_words,
    train_decoder_tokenizer,
    train_encoder_decoder_tokenizer,
    train_encoder_tokenizer,
    train_tokenizer,
)
from common.models import load_config, load_model, load_tokenizer

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

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


def run_in_two_processes(program: str, directory: Path) -> None:
    """Run a program on TEXTS with two seeds of Python's hashes; it is told to write into the folder `1` or `2`."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(directory / seed)],
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


def test_the_same_texts_give_the_same_files_in_every_process(tmp_path):
    """Seen to fail without the care that is taken: hash tables in Python and in Rust are seeded a process."""
    program = (
        "import sys, json\n"
        "from common.from_scratch import train_encoder_tokenizer\n"
        "train_encoder_tokenizer(json.load(sys.stdin), 300).save_pretrained(sys.argv[1])\n"
    )
    run_in_two_processes(program, tmp_path)
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
        build_config("encoder_huge", tokenizer)
    assert str(caught.value) == (
        "from_scratch must be one of encoder_tiny, encoder_small, encoder_decoder_tiny, encoder_decoder_small, "
        "decoder_tiny, decoder_small, not 'encoder_huge'."
    )


def test_the_arguments_choose_tokenizer_and_model_from_scratch(tokenizer):
    arguments = ModelArguments(from_scratch="encoder_tiny", vocab_size=400)
    learnt = load_tokenizer(arguments, (text for text in TEXTS))
    assert learnt.get_vocab() == tokenizer.get_vocab()
    assert load_config(arguments, learnt).hidden_size == 128


def test_another_tokenizer_may_be_named_for_a_model_from_scratch(tokenizer, saved):
    arguments = ModelArguments(from_scratch="encoder_tiny", tokenizer_name_or_path=str(saved), vocab_size=10)
    assert load_tokenizer(arguments, ["other texts"]).get_vocab() == tokenizer.get_vocab()


# The tokenizer of encoder-decoders


@pytest.fixture(scope="module")
def pair_tokenizer():
    return train_encoder_decoder_tokenizer(TEXTS, vocab_size=600)


ROUND_TRIPS = [
    "Ada Lovelace lives in Paris.",
    "unseen zebras quickly vexed jumping wizards",
    "Straße, Ångström; naïve Coöperation – „Zürich“",
    "我爱北京天安门。他在Paris工作, 我在2024年。",
    "emoji 😀👨‍👩‍👧‍👦🇩🇪 and Ж, ไทย, हिन्दी, العربية",
    "10.5% of 1,000: a , b . c ! ( d )",
    "two  spaces   and three, a\ttab",
    "line\nbreak\r\nand another",
    "trailing space ",
    "don't stop can't won't n't 's",
    "underscores ▁ and pipes | \\ / \u00a0 \u3000 \u200b",
    "control \x01\x7f and private \ue000 \U0010ffff",
    "a",
    "",
]


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_decoding_gives_a_text_back_as_it_was(pair_tokenizer, text):
    ids = pair_tokenizer(text)["input_ids"]
    assert pair_tokenizer.unk_token_id not in ids
    # The sign for a space in the pieces, U+2581, cannot be told from one.
    assert pair_tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")


def test_of_spaces_in_front_one_is_lost(pair_tokenizer):
    """The space that is written in front of every text stands for it."""
    assert pair_tokenizer("figs")["input_ids"] == pair_tokenizer(" figs")["input_ids"]
    assert pair_tokenizer.decode(pair_tokenizer("  figs")["input_ids"], skip_special_tokens=True) == " figs"


def test_random_texts_are_given_back_as_they_were(pair_tokenizer):
    generator = random.Random(4)
    signs = [chr(code) for code in (*range(33, 127), *range(0xA1, 0x180), *range(0x4E00, 0x4E40), 0x1F600, 0x2014)]
    for _ in range(300):
        words = [
            "".join(generator.choices(signs, k=generator.randrange(1, 8))) for _ in range(generator.randrange(1, 9))
        ]
        text = unicodedata.normalize("NFC", " ".join(words))
        ids = pair_tokenizer(text)["input_ids"]
        assert pair_tokenizer.decode(ids, skip_special_tokens=True) == text
        assert ids.count(pair_tokenizer.eos_token_id) == 1  # "</s>" may not come from signs of a text


def test_decomposed_letters_are_the_composed_ones(pair_tokenizer):
    decomposed = unicodedata.normalize("NFD", "Zürich naïve")
    assert pair_tokenizer(decomposed)["input_ids"] == pair_tokenizer("Zürich naïve")["input_ids"]


def test_each_text_ends_with_the_end_of_sentence_and_begins_with_nothing(pair_tokenizer):
    for text in TEXTS[:5]:
        ids = pair_tokenizer(text)["input_ids"]
        assert ids[-1] == pair_tokenizer.eos_token_id == 1 and 1 not in ids[:-1] and pair_tokenizer.pad_token_id == 0
    assert pair_tokenizer("")["input_ids"] == [1]
    assert pair_tokenizer(text_target="figs")["input_ids"] == pair_tokenizer("figs")["input_ids"]


def test_punctuation_digits_and_chinese_characters_stand_alone(pair_tokenizer):
    pieces = [piece.replace("▁", "") for piece in pair_tokenizer.tokenize("Paris, 1999!我爱北京")]
    assert [piece for piece in pieces if piece][-10:] == [",", "1", "9", "9", "9", "!", "我", "爱", "北", "京"]
    learnt = [piece for piece in pair_tokenizer.get_vocab() if len(piece) > 1 and not piece.startswith("<")]
    assert not [piece for piece in learnt if any("\u4e00" <= sign <= "\u9fff" for sign in piece.replace("▁", "")[1:])]


def test_a_sign_that_was_not_learnt_is_written_in_its_bytes(pair_tokenizer):
    assert pair_tokenizer.tokenize("Ж")[-2:] == ["<0xD0>", "<0x96>"]
    assert pair_tokenizer.tokenize("😀")[-4:] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]


def test_bytes_are_not_special(pair_tokenizer):
    assert sorted(pair_tokenizer.all_special_tokens) == ["</s>", "<pad>", "<unk>"]
    assert pair_tokenizer.all_special_ids and sorted(pair_tokenizer.all_special_ids) == [0, 1, 2]


def test_the_same_texts_give_the_same_generating_tokenizers_in_every_process(tmp_path):
    program = (
        "import sys, json\n"
        "from common.from_scratch import train_decoder_tokenizer, train_encoder_decoder_tokenizer\n"
        "texts = json.load(sys.stdin)\n"
        "train_encoder_decoder_tokenizer(texts, 450).save_pretrained(sys.argv[1])\n"
        "train_decoder_tokenizer(texts, 350).save_pretrained(sys.argv[1] + '/decoder')\n"
    )
    run_in_two_processes(program, tmp_path)
    files = ("tokenizer.json", "tokenizer_config.json")
    for name in (*files, *(f"decoder/{name}" for name in files)):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_the_same_texts_give_the_same_encoder_decoder_tokenizer_again_and_again(pair_tokenizer):
    for _ in range(5):
        again = train_encoder_decoder_tokenizer(iter(TEXTS), vocab_size=600)
        assert again.backend_tokenizer.to_str() == pair_tokenizer.backend_tokenizer.to_str()


def test_a_vocabulary_too_small_for_bytes_and_characters_is_refused_with_the_smallest():
    """3 special pieces, 256 bytes, the sign for a space, and a, b and c."""
    with pytest.raises(UserError) as caught:
        train_encoder_decoder_tokenizer(["ab", "ca"], vocab_size=262)
    assert str(caught.value) == ("vocab_size is 262: the texts need 263 for single characters; set it higher.")
    tokenizer = train_encoder_decoder_tokenizer(["ab", "ca"], vocab_size=263)
    assert len(tokenizer) == 263
    assert tokenizer.decode(tokenizer("cab")["input_ids"], skip_special_tokens=True) == "cab"


@pytest.mark.parametrize("vocab_size", [350, 400])
def test_no_more_pieces_are_learnt_for_pairs_than_asked_for(vocab_size):
    tokenizer = train_encoder_decoder_tokenizer(TEXTS, vocab_size)
    assert len(tokenizer) == vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocab_size))


def test_a_saved_encoder_decoder_tokenizer_loads_with_the_auto_class_and_gives_the_same(pair_tokenizer, tmp_path):
    config = build_config("encoder_decoder_tiny", pair_tokenizer)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    pair_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast and len(loaded) == len(pair_tokenizer) and loaded.model_max_length == 1024
    assert loaded.model_input_names == ["input_ids", "attention_mask"]
    for text in ROUND_TRIPS:
        ids = loaded(text)["input_ids"]
        assert ids == pair_tokenizer(text)["input_ids"]
        assert loaded.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")


# The model of encoder-decoders


@pytest.mark.parametrize("preset", ["encoder_decoder_tiny", "encoder_decoder_small"])
def test_an_encoder_decoder_preset_is_a_pegasus_of_its_size_for_the_tokenizer(pair_tokenizer, preset):
    config = build_config(preset, pair_tokenizer)
    sizes = {"encoder_decoder_tiny": (128, 2, 2, 512, 4), "encoder_decoder_small": (256, 3, 3, 1024, 4)}
    assert set(ENCODER_DECODER_PRESETS) == set(sizes)
    assert config.model_type == "pegasus" and config.vocab_size == len(pair_tokenizer)
    assert sizes[preset] == (
        config.d_model, config.encoder_layers, config.decoder_layers, config.encoder_ffn_dim,
        config.encoder_attention_heads,
    )  # fmt: skip
    assert (config.decoder_ffn_dim, config.decoder_attention_heads) == sizes[preset][3:]
    assert config.max_position_embeddings == 1024 == pair_tokenizer.model_max_length
    assert (config.pad_token_id, config.decoder_start_token_id, config.eos_token_id) == (0, 0, 1)


def test_an_encoder_decoder_from_scratch_takes_as_many_pieces_as_its_tokenizer_says(pair_tokenizer):
    model = AutoModelForSeq2SeqLM.from_config(build_config("encoder_decoder_tiny", pair_tokenizer)).eval()
    ids = torch.full((1, 1024), 300)
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)


def test_the_preset_chooses_the_kind_of_the_tokenizer(tokenizer, pair_tokenizer, byte_tokenizer):
    for preset in DECODER_PRESETS:
        assert train_tokenizer(preset, iter(TEXTS), 500).get_vocab() == byte_tokenizer.get_vocab()
    for preset in ENCODER_PRESETS:
        assert train_tokenizer(preset, iter(TEXTS), 400).get_vocab() == tokenizer.get_vocab()
    for preset in ENCODER_DECODER_PRESETS:
        assert train_tokenizer(preset, iter(TEXTS), 600).get_vocab() == pair_tokenizer.get_vocab()


def test_an_unknown_preset_is_refused_before_a_tokenizer_is_learnt():
    with pytest.raises(UserError, match="from_scratch must be one of encoder_tiny, .*, not 'tiny'"):
        train_tokenizer("tiny", ["a"], 400)


ANY_BUT_PAIRS = "encoder_tiny or encoder_small or decoder_tiny or decoder_small"


@pytest.mark.parametrize(
    ("model_class", "preset", "fitting"),
    [
        (AutoModelForSeq2SeqLM, "encoder_tiny", "encoder_decoder_tiny or encoder_decoder_small"),
        (AutoModelForTokenClassification, "encoder_decoder_tiny", ANY_BUT_PAIRS),
        (AutoModelForQuestionAnswering, "encoder_decoder_small", ANY_BUT_PAIRS),
        (AutoModelForSequenceClassification, "encoder_decoder_tiny", ANY_BUT_PAIRS),
        (AutoModelForSeq2SeqLM, "decoder_tiny", "encoder_decoder_tiny or encoder_decoder_small"),
    ],
)
def test_a_preset_of_another_kind_is_refused_with_those_that_fit(
    model_class, preset, fitting, tokenizer, pair_tokenizer, byte_tokenizer, tmp_path
):
    kinds = dict.fromkeys(ENCODER_PRESETS, tokenizer) | dict.fromkeys(ENCODER_DECODER_PRESETS, pair_tokenizer)
    config = build_config(preset, kinds.get(preset, byte_tokenizer))
    training_args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(UserError) as caught:
        load_model(model_class, ModelArguments(from_scratch=preset), training_args, config)
    assert str(caught.value) == f"from_scratch {preset} has no head for this: use {fitting}."


def test_the_arguments_build_an_encoder_decoder_from_scratch(pair_tokenizer, tmp_path):
    arguments = ModelArguments(from_scratch="encoder_decoder_tiny", vocab_size=600)
    learnt = load_tokenizer(arguments, (text for text in TEXTS))
    assert learnt.get_vocab() == pair_tokenizer.get_vocab()
    config = load_config(arguments, learnt)
    training_args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    model = load_model(AutoModelForSeq2SeqLM, arguments, training_args, config, task_type="SEQ_2_SEQ_LM")
    assert type(model).__name__ == "PegasusForConditionalGeneration" and model.dtype == torch.float32
    assert model.generate(torch.tensor([[300, 1]]), max_length=4)[0, 0] == 0


# Tokenizer and model of decoders


@pytest.fixture(scope="module")
def byte_tokenizer():
    return train_decoder_tokenizer(TEXTS, vocab_size=500)


def decode_again(tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"])


@pytest.mark.parametrize(
    "text", [*ROUND_TRIPS, " figs", "  two in front", "\n\n", "\r\n \t ", "Zu\u0308rich", "a\u0301"]
)
def test_decoding_gives_a_text_back_byte_by_byte(byte_tokenizer, text):
    """With all of its spaces, and with decomposed letters as they were."""
    assert decode_again(byte_tokenizer, text) == text
    assert not set(byte_tokenizer(text)["input_ids"]) & set(byte_tokenizer.all_special_ids)


def test_random_texts_of_any_characters_are_given_back_byte_by_byte(byte_tokenizer):
    draw = random.Random(4)
    ranges = (
        range(1, 0x250),
        range(0x300, 0x370),
        range(0x4E00, 0x4E80),
        range(0x1F300, 0x1F700),
        range(0x2000, 0x2070),
    )
    signs = [chr(code) for part in ranges for code in part]
    for _ in range(500):
        text = "".join(draw.choices(signs, k=draw.randrange(60)))
        assert decode_again(byte_tokenizer, text) == text


def test_nothing_stands_before_or_after_a_text_of_a_decoder(byte_tokenizer):
    assert byte_tokenizer("")["input_ids"] == []
    ids = byte_tokenizer("Ada lives.")["input_ids"]
    assert byte_tokenizer("Ada lives.", add_special_tokens=False)["input_ids"] == ids
    assert byte_tokenizer.num_special_tokens_to_add() == 0


def test_the_tokens_of_chatml_and_the_end_of_a_text_are_special_pieces(byte_tokenizer):
    assert (byte_tokenizer.eos_token, byte_tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert byte_tokenizer.bos_token is None and byte_tokenizer.unk_token is None
    assert sorted(byte_tokenizer.all_special_ids) == [0, 1, 2]
    ids = byte_tokenizer("<|im_start|>user\nAda<|im_end|>\n<|endoftext|>")["input_ids"]
    assert [ids.count(piece) for piece in (0, 1, 2)] == [1, 1, 1] and (ids[0], ids[-1]) == (1, 0)
    assert byte_tokenizer.decode(ids, skip_special_tokens=True) == "user\nAda\n"


def test_digits_and_chinese_characters_stand_alone_in_a_decoder(byte_tokenizer):
    def split(text: str) -> list[str]:
        return [byte_tokenizer.decode([piece]) for piece in byte_tokenizer(text)["input_ids"]]

    assert split("1999") == ["1", "9", "9", "9"] and split("北京") == ["北", "京"]
    for piece in range(len(byte_tokenizer)):
        text = byte_tokenizer.decode([piece])
        apart = [sign for sign in text if sign.isdigit() or "\u4e00" <= sign <= "\u9fff"]
        assert not apart or len(text) == 1, text


def test_the_same_texts_give_the_same_decoder_tokenizer_again_and_again(byte_tokenizer):
    expected = byte_tokenizer.backend_tokenizer.to_str()
    for _ in range(5):
        assert train_decoder_tokenizer(iter(TEXTS), vocab_size=500).backend_tokenizer.to_str() == expected


def test_a_vocabulary_too_small_for_single_bytes_is_refused_with_the_smallest():
    """3 special pieces and 256 bytes."""
    with pytest.raises(UserError) as caught:
        train_decoder_tokenizer(["ab"], vocab_size=258)
    assert str(caught.value) == "vocab_size is 258: single bytes need 259; set it higher."
    tokenizer = train_decoder_tokenizer(["ab"] * 9, vocab_size=259)
    assert len(tokenizer) == 259 and decode_again(tokenizer, "ab 😀") == "ab 😀"


@pytest.mark.parametrize("vocab_size", [300, 350])
def test_no_more_pieces_are_learnt_for_a_decoder_than_asked_for(vocab_size):
    tokenizer = train_decoder_tokenizer(TEXTS, vocab_size)
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocab_size))


@pytest.mark.parametrize("preset", ["decoder_tiny", "decoder_small"])
def test_a_decoder_preset_is_a_llama_of_its_size_with_tied_weights(byte_tokenizer, preset, tmp_path):
    sizes = {"decoder_tiny": (128, 2, 4, 384), "decoder_small": (256, 4, 4, 768)}
    assert set(DECODER_PRESETS) == set(sizes)
    model = AutoModelForCausalLM.from_config(build_config(preset, byte_tokenizer))
    assert type(model).__name__ == "LlamaForCausalLM" and model.lm_head.weight is model.model.embed_tokens.weight
    config = model.config
    assert sizes[preset] == (
        config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
    )  # fmt: skip
    assert config.vocab_size == len(byte_tokenizer) and (config.eos_token_id, config.pad_token_id) == (2, 0)
    assert config.max_position_embeddings == 2048 == byte_tokenizer.model_max_length
    model.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    loaded, again = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    ids = loaded(" ".join(ROUND_TRIPS), return_tensors="pt")["input_ids"]
    assert ids.tolist()[0] == byte_tokenizer(" ".join(ROUND_TRIPS))["input_ids"]
    assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)


def test_endless_words_are_learnt_in_parts_and_others_whole():
    """Learning from one word of a million characters would take hours."""
    endless = "ab" * 12_500
    assert cut_words(endless) == f"{endless[:10_000]} {endless[:10_000]} {endless[:5_000]}"
    for text in ("a b " * 5_000, "x" * 10_000, "", "你好"):
        assert cut_words(text) == text
    assert "ab" in train_encoder_decoder_tokenizer(["ab" * 500_000], 300).get_vocab()
