"""What a model is before FSDP 2 divides it; tests/test_sharding.py divides some."""

from common.sharding import prepare_for_fsdp, uses_fsdp
from tests.conftest import build_encoder_decoder_config, build_tokenizer

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    M2M100Config,
    MBartConfig,
    RobertaConfig,
    TrainingArguments,
)

SMALL = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
SIDES = {"d_model": 8, "vocab_size": 50, "scale_embedding": True, "dropout": 0.0, "max_position_embeddings": 20}
for side in ("encoder", "decoder"):
    SIDES |= {f"{side}_layers": 1, f"{side}_ffn_dim": 8, f"{side}_attention_heads": 2}


@pytest.mark.parametrize(
    ("model_class", "config", "layers"),
    [
        (AutoModelForTokenClassification, BertConfig(**SMALL), ["BertLayer"]),
        (AutoModelForTokenClassification, RobertaConfig(**SMALL), ["RobertaLayer"]),
        (
            AutoModelForTokenClassification,
            DistilBertConfig(vocab_size=50, dim=8, n_layers=2, n_heads=2, hidden_dim=8),
            ["TransformerBlock"],
        ),
        (AutoModelForCausalLM, LlamaConfig(**SMALL), ["LlamaDecoderLayer"]),
        (AutoModelForCausalLM, GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2), ["GPT2Block"]),
        (AutoModelForSeq2SeqLM, MBartConfig(**SIDES), ["MBartDecoderLayer", "MBartEncoderLayer"]),
        (AutoModelForSeq2SeqLM, build_encoder_decoder_config("t5", build_tokenizer(), 20), ["T5Block"]),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_model_is_divided_into_its_layers_and_not_into_their_parts_or_its_embeddings(model_class, config, layers):
    model = model_class.from_config(config)
    prepare_for_fsdp(model)
    assert model._no_split_modules == layers


@pytest.mark.parametrize("kind", ["t5", "bart", "marian", "mbart", "m2m_100"])
def test_a_shared_embedding_becomes_one_module_and_the_model_says_the_same(kind):
    if kind in ("mbart", "m2m_100"):  # their embeddings scale what they look up
        config = {"mbart": MBartConfig, "m2m_100": M2M100Config}[kind](**SIDES)
    else:
        config = build_encoder_decoder_config(kind, build_tokenizer(), 20)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    ids = torch.tensor([[5, 6, 7, 2]])
    with torch.no_grad():
        before = model(input_ids=ids, decoder_input_ids=ids).logits
        names = set(model.state_dict())
        prepare_for_fsdp(model)
        after = model(input_ids=ids, decoder_input_ids=ids).logits
    assert torch.equal(before, after) and set(model.state_dict()) == names
    shared = model.get_input_embeddings()
    holders = [name for name, module in model.named_modules() if getattr(module, "weight", None) is shared.weight]
    assert sorted(name.rpartition(".")[2] for name in holders) == ["lm_head", "shared"]


def test_fsdp_is_asked_for_by_accelerates_config_or_by_a_flag(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path))
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not uses_fsdp(args)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert uses_fsdp(args)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # which the flag sets: put back behind the test
    assert uses_fsdp(TrainingArguments(output_dir=str(tmp_path), fsdp=True))
