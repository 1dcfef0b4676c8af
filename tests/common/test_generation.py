import copy
import json
from collections import Counter
from functools import partial
from types import SimpleNamespace

from common.arguments import GenerationArguments, Seq2SeqTrainingArguments
from common.chat_templates import TEMPLATES, find_end_of_turn
from common.dialogues import encode_reply, encode_rows
from common.errors import UserError
from common.evaluation_batches import sort_for_evaluation
from common.from_scratch import train_decoder_tokenizer, train_encoder_decoder_tokenizer
from common.generation import (
    compute_target_loss,
    decode_texts,
    generate,
    list_generated,
    measure_generated,
    put_back,
    refuse_float16,
    report_generated,
    score_generated,
    set_generation,
    set_reply_generation,
)
from common.languages import set_languages
from common.losses import CrossEntropy
from common.packing import DialogueCollator
from common.results import Outcome
from common.sequences import PairCollator, encode_pairs
from common.trainers import CausalTrainer, Seq2SeqTrainer, take_prompts
from tests.multilingual import LANGUAGES, build_multilingual_model, build_multilingual_tokenizer

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    EvalPrediction,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

SOURCES = [
    "the cat sat on the mat", "a dog ran", "the dog and the cat and the bird ran far away from the mat", "no",
    "a bird sat", "the mat", "cats and dogs and birds sat on it", "ran",
]  # fmt: skip
TARGETS = ["cat on mat", "dog ran", "all ran away", None, "bird sat on the mat and sang", "mat", None, "ran ran ran"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_encoder_decoder_tokenizer(SOURCES * 3 + [text for text in TARGETS if text] * 3, vocab_size=400)


def build_t5(tokenizer, **settings) -> T5ForConditionalGeneration:
    """A T5 of one layer, its weights drawn wide enough that other sources give other texts."""
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, **settings,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return model.eval()


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


# Arguments


@pytest.mark.parametrize("num_beams", [0, -2])
def test_a_search_has_at_least_one_beam(num_beams):
    assert error_of(GenerationArguments, num_beams=num_beams) == f"num_beams must be at least 1, not {num_beams}."


def test_a_length_penalty_without_beams_is_refused():
    message = error_of(GenerationArguments, num_beams=1, length_penalty=2.0)
    assert message == "length_penalty weighs beams against each other: set num_beams above 1, or leave it out."
    assert GenerationArguments(num_beams=2, length_penalty=2.0).length_penalty == 2.0
    assert GenerationArguments(length_penalty=2.0).num_beams is None  # the checkpoint may have beams


@pytest.mark.parametrize(("longest", "shortest"), [(0, None), (-1, None), (4, 5)])
def test_the_longest_text_may_not_be_shorter_than_the_shortest(longest, shortest):
    message = error_of(GenerationArguments, max_new_tokens=longest, min_new_tokens=shortest)
    assert message == f"max_new_tokens is {longest}: it must be at least 1 and at least min_new_tokens."
    assert GenerationArguments(max_new_tokens=5, min_new_tokens=5).min_new_tokens == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"generation_max_length": 20},
            "generation_max_length would make evaluation and prediction differ: set max_new_tokens or "
            "max_target_length.",
        ),
        (
            {"generation_num_beams": 2},
            "generation_num_beams would make evaluation and prediction differ: set num_beams.",
        ),
        (
            {"generation_config": "some/where"},
            "generation_config would make evaluation and prediction differ: set num_beams, max_new_tokens and the "
            "like; the rest is taken from the checkpoint.",
        ),
        (
            {"sortish_sampler": True},
            "sortish_sampler has no effect: set train_sampling_strategy to group_by_length.",
        ),
        (
            {"metric_for_best_model": "eval_bleu", "predict_with_generate": False},
            "metric_for_best_model bleu needs generated texts: set predict_with_generate, or choose loss.",
        ),
    ],
)
def test_training_arguments_that_would_mislead_are_refused(settings, message, tmp_path):
    assert error_of(Seq2SeqTrainingArguments, output_dir=str(tmp_path), use_cpu=True, **settings) == message


def test_evaluation_generates_texts_unless_told_otherwise(tmp_path):
    make = partial(Seq2SeqTrainingArguments, output_dir=str(tmp_path), use_cpu=True)
    assert make().predict_with_generate and make(metric_for_best_model="bleu").predict_with_generate
    for best in (None, "loss", "eval_loss", "perplexity", "eval_perplexity"):
        assert not make(predict_with_generate=False, metric_for_best_model=best).predict_with_generate


