"""common/parts.py: every weight of every architecture has the place that its name says, written here by hand."""

from common.parts import find_stacks, has_shared_layers, has_tied_head, locate_parameters
from tests.small_models import ENCODER, ENCODER_DECODER, GPT2, T5, build

import pytest
import torch
from peft import LoraConfig, PromptEncoderConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM

# For each class: settings, then the beginnings of the names: embeddings, layers (by number), head.
PLACES = {
    "BertForSequenceClassification": (
        ENCODER,
        ["bert.embeddings."],
        {number: [f"bert.encoder.layer.{number - 1}."] for number in (1, 2, 3)},
        ["bert.pooler.", "classifier."],
    ),
    "RobertaForSequenceClassification": (
        ENCODER,
        ["roberta.embeddings."],
        {number: [f"roberta.encoder.layer.{number - 1}."] for number in (1, 2, 3)},
        ["classifier.dense.", "classifier.out_proj."],
    ),
    "DistilBertForSequenceClassification": (
        {"vocab_size": 50, "max_position_embeddings": 64, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
        ["distilbert.embeddings."],
        {number: [f"distilbert.transformer.layer.{number - 1}."] for number in (1, 2, 3)},
        ["pre_classifier.", "classifier."],
    ),
    "ElectraForTokenClassification": (
        ENCODER | {"embedding_size": 8},
        ["electra.embeddings.", "electra.embeddings_project."],
        {number: [f"electra.encoder.layer.{number - 1}."] for number in (1, 2, 3)},
        ["classifier."],
    ),
    "DebertaV2ForSequenceClassification": (
        ENCODER
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
        | {"norm_rel_ebd": "layer_norm", "conv_kernel_size": 3},
        ["deberta.embeddings.", "deberta.encoder.rel_embeddings.", "deberta.encoder.LayerNorm."],
        {
            1: ["deberta.encoder.layer.0.", "deberta.encoder.conv."],
            2: ["deberta.encoder.layer.1."],
            3: ["deberta.encoder.layer.2."],
        },
        ["pooler.", "classifier."],
    ),
    "AlbertForSequenceClassification": (
        ENCODER | {"embedding_size": 8},
        ["albert.embeddings.", "albert.encoder.embedding_hidden_mapping_in."],
        {1: ["albert.encoder.albert_layer_groups.0.albert_layers.0."]},
        ["albert.pooler.", "classifier."],
    ),
    "ModernBertForTokenClassification": (
        ENCODER | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        ["model.embeddings."],
        {1: ["model.layers.0."], 2: ["model.layers.1."], 3: ["model.layers.2.", "model.final_norm."]},
        ["head.dense.", "head.norm.", "classifier."],
    ),
    "LlamaForCausalLM": (
        ENCODER,
        ["model.embed_tokens."],
        {1: ["model.layers.0."], 2: ["model.layers.1."], 3: ["model.layers.2.", "model.norm."]},
        ["lm_head."],
    ),
    "Qwen2ForCausalLM": (
        ENCODER | {"tie_word_embeddings": True},
        ["model.embed_tokens."],
        {1: ["model.layers.0."], 2: ["model.layers.1."], 3: ["model.layers.2.", "model.norm."]},
        [],
    ),
    "GPT2LMHeadModel": (
        GPT2,
        ["transformer.wte.", "transformer.wpe."],
        {1: ["transformer.h.0."], 2: ["transformer.h.1."], 3: ["transformer.h.2.", "transformer.ln_f."]},
        [],
    ),
    "GPT2ForSequenceClassification": (
        GPT2,
        ["transformer.wte.", "transformer.wpe."],
        {1: ["transformer.h.0."], 2: ["transformer.h.1."], 3: ["transformer.h.2.", "transformer.ln_f."]},
        ["score."],
    ),
    "T5ForTokenClassification": (
        T5,
        ["transformer.shared."],
        {
            1: ["transformer.encoder.block.0."],
            2: ["transformer.encoder.block.1."],
            3: ["transformer.encoder.block.2.", "transformer.encoder.final_layer_norm."],
        },
        ["classifier."],
    ),
}
# Likewise; three layers in the encoder, two in the decoder.
TWO_STACKS = {
    "T5ForConditionalGeneration": (T5, ["shared."], "encoder.block.", "decoder.block.", "final_layer_norm.", []),
    "MT5ForConditionalGeneration": (T5, ["shared."], "encoder.block.", "decoder.block.", "final_layer_norm.", []),
    "T5ForQuestionAnswering": (
        T5,
        ["shared."],
        "encoder.block.",
        "decoder.block.",
        "final_layer_norm.",
        ["qa_outputs."],
    ),
    **{
        name: (
            ENCODER_DECODER,
            ["model.shared.", *(f"model.{side}.{table}" for side in ("encoder", "decoder") for table in tables)],
            "model.encoder.layers.",
            "model.decoder.layers.",
            "layer_norm.",
            [],
        )
        for name, tables in {
            "BartForConditionalGeneration": ["embed_positions.", "layernorm_embedding."],
            "MBartForConditionalGeneration": ["embed_positions.", "layernorm_embedding."],
            "M2M100ForConditionalGeneration": [],
            "MarianMTModel": ["embed_positions."],
        }.items()
    },
}


@pytest.mark.parametrize("class_name", PLACES)
def test_every_weight_of_a_model_with_one_stack_has_its_place(class_name):
    settings, embeddings, layers, head = PLACES[class_name]
    model = build(class_name, settings)
    expected = {start: ("embeddings", None, len(layers) + 1) for start in embeddings}
    expected |= dict.fromkeys(head, ("head", None, 0))
    for layer, starts in layers.items():
        expected |= {start: ("layers", layer, len(layers) + 1 - layer) for start in starts}
    check_places(model, expected)


@pytest.mark.parametrize("class_name", TWO_STACKS)
def test_encoder_and_decoder_are_counted_each_from_its_own_top(class_name):
    settings, embeddings, encoder, decoder, last_norm, head = TWO_STACKS[class_name]
    model = build(class_name, settings)
    expected = dict.fromkeys(embeddings, ("embeddings", None, 4))
    expected |= dict.fromkeys(head, ("head", None, 0))
    expected |= {f"{encoder}0.": ("layers", 1, 3), f"{encoder}1.": ("layers", 2, 2), f"{encoder}2.": ("layers", 3, 1)}
    expected |= {f"{decoder}0.": ("layers", 1, 2), f"{decoder}1.": ("layers", 2, 1)}
    if any(name.endswith(f"encoder.{last_norm}weight") for name, _ in model.named_parameters()):
        outer = encoder.rpartition("encoder.")[0]
        expected |= {f"{outer}encoder.{last_norm}": ("layers", 3, 1), f"{outer}decoder.{last_norm}": ("layers", 2, 1)}
    check_places(model, expected)
    assert list(find_stacks(model).values()) == [3, 2]


def check_places(model, expected: dict[str, tuple]) -> None:
    """Each name begins with exactly one of the expected ones, each of those is in use, and the place is as written."""
    used = set()
    for name, part in locate_parameters(model).items():
        (start,) = [start for start in expected if name.startswith(start)]
        used.add(start)
        assert (part.kind, part.layer, part.depth) == expected[start], name
    assert used == set(expected)
    assert list(locate_parameters(model)) == [name for name, _ in model.named_parameters()]


def test_a_head_is_tied_where_it_is_the_table_of_the_embeddings():
    tied = {"Qwen2ForCausalLM": True, "LlamaForCausalLM": False, "GPT2LMHeadModel": True}
    assert {name: has_tied_head(build(name, PLACES[name][0])) for name in tied} == tied
    tied = ("T5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel")
    assert all(has_tied_head(build(name, TWO_STACKS[name][0])) for name in tied)
    assert not has_tied_head(build("BertForSequenceClassification", ENCODER))


def test_a_head_of_mt5_that_its_checkpoint_keeps_apart_is_a_head(tmp_path):
    """transformers 5.23 ties it, whatever the config says, unless the checkpoint holds both, as that of mT5 does."""
    model = build("MT5ForConditionalGeneration", T5)
    weights = {name: weight.clone() for name, weight in model.state_dict().items() if "embed_tokens" not in name}
    model.config.save_pretrained(tmp_path)
    save_file(weights | {"lm_head.weight": torch.ones(50, 16)}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert not has_tied_head(loaded)
    parts = locate_parameters(loaded)
    assert parts["lm_head.weight"].kind == "head" and parts["shared.weight"].kind == "embeddings"


def test_albert_shares_its_layers_unless_each_has_a_group_of_its_own():
    assert has_shared_layers(build("AlbertForSequenceClassification", ENCODER))
    assert not has_shared_layers(build("AlbertForSequenceClassification", ENCODER | {"num_hidden_groups": 3}))
    assert not has_shared_layers(build("BertForSequenceClassification", ENCODER))


def test_an_adapter_has_the_depth_of_its_layer_and_a_head_beside_it_is_the_head():
    bert = build("BertForSequenceClassification", ENCODER)
    model = get_peft_model(bert, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "word_embeddings"]))
    parts = locate_parameters(model)
    start = "base_model.model.bert"
    query = f"{start}.encoder.layer.0.attention.self.query"
    places = {name: (part.kind, part.layer, part.depth) for name, part in parts.items()}
    assert places[f"{query}.lora_A.default.weight"] == ("adapter", 1, 3)
    assert places[f"{query}.lora_B.default.weight"] == ("adapter", 1, 3)
    assert places[f"{query}.base_layer.weight"] == ("layers", 1, 3)
    table = f"{start}.embeddings.word_embeddings"
    assert places[f"{table}.lora_embedding_A.default"] == ("adapter", None, 4)
    assert places[f"{table}.base_layer.weight"] == ("embeddings", None, 4)
    assert places["base_model.model.classifier.modules_to_save.default.weight"] == ("head", None, 0)
    assert sum(part.kind == "adapter" for part in parts.values()) == 2 * 3 + 2
    assert not any("original_module" in name for name in parts), "the copy that PEFT sets aside is no part of the model"


def test_virtual_tokens_are_an_adapter_at_the_depth_of_the_head():
    bert = build("BertForTokenClassification", ENCODER)
    model = get_peft_model(
        bert, PromptEncoderConfig(task_type="TOKEN_CLS", num_virtual_tokens=4, encoder_hidden_size=16)
    )
    added = {name: part for name, part in locate_parameters(model).items() if part.kind == "adapter"}
    assert len(added) > 1 and all(name.startswith("prompt_encoder.") for name in added)
    assert {part.depth for part in added.values()} == {0}
