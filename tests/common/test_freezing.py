"""common/freezing.py: what stays as it was, by the names of the weights."""

from common.arguments import ModelArguments, TrainingArguments
from common.errors import UserError
from common.freezing import freeze_parameters
from common.models import load_config, load_model
from recipes.ner import run as ner
from recipes.summarization import run as summarization
from tests.conftest import (
    list_sample_flags,
    run_generating_recipe,
    run_in_process,
    save_encoder,
)
from tests.small_models import ENCODER, ENCODER_DECODER, GPT2, T5, build

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertForMaskedLM


def list_frozen(model, what: str) -> set[str]:
    freeze_parameters(model, what)
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def list_names(model, *starts: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def error_of(model, what: str) -> str:
    with pytest.raises(UserError) as caught:
        freeze_parameters(model, what)
    return str(caught.value)


# Embeddings


@pytest.mark.parametrize(
    ("class_name", "settings", "names"),
    [
        (
            "BertForTokenClassification",
            ENCODER,
            {f"bert.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}
            | {"bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"},
        ),
        ("GPT2LMHeadModel", GPT2, {"transformer.wte.weight", "transformer.wpe.weight"}),
        ("LlamaForCausalLM", ENCODER, {"model.embed_tokens.weight"}),
        ("T5ForConditionalGeneration", T5, {"shared.weight"}),
        (
            "BartForConditionalGeneration",
            ENCODER_DECODER,
            {"model.shared.weight"}
            | {f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}
            | {
                f"model.{side}.layernorm_embedding.{kind}"
                for side in ("encoder", "decoder")
                for kind in ("weight", "bias")
            },
        ),
    ],
)
def test_frozen_embeddings_are_those_of_every_side_and_nothing_else(class_name, settings, names):
    assert list_frozen(build(class_name, settings), "embeddings") == names


def test_a_tied_lm_head_freezes_with_the_embeddings_and_another_one_does_not():
    tied, untied = build("GPT2LMHeadModel", GPT2), build("LlamaForCausalLM", ENCODER)
    for model in (tied, untied):
        freeze_parameters(model, "embeddings")
    assert not tied.lm_head.weight.requires_grad and untied.lm_head.weight.requires_grad


# Backbone


@pytest.mark.parametrize(
    ("class_name", "settings", "head"),
    [
        ("BertForSequenceClassification", ENCODER, ["bert.pooler.", "classifier."]),
        ("RobertaForSequenceClassification", ENCODER, ["classifier."]),
        ("DebertaV2ForSequenceClassification", ENCODER | {"relative_attention": True}, ["pooler.", "classifier."]),
        ("AlbertForSequenceClassification", ENCODER, ["albert.pooler.", "classifier."]),
        ("LlamaForSequenceClassification", ENCODER, ["score."]),
        ("T5ForQuestionAnswering", T5, ["qa_outputs."]),
    ],
)
def test_behind_a_frozen_backbone_only_the_head_is_trained(class_name, settings, head):
    model = build(class_name, settings)
    frozen = list_frozen(model, "backbone")
    trained = {name for name, _ in model.named_parameters()} - frozen
    assert trained == list_names(model, *head) and trained


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [("T5ForConditionalGeneration", T5), ("LlamaForCausalLM", ENCODER), ("GPT2LMHeadModel", GPT2)],
)
def test_a_backbone_whose_head_is_pretrained_with_it_is_not_frozen(class_name, settings):
    model = build(class_name, settings)
    message = error_of(model, "backbone")
    assert message.startswith(f"freeze backbone leaves nothing to learn in {class_name}: the head")
    assert "embeddings or first_<k>_layers" in message
    assert all(parameter.requires_grad for parameter in model.parameters())


# The lowest layers


@pytest.mark.parametrize("number", [1, 3])
def test_frozen_are_the_embeddings_and_the_lowest_layers_and_nothing_else(number):
    model = build("BertForTokenClassification", ENCODER)
    frozen = list_frozen(model, f"first_{number}_layers")
    lowest = ("bert.embeddings.", *(f"bert.encoder.layer.{layer}." for layer in range(number)))
    assert frozen == list_names(model, *lowest)
    assert len(frozen) == 5 + 16 * number  # 3 embedding tables and a norm; 6 linear layers and 2 norms a layer


def test_the_convolution_beside_the_first_layer_of_deberta_freezes_with_it():
    settings = ENCODER | {"relative_attention": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
    model = build("DebertaV2ForSequenceClassification", settings)
    frozen = list_frozen(model, "first_1_layers")
    inside = ("rel_embeddings.", "LayerNorm.", "conv.", "layer.0.")
    assert frozen == list_names(model, "deberta.embeddings.", *(f"deberta.encoder.{name}" for name in inside))


def test_the_last_norm_freezes_with_the_top_layer():
    model = build("LlamaForCausalLM", ENCODER)
    assert "model.norm.weight" not in list_frozen(model, "first_2_layers")
    assert "model.norm.weight" in list_frozen(model, "first_3_layers")


@pytest.mark.parametrize(
    ("class_name", "settings", "encoder", "others"),
    [
        ("T5ForConditionalGeneration", T5, "encoder.block", ["shared."]),
        ("MarianMTModel", ENCODER_DECODER, "model.encoder.layers", ["model.shared.", "model.encoder.embed_positions."]),
    ],
)
def test_of_an_encoder_decoder_the_lowest_layers_of_the_encoder_freeze(class_name, settings, encoder, others):
    model = build(class_name, settings)
    positions = ["model.decoder.embed_positions."] if class_name == "MarianMTModel" else []
    frozen = list_frozen(model, "first_2_layers")
    assert frozen == list_names(model, f"{encoder}.0.", f"{encoder}.1.", *others, *positions)


def test_the_encoder_is_counted_also_where_the_decoder_has_more_layers():
    settings = ENCODER_DECODER | {"encoder_layers": 1, "decoder_layers": 3}
    message = error_of(build("BartForConditionalGeneration", settings), "first_2_layers")
    assert message == "freeze is first_2_layers, but the encoder has 1 layers."


def test_more_frozen_layers_than_there_are_are_refused():
    message = error_of(build("BertForTokenClassification", ENCODER), "first_4_layers")
    assert message == "freeze is first_4_layers, but the model has 3 layers."


def test_shared_layers_are_not_frozen_one_by_one():
    message = error_of(build("AlbertForSequenceClassification", ENCODER), "first_1_layers")
    assert "AlbertForSequenceClassification: its layers share their weights" in message and "backbone" in message


def test_a_model_with_nothing_left_to_train_is_refused():
    message = error_of(build("GPT2LMHeadModel", GPT2), "first_3_layers")
    assert message == "freeze first_3_layers leaves nothing to train in GPT2LMHeadModel: freeze fewer layers."


# As users give it


@pytest.mark.parametrize("value", ["3", "layers", "first_0_layers", "first_-1_layers", "first_2_layer", "Backbone", ""])
def test_another_value_is_refused_with_those_that_are_allowed(value):
    with pytest.raises(UserError) as caught:
        ModelArguments(model_name_or_path="any", freeze=value)
    allowed = "embeddings, backbone or first_<k>_layers (like first_4_layers)"
    assert str(caught.value) == f"freeze must be {allowed}, not {value!r}."


def test_freezing_is_refused_where_it_makes_no_sense():
    with pytest.raises(UserError, match="leave out freeze"):
        ModelArguments(model_name_or_path="any", freeze="embeddings", use_peft=True)
    with pytest.raises(UserError, match="random for ever"):
        ModelArguments(from_scratch="encoder_tiny", freeze="embeddings")


def test_a_new_pooler_is_trained_and_nothing_is_frozen_unless_asked_for(tmp_path):
    """This checkpoint has none: frozen, it would be random for ever."""
    build("BertForMaskedLM", ENCODER).save_pretrained(tmp_path / "base")
    model_args = ModelArguments(model_name_or_path=str(tmp_path / "base"), freeze="backbone")
    training_args = TrainingArguments(output_dir=str(tmp_path / "run"), dtype="float32", use_cpu=True)
    config = load_config(model_args)
    model = load_model(AutoModelForSequenceClassification, model_args, training_args, config, ["bad", "good"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        f"{module}.{kind}" for module in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }


def list_flags(recipe: str, model, output) -> list[str]:
    return [
        *list_sample_flags(recipe, "train", "validation"), "--model_name_or_path", model, "--output_dir", output,
        "--do_train", "--do_eval", "--max_steps", "3", "--learning_rate", "1e-2", "--dtype", "float32",
        "--max_train_samples", "24", "--max_eval_samples", "8", "--save_strategy", "no",
    ]  # fmt: skip


def list_changed(model, output) -> set[str]:
    """The weights of both directories that differ."""
    before, after = (load_file(path / "model.safetensors") for path in (model, output))
    return {name for name in before.keys() & after.keys() if not before[name].equal(after[name])}


def test_frozen_weights_are_saved_as_they_were_and_all_others_have_changed(tmp_path, capsys):
    encoder = save_encoder(tmp_path / "encoder", BertForMaskedLM)
    flags = list_flags("ner", encoder, tmp_path / "out")
    run_in_process(ner, ner.NerArguments, *flags, "--freeze", "first_1_layers")
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("trained"))
    assert shown.startswith("trained    embeddings 0 of ") and "; layers 8,544 of 17,088; head 297 of 297" in shown
    changed = list_changed(encoder, tmp_path / "out")
    assert changed and all(name.startswith("bert.encoder.layer.1.") for name in changed)
    assert len(changed) == 16


def test_the_start_screen_says_that_a_frozen_table_is_the_head_too(encoder_decoder, tmp_path, capsys):
    flags = [*list_flags("summarization", encoder_decoder, tmp_path / "out"), "--freeze", "embeddings"]
    run_generating_recipe(summarization, summarization.SummarizationArguments, *flags, "--num_beams", "1")
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("trained"))
    assert shown.startswith("trained    embeddings 0 of ") and shown.endswith("(the lm_head is tied to the embeddings)")
    changed = list_changed(encoder_decoder, tmp_path / "out")
    assert "shared.weight" not in changed and "encoder.block.0.layer.0.SelfAttention.q.weight" in changed


def test_the_old_name_is_told_with_the_new_one(encoder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_in_process(ner, ner.NerArguments, *list_flags("ner", encoder, tmp_path / "out"), "--freeze_layers", "2")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "--freeze_layers has another name here: use --freeze first_2_layers" in said