@pytest.mark.parametrize(("best", "is_greater_better"), [("perplexity", False), ("loss", False), ("bleu", True)])
@pytest.mark.parametrize("prefix", ["", "eval_"])
def test_the_lower_perplexity_is_the_better_one(best, is_greater_better, prefix, tmp_path):
    make = partial(
        Seq2SeqTrainingArguments, output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=prefix + best
    )
    assert make().greater_is_better == is_greater_better
    assert make(greater_is_better=True).greater_is_better is True  # what the user says is left


# Settings


def test_settings_are_put_into_the_generation_config_and_nothing_else_is_changed(tokenizer):
    model = build_t5(tokenizer)
    before = model.generation_config.to_dict()
    settings = {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.5, "repetition_penalty": 1.2}
    set_generation(model, GenerationArguments(min_new_tokens=2, **settings), 10)
    after = model.generation_config.to_dict()
    expected = before | settings | {"min_new_tokens": 2, "max_length": 11, "_from_model_config": False}
    assert {name: after[name] for name in after if after[name] != before.get(name)} == {
        name: value for name, value in expected.items() if value != before.get(name)
    }


def test_what_is_left_out_stays_as_the_checkpoint_has_it(tokenizer):
    model = build_t5(tokenizer)
    model.generation_config.update(num_beams=4, no_repeat_ngram_size=3, length_penalty=2.0, min_length=5)
    set_generation(model, GenerationArguments(num_beams=2), 20)
    config = model.generation_config
    assert (config.num_beams, config.no_repeat_ngram_size, config.length_penalty, config.min_length) == (2, 3, 2.0, 5)


@pytest.mark.parametrize(("max_new_tokens", "expected"), [(None, 13), (5, 6), (30, 31)])
def test_there_is_one_limit_which_counts_the_piece_that_starts_the_decoder(tokenizer, max_new_tokens, expected):
    model = build_t5(tokenizer)
    model.generation_config.update(max_length=142, max_new_tokens=99)
    set_generation(model, GenerationArguments(max_new_tokens=max_new_tokens), 12)
    assert (model.generation_config.max_length, model.generation_config.max_new_tokens) == (expected, None)


def test_a_generated_text_has_as_many_pieces_as_a_target_may_have(tokenizer, capfd):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(min_new_tokens=6), 6)
    written = model.generate(**tokenizer(SOURCES, padding=True, return_tensors="pt"))
    assert written.shape == (8, 1 + 6)
    assert "max_new_tokens" not in "".join(capfd.readouterr())  # two limits would be warned of


def test_the_first_piece_is_forced_where_there_is_one(tokenizer):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(), 6)
    assert model.generation_config.forced_bos_token_id is None
    set_generation(model, GenerationArguments(), 6, 9)
    assert model.generation_config.forced_bos_token_id == 9
    assert model.generate(torch.tensor([[5, 6, 1]]))[0, :2].tolist() == [0, 9]


def test_the_piece_that_starts_the_decoder_is_taken_from_the_model_where_it_is_missing(tokenizer):
    model = build_t5(tokenizer)
    model.generation_config.decoder_start_token_id = None
    set_generation(model, GenerationArguments(), 6)
    assert model.generation_config.decoder_start_token_id == 0


def test_settings_that_contradict_each_other_are_refused(tokenizer):
    """A length penalty where the checkpoint has a single beam."""
    message = error_of(set_generation, build_t5(tokenizer), GenerationArguments(length_penalty=2.0), 10)
    assert message.startswith("These generation settings contradict each other: ") and "length_penalty" in message


def test_a_checkpoint_made_for_beams_can_be_asked_for_a_single_one(tokenizer):
    """As BART's for summaries: early_stopping and length_penalty are left over, and there is no flag for the first."""
    model = build_t5(tokenizer)
    model.generation_config.update(num_beams=4, early_stopping=True, length_penalty=2.0)
    set_generation(model, GenerationArguments(num_beams=1), 10)
    assert model.generation_config.num_beams == 1
    assert len(model.generate(torch.tensor([[5, 6, 1]]))) == 1


def test_a_checkpoint_whose_shortest_text_is_longer_than_the_limit_is_refused_with_the_cure(tokenizer):
    model = build_t5(tokenizer)
    model.generation_config.min_length = 56
    assert error_of(set_generation, model, GenerationArguments(), 20) == (
        "The checkpoint generates at least 56 pieces, but max_target_length is 20: set it higher."
    )
    set_generation(model, GenerationArguments(), 55)


def test_a_shortest_text_above_the_limit_is_refused(tokenizer):
    message = error_of(set_generation, build_t5(tokenizer), GenerationArguments(min_new_tokens=30), 20)
    assert "min_new_tokens" in message and "max_target_length" in message


def test_the_saved_generation_config_holds_the_settings(tokenizer, tmp_path):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(num_beams=2, length_penalty=0.8), 10, 7)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    expected = {"num_beams": 2, "length_penalty": 0.8, "max_length": 11, "forced_bos_token_id": 7}
    assert {name: saved[name] for name in expected} == expected
    sources = tokenizer(SOURCES, padding=True, return_tensors="pt")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.generate(**sources), model.generate(**sources))


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5", "longt5", "switch_transformers"])
def test_t5_and_its_kin_are_refused_in_float16(model_type):
    config = SimpleNamespace(model_type=model_type)
    assert error_of(refuse_float16, SimpleNamespace(fp16=True), config) == (
        f"{model_type} overflows in float16, and its loss becomes NaN: set dtype to bfloat16 or float32."
    )
    refuse_float16(SimpleNamespace(fp16=False), config)
    refuse_float16(SimpleNamespace(fp16=True), BartConfig())


# Settings of models that go on with their input

END = "<|im_end|>"
TALK = ["hi", "hello there, who are you?", "tell me of the cat and the dog and the bird on the mat", "bye"]


@pytest.fixture(scope="module")
def chat_tokenizer():
    tokenizer = train_decoder_tokenizer(SOURCES * 3 + TALK * 3, vocab_size=320)
    tokenizer.chat_template = TEMPLATES["chatml"]
    assert find_end_of_turn(tokenizer) == END
    return tokenizer


def build_decoder(tokenizer, name: str = "llama"):
    """A Llama or GPT-2 of two layers, its weights drawn wide enough that other prompts give other texts."""
    torch.manual_seed(3)
    pieces = {"vocab_size": len(tokenizer), "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = {
        "llama": lambda: LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **pieces
        ),
        "gpt2": lambda: GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=200, tie_word_embeddings=False, **pieces
        ),
    }[name]()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.6)
    return model.eval()


def test_replies_are_the_likeliest_and_end_with_the_turn_or_as_the_checkpoint_says(chat_tokenizer, capfd):
    """The settings of a checkpoint that draws lots are removed, else generate() would warn of them."""
    model = build_decoder(chat_tokenizer)
    model.generation_config.update(
        do_sample=True, temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, top_h=0.3, typical_p=0.9, epsilon_cutoff=3e-4,
        eta_cutoff=3e-4, max_length=4096, use_cache=False, repetition_penalty=1.05,
    )  # fmt: skip
    set_reply_generation(model, GenerationArguments(), chat_tokenizer, END, 100)
    config = model.generation_config
    assert config.do_sample is False and config.use_cache is True and config.repetition_penalty == 1.05
    assert config.pad_token_id == chat_tokenizer.pad_token_id
    prompt = chat_tokenizer("the cat", return_tensors="pt")
    assert torch.equal(model.generate(**prompt), model.generate(**prompt))
    assert "ignored" not in "".join(capfd.readouterr())
    for name in ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"):
        assert getattr(config, name) is None, name


@pytest.mark.parametrize(("own", "others"), [(None, []), (7, [7]), ([7, 9], [7, 9]), ("END", []), (["END", 9], [9])])
def test_the_end_of_a_turn_comes_first_among_the_ends(chat_tokenizer, own, others):
    model = build_decoder(chat_tokenizer)
    end = chat_tokenizer.convert_tokens_to_ids(END)
    as_ids = [end if piece == "END" else piece for piece in (own if isinstance(own, list) else [own])]
    model.generation_config.eos_token_id = as_ids if isinstance(own, list) else as_ids[0]
    set_reply_generation(model, GenerationArguments(), chat_tokenizer, END, 100)
    assert model.generation_config.eos_token_id == [end, *others]


@pytest.mark.parametrize(
    ("wanted", "of_checkpoint", "max_length", "expected"),
    [
        (40, 30, 100, 40),
        (99, 30, 100, 99),  # what is asked for may take more than half
        (None, 30, 100, 30),
        (None, 60, 100, 50),
        (None, None, 100, 50),
        (None, None, 511, 255),
        (None, None, 512, 256),
        (None, None, 5000, 256),
        (None, 900, 5000, 900),
    ],
)
def test_the_longest_reply_is_as_asked_for_or_as_the_checkpoint_has_it_or_256_pieces(
    chat_tokenizer, wanted, of_checkpoint, max_length, expected
):
    model = build_decoder(chat_tokenizer)
    model.generation_config.update(max_new_tokens=of_checkpoint, max_length=4096)
    arguments = GenerationArguments(max_new_tokens=wanted)
    assert set_reply_generation(model, arguments, chat_tokenizer, END, max_length) == expected
    assert (model.generation_config.max_new_tokens, model.generation_config.max_length) == (expected, None)


@pytest.mark.parametrize("longest", [100, 101])
def test_a_reply_that_leaves_no_room_for_a_prompt_is_refused(chat_tokenizer, longest):
    arguments = GenerationArguments(max_new_tokens=longest)
    message = error_of(set_reply_generation, build_decoder(chat_tokenizer), arguments, chat_tokenizer, END, 100)
    assert message == (f"max_new_tokens is {longest}: set it below max_seq_length (100), to leave room for a prompt.")


def test_a_shortest_reply_above_the_longest_is_refused(chat_tokenizer):
    arguments = GenerationArguments(min_new_tokens=51)
    message = error_of(set_reply_generation, build_decoder(chat_tokenizer), arguments, chat_tokenizer, END, 100)
    assert message == "min_new_tokens is 51, but max_new_tokens is 50: set it higher."


def test_the_saved_settings_of_replies_give_the_same_replies(chat_tokenizer, tmp_path):
    model = build_decoder(chat_tokenizer)
    set_reply_generation(model, GenerationArguments(num_beams=2, max_new_tokens=9), chat_tokenizer, END, 100)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = chat_tokenizer("the cat sat", return_tensors="pt")
    written = loaded.generate(**prompt)
    assert torch.equal(written, model.generate(**prompt)) and written.size(1) <= prompt["input_ids"].size(1) + 9


# Texts in the order of the rows


def test_values_are_put_back_in_the_order_of_their_rows():
    assert put_back(["c", "a", "d", "b"], [2, 0, 3, 1]) == ["a", "b", "c", "d"]
    assert put_back([], []) == []


@pytest.mark.parametrize("rows", [[0, 0, 1], [0, 1], [1, 2, 3]])
def test_each_row_has_one_value(rows):
    with pytest.raises(AssertionError):
        put_back(["a", "b", "c"], rows)


def test_texts_are_decoded_in_the_order_of_the_rows_whatever_fills_them_up(tokenizer):
    written = [tokenizer(text)["input_ids"] for text in ("dog ran", "the cat sat on the mat", "ran")]
    width = max(map(len, written)) + 2
    fill = {0: -100, 1: 0, 2: -100}
    ids = np.array([row + [fill[n]] * (width - len(row)) for n, row in enumerate(written)])
    features = Dataset.from_dict({"row": [2, 0, 1]})
    assert decode_texts(ids, features, tokenizer) == ["the cat sat on the mat", "ran", "dog ran"]


def test_a_text_of_special_pieces_is_empty(tokenizer):
    assert decode_texts(np.array([[1, -100, -100], [0, 0, 0]]), Dataset.from_dict({"row": [1, 0]}), tokenizer) == [
        "",
        "",
    ]


# Measures


GENERATED = np.array(
    [
        [7, 8, 9, 1],  # three pieces; it ended in the very last place
        [7, 8, 9, 10],  # four pieces, stopped
        [7, 1, -100, -100],  # one
        [1, -100, -100, -100],  # none
    ]
)


@pytest.mark.parametrize("limit", [{"max_length": 5}, {"max_new_tokens": 4}])
def test_lengths_and_texts_that_the_model_ended_by_hand(tokenizer, limit):
    """</s> (1) ends a text and is no piece; max_length counts the piece that starts the decoder as well."""
    config = GenerationConfig(eos_token_id=1, **limit)
    assert measure_generated(GENERATED, config, tokenizer) == {"generated_length": (3 + 4 + 1 + 0) / 4, "ended": 75.0}
    assert measure_generated(GENERATED[2:], config, tokenizer) == {"generated_length": 0.5, "ended": 100.0}
    assert measure_generated(GENERATED[1:2], config, tokenizer) == {"generated_length": 4.0, "ended": 0.0}


@pytest.mark.parametrize("limit", [{"max_length": 5}, {"max_new_tokens": 4}])
def test_an_end_that_is_forced_at_the_limit_is_not_the_models(tokenizer, limit):
    config = GenerationConfig(eos_token_id=1, forced_eos_token_id=1, **limit)
    assert measure_generated(GENERATED, config, tokenizer) == {"generated_length": 2.0, "ended": 50.0}


def test_a_text_may_end_with_any_of_several_ends(tokenizer):
    config = GenerationConfig(eos_token_id=[10, 1], max_new_tokens=4)
    assert measure_generated(GENERATED, config, tokenizer)["ended"] == 100


def test_a_higher_limit_stopped_nothing(tokenizer):
    """Every row of the longest split ended before it, whether by an end that is known or not."""
    for config in (GenerationConfig(eos_token_id=1, max_length=9), GenerationConfig(max_new_tokens=5)):
        assert measure_generated(GENERATED, config, tokenizer)["ended"] == 100


def test_the_loss_is_the_mean_over_the_pieces_of_all_targets():
    assert compute_target_loss(np.array([2.0, 9.0, 0.0]), np.array([1, 3, 0])) == {
        "loss": 11 / 4, "perplexity": pytest.approx(15.6426, abs=1e-4),
    }  # fmt: skip
    assert compute_target_loss(np.array([0.0]), np.array([2])) == {"loss": 0.0, "perplexity": 1.0}
    assert compute_target_loss(np.array([0.0, 0.0]), np.array([0, 0])) == {}
    assert compute_target_loss(np.array([0.0]), None) == {}


def test_scores_are_of_the_rows_that_have_a_target(tokenizer):
    """The rows were generated in another order, 2, 0, 1; the second has no target."""
    rows = Dataset.from_dict({"target": ["cat", None, "dog"], "name": ["a", "b", "c"]})
    features = Dataset.from_dict({"row": [2, 0, 1]})
    written = [tokenizer(text)["input_ids"] for text in ("dog", "the cat", "ran ran ran")]
    width = max(map(len, written))
    ids = np.array([row + [-100] * (width - len(row)) for row in written])
    config = GenerationConfig(max_length=50, eos_token_id=1)
    seen = []

    def score_texts(texts, known):
        seen.append((texts, known["name"][:]))
        return {"equal": 50.0}

    numbers, losses = np.array([2, 3, 0]), np.array([1.0, 4.0, 0.0], dtype=np.float32)
    evaluated = EvalPrediction(predictions=(ids, losses), label_ids=numbers)
    scores = score_generated(evaluated, features, rows, "target", tokenizer, config, score_texts)
    assert seen == [(["the cat", "dog"], ["a", "c"])]
    assert scores.pop("generated_length") == pytest.approx(np.mean([len(ids) - 1 for ids in written]))
    assert scores == {"loss": 1.0, "perplexity": pytest.approx(np.e), "equal": 50.0, "ended": 100.0}

    unlabelled = rows.remove_columns("target").add_column("target", [None, None, None])
    assert score_generated(evaluated, features, unlabelled, "target", tokenizer, config, score_texts) == {}
    assert len(seen) == 1


def test_without_generated_texts_the_loss_is_all_there_is(tokenizer):
    evaluated = EvalPrediction(predictions=np.array([2.0, 6.0]), label_ids=np.array([1, 3]))
    assert score_generated(evaluated, None, None, "target", tokenizer, None, None) == {
        "loss": 2.0, "perplexity": pytest.approx(7.389, abs=1e-3),
    }  # fmt: skip


# Lists and reports


def test_a_row_is_listed_with_its_id_its_texts_and_its_scores():
    rows = Dataset.from_dict({"id": ["x", "y"], "source": ["a", "b"], "target": ["c", None], "origin": ["f:1", "f:2"]})
    assert list_generated(["C", "D"], rows, "source", "target", [{"chrf": 12.3456}, None]) == [
        {"id": "x", "source": "a", "target": "c", "predicted_target": "C", "chrf": 12.35},
        {"id": "y", "source": "b", "predicted_target": "D"},
    ]


def make_listed(count: int) -> list[dict]:
    """Sources of 1, 2, ... characters in a mixed order, with a score of ten times their length."""
    order = np.random.default_rng(0).permutation(count) + 1
    return [{"id": str(n), "source": "x" * n, "target": "t", "predicted_target": "p", "chrf": 10.0 * n} for n in order]


def test_the_lowest_come_first_and_rows_without_target_not_at_all():
    outcome = Outcome("translation", ["chrf"])
    listed = [*make_listed(15), {"id": "u", "source": "x" * 99, "predicted_target": "p"}]
    report_generated(outcome, "test", listed, "chrf")
    table = outcome.tables["test: texts with the lowest chrf"]
    assert [row["chrf"] for row in table] == [10.0 * n for n in range(1, 16)]
    assert table[0] == {"chrf": 10.0, "source": "x", "target": "t", "predicted_target": "p"}


def test_texts_that_are_the_wanted_ones_are_not_among_the_lowest():
    outcome = Outcome("translation", ["chrf"])
    listed = make_listed(3)
    listed[1]["predicted_target"] = listed[1]["target"]
    report_generated(outcome, "test", listed, "chrf")
    assert len(outcome.tables["test: texts with the lowest chrf"]) == 2
    report_generated(outcome, "test", listed[1:2], "chrf")
    assert outcome.tables["test: texts with the lowest chrf"] == []


def test_twenty_of_the_lowest_are_shown_and_long_texts_shortened():
    outcome = Outcome("translation", ["chrf"])
    listed = make_listed(500)
    report_generated(outcome, "test", [{**row, "chrf": -row["chrf"]} for row in listed], "chrf")
    table = outcome.tables["test: texts with the lowest chrf"]
    assert [row["chrf"] for row in table] == [-10.0 * n for n in range(500, 480, -1)]
    assert table[0]["source"] == "x" * 400 + " ..."


# The Trainer


def make_features(tokenizer, targets=TARGETS) -> Dataset:
    encoded = encode_pairs(tokenizer, SOURCES, targets, 60, 40)
    rows = Dataset.from_dict(encoded | {"row": list(range(len(SOURCES)))})
    return sort_for_evaluation(DatasetDict(test=rows))["test"]


def make_trainer(model, tokenizer, directory, rows=None, **settings) -> Seq2SeqTrainer:
    settings = {"per_device_eval_batch_size": 3, "per_device_train_batch_size": 4, "dtype": "float32"} | settings
    args = Seq2SeqTrainingArguments(
        output_dir=str(directory), use_cpu=True, report_to=[], disable_tqdm=True, **settings
    )
    score = None
    if rows is not None:
        score = partial(
            score_generated, features=rows, rows=Dataset.from_dict({"target": TARGETS}), target_name="target",
            tokenizer=tokenizer, generation_config=model.generation_config,
            score_texts=lambda texts, known: {"rows": len(texts)},
        )  # fmt: skip
    return Seq2SeqTrainer(
        model=model, args=args, processing_class=tokenizer, train_dataset=rows, eval_dataset=rows,
        data_collator=PairCollator(tokenizer, model),
        compute_loss_func=CrossEntropy(), compute_metrics=score,
    )  # fmt: skip


def compute_losses_alone(model, features: Dataset) -> tuple[list[float], list[int]]:
    """Summed loss and number of pieces of each row, by the loss of the model itself, one row at a time."""
    losses, numbers = [], []
    for row in features:
        pieces = sum(label != -100 for label in row["labels"])
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
        losses.append(float(mean) * pieces if pieces else 0.0)
        numbers.append(pieces)
    return losses, numbers


class CastWeights(TorchDispatchMode):
    """Counts how often each of the weights is cast to bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.names = {weight.data_ptr(): name for name, weight in model.named_parameters()}
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            self.counts[self.names.get(args[0].data_ptr())] += 1
        return function(*args, **kwargs)


def test_an_evaluation_in_bfloat16_casts_each_weight_once_and_the_next_one_again(tokenizer, tmp_path):
    """Autocast by itself casts all of them in each batch, and for each piece that is generated."""
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(), 12)
    features = make_features(tokenizer)
    trainer = make_trainer(model, tokenizer, tmp_path, dtype="bfloat16", per_device_eval_batch_size=2)
    for factor in (1.0, 0.5):
        with torch.no_grad():
            model.lm_head.weight.mul_(factor)
        with CastWeights(model) as cast:
            losses = generate(trainer, features).predictions[1]
        del cast.counts[None]  # what is no weight
        assert set(cast.counts.values()) == {1}
        # Those of the head are shared with the embeddings.
        assert {"shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"} <= set(cast.counts)
        alone, _ = compute_losses_alone(model, features)
        assert losses.tolist() == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_row_gets_its_own_text_and_loss_in_the_order_of_the_rows(tokenizer, tmp_path, num_beams):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(num_beams=num_beams, no_repeat_ngram_size=2), 12)
    features = make_features(tokenizer)
    assert features["row"][:] != list(range(len(SOURCES)))
    predicted = generate(make_trainer(model, tokenizer, tmp_path), features)
    generated, losses = predicted.predictions
    texts = decode_texts(generated, features, tokenizer)
    expected = []
    for source in SOURCES:
        ids = tokenizer(source, return_tensors="pt")
        expected.append(tokenizer.decode(model.generate(**ids)[0], skip_special_tokens=True).strip())
    assert texts == expected and len(set(expected)) > 4
    alone, numbers = compute_losses_alone(model, features)
    assert losses.tolist() == pytest.approx(alone, abs=1e-3)
    assert predicted.label_ids.tolist() == numbers and numbers.count(0) == 2


@pytest.mark.parametrize("predict_with_generate", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_evaluation_loss_is_the_mean_over_all_pieces_whatever_the_batches(
    tokenizer, tmp_path, predict_with_generate, batch_size
):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(), 12)
    features = make_features(tokenizer)
    trainer = make_trainer(
        model, tokenizer, tmp_path, features, predict_with_generate=predict_with_generate,
        per_device_eval_batch_size=batch_size,
    )  # fmt: skip
    metrics = trainer.evaluate()
    losses, numbers = compute_losses_alone(model, features)
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / sum(numbers), rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(sum(losses) / sum(numbers)), rel=1e-4)
    assert metrics.get("eval_rows") == (6 if predict_with_generate else None)
    assert ("eval_generated_length" in metrics) == predict_with_generate


def test_the_final_texts_are_generated_even_where_training_evaluates_the_loss_alone(tokenizer, tmp_path):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(), 12)
    features = make_features(tokenizer)
    trainer = make_trainer(model, tokenizer, tmp_path, features, predict_with_generate=False)
    trainer.evaluate()
    generated, losses = generate(trainer, features).predictions
    assert generated.shape[0] == losses.shape[0] == len(SOURCES) and generated.ndim == 2


def test_padding_of_generated_texts_is_ignored_and_the_text_in_front_of_it_is_whole(tokenizer, tmp_path):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(), 12)
    features = make_features(tokenizer)
    generated = generate(make_trainer(model, tokenizer, tmp_path), features).predictions[0]
    for ids, source in zip(generated, features["input_ids"], strict=True):
        alone = model.generate(torch.tensor([source]))[0, 1:].tolist()
        alone = alone[: alone.index(1) + 1] if 1 in alone else alone
        assert ids.tolist() == alone + [-100] * (len(ids) - len(alone))


def test_unlabelled_rows_alone_can_be_predicted(tokenizer, tmp_path):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(), 12)
    features = make_features(tokenizer, [None] * len(SOURCES))
    predicted = generate(make_trainer(model, tokenizer, tmp_path), features)
    assert predicted.label_ids.tolist() == [0] * len(SOURCES)
    labelled_features = make_features(tokenizer)  # which come in another order: rows of equal length by their labels
    labelled = generate(make_trainer(model, tokenizer, tmp_path), labelled_features)
    texts = put_back(predicted.predictions[0].tolist(), features["row"])
    assert texts == put_back(labelled.predictions[0].tolist(), labelled_features["row"])


def test_training_saves_the_generation_settings_with_the_model(tokenizer, tmp_path):
    model = build_t5(tokenizer)
    set_generation(model, GenerationArguments(num_beams=2), 12, 9)
    features = make_features(tokenizer, [text or "none" for text in TARGETS])
    trainer = make_trainer(model, tokenizer, tmp_path, features, max_steps=2, learning_rate=1e-3)
    before = model.lm_head.weight.clone()
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert not torch.equal(before, model.lm_head.weight)
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (saved.num_beams, saved.max_length, saved.forced_bos_token_id) == (2, 13, 9)


@pytest.mark.parametrize("name", list(LANGUAGES))
def test_models_of_many_languages_are_trained_and_evaluated_with_and_without_targets(name, tmp_path):
    tokenizer = build_multilingual_tokenizer(name, tmp_path / "files")
    _, _, mark = set_languages(tokenizer, "en", "de")
    model = build_multilingual_model(tokenizer)
    set_generation(model, GenerationArguments(), 8, mark)
    features = make_features(tokenizer)
    trainer = make_trainer(model, tokenizer, tmp_path / "run", features.select([0, 1]), max_steps=1)
    predicted = generate(trainer, features)
    alone, numbers = compute_losses_alone(model, features.filter(lambda row: row["labels"] != [-100]))
    known = predicted.label_ids > 0
    assert predicted.label_ids[known].tolist() == numbers and known.sum() == 6
    assert predicted.predictions[1][known].tolist() == pytest.approx(alone, rel=1e-4)
    assert all(mark in ids[:2] for ids in predicted.predictions[0])
    assert trainer.train().global_step == 1


# The Trainer for models that go on with their input


def test_prompts_are_what_stands_before_the_first_label_padded_on_the_left():
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 0, 0], [3, 4, 9, 9, 9, 2], [1, 2, 3, 4, 5, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 1, 1, 1, 0]]),
        "labels": torch.tensor(
            [[-100, -100, -100, 8, -100, -100], [-100, 4, -100, -100, 9, 2], [-100] * 6]  # the last has no reply
        ),
    }
    prompts = take_prompts(inputs, 0)
    assert {name: values.tolist() for name, values in prompts.items()} == {
        "input_ids": [[0, 0, 5, 6, 7], [0, 0, 0, 0, 3], [1, 2, 3, 4, 5]],
        "attention_mask": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    }
    assert take_prompts(inputs, 77)["input_ids"][0].tolist() == [77, 77, 5, 6, 7]


HISTORIES = [
    [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    for texts in (TALK[:1], TALK[:3], TALK[1:2], TALK[2:3], [TALK[0], TALK[2], TALK[3]], SOURCES[:5], TALK[3:4])
]
REPLIES = ["hello", None, "I am a cat", "no", "bye", None, "the dog and the cat ran"]


def make_replies(tokenizer, replies=REPLIES) -> Dataset:
    encode = partial(encode_reply, tokenizer=tokenizer, end_of_turn=END, max_length=150, max_new_tokens=12)
    rows = Dataset.from_dict(encode_rows(encode, HISTORIES, replies) | {"row": list(range(len(HISTORIES)))})
    return sort_for_evaluation(DatasetDict(test=rows))["test"]


def make_causal_trainer(model, tokenizer, directory, rows=None, **settings) -> CausalTrainer:
    """With ends that a model of random weights does write, beside that of a turn."""
    model.generation_config.eos_token_id = list(range(3, 30))
    num_beams = settings.pop("num_beams", None)
    set_reply_generation(model, GenerationArguments(num_beams=num_beams, max_new_tokens=12), tokenizer, END, 150)
    args = Seq2SeqTrainingArguments(
        output_dir=str(directory), use_cpu=True, dtype="float32", report_to=[], disable_tqdm=True,
        **{"per_device_eval_batch_size": 3} | settings,
    )  # fmt: skip
    score = partial(
        score_generated, features=rows, rows=Dataset.from_dict({"reply": REPLIES}), target_name="reply",
        tokenizer=tokenizer, generation_config=model.generation_config,
        score_texts=lambda texts, known: {"rows": len(texts)},
    )  # fmt: skip
    return CausalTrainer(
        model=model, args=args, processing_class=tokenizer, train_dataset=rows, eval_dataset=rows,
        data_collator=DialogueCollator(tokenizer), compute_loss_func=CrossEntropy(shift=True),
        compute_metrics=score if rows is not None else None,
    )  # fmt: skip


def write_alone(model, tokenizer) -> list[list[int]]:
    """What the model writes behind each prompt by itself, padded nowhere."""
    written = []
    for history in HISTORIES:
        prompt = tokenizer.apply_chat_template(history, add_generation_prompt=True, return_tensors="pt")
        written.append(model.generate(**prompt)[0, prompt["input_ids"].size(1) :].tolist())
    return written


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("pad_is_end", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_prompt_gets_its_own_reply_and_loss_in_the_order_of_the_rows(
    chat_tokenizer, tmp_path, name, pad_is_end, num_beams
):
    """GPT-2 numbers its positions from the left, where the padding of a batch of prompts stands."""
    tokenizer = copy.deepcopy(chat_tokenizer)
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == pad_is_end
    model = build_decoder(tokenizer, name)
    features = make_replies(tokenizer)
    assert features["row"][:] != list(range(len(HISTORIES)))
    predicted = generate(make_causal_trainer(model, tokenizer, tmp_path, num_beams=num_beams), features)
    generated, losses = predicted.predictions
    alone = write_alone(model, tokenizer)
    for ids, row in zip(generated.tolist(), features["row"], strict=True):
        assert ids == alone[row] + [-100] * (len(ids) - len(alone[row]))
    assert len(set(map(tuple, alone))) > 4 and len(set(map(len, alone))) > 1
    texts = decode_texts(generated, features, tokenizer)
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in alone]
    expected, numbers = compute_losses_alone(model, features)
    assert losses.tolist() == pytest.approx(expected, rel=1e-4)
    assert predicted.label_ids.tolist() == numbers and numbers.count(0) == 2


@pytest.mark.parametrize("predict_with_generate", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_loss_of_replies_is_the_mean_over_all_their_pieces_whatever_the_batches(
    chat_tokenizer, tmp_path, predict_with_generate, batch_size
):
    model = build_decoder(chat_tokenizer)
    features = make_replies(chat_tokenizer)
    trainer = make_causal_trainer(
        model, chat_tokenizer, tmp_path, features, predict_with_generate=predict_with_generate,
        per_device_eval_batch_size=batch_size,
    )  # fmt: skip
    metrics = trainer.evaluate()
    losses, numbers = compute_losses_alone(model, features)
    loss = sum(losses) / sum(numbers)
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)
    assert metrics.get("eval_rows") == (5 if predict_with_generate else None)
    alone = write_alone(model, chat_tokenizer)
    ended = 100 * np.mean([ids[-1] in model.generation_config.eos_token_id for ids in alone])
    assert metrics.get("eval_ended") == (pytest.approx(ended) if predict_with_generate else None)
    assert 0 < ended < 100


def test_prompts_without_any_reply_can_be_predicted(chat_tokenizer, tmp_path):
    model = build_decoder(chat_tokenizer, "gpt2")
    trainer = make_causal_trainer(model, chat_tokenizer, tmp_path)
    features = make_replies(chat_tokenizer, [None] * len(HISTORIES))
    predicted = generate(trainer, features)
    assert predicted.label_ids.tolist() == [0] * len(HISTORIES)
    alone = write_alone(model, chat_tokenizer)
    expected = [chat_tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in alone]
    assert decode_texts(predicted.predictions[0], features, chat_tokenizer) == expected
