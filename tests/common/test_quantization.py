"""Weights in 4 and 8 bits on a CPU: what is rounded, what is not, and that an evaluation leaves training as it was."""

from common.adapters import merge_adapter, put_adapter
from common.arguments import ModelArguments, TrainingArguments
from common.models import load_config, load_model
from tests.small_models import ENCODER, build

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

SIZES = ENCODER | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HEADS = {
    "BertForTokenClassification": (AutoModelForTokenClassification, "TOKEN_CLS", "classifier", SIZES | QUIET),
    "BertForQuestionAnswering": (AutoModelForQuestionAnswering, "QUESTION_ANS", "qa_outputs", SIZES | QUIET),
    "BertForSequenceClassification": (AutoModelForSequenceClassification, "SEQ_CLS", "pooler.modules", SIZES | QUIET),
    "LlamaForCausalLM": (AutoModelForCausalLM, "CAUSAL_LM", "lm_head", SIZES | {"pad_token_id": 0}),
}
BITS = {"load_in_4bit": Linear4bit, "load_in_8bit": Linear8bitLt}
BATCH = {"input_ids": torch.arange(3, 43).view(4, 10), "attention_mask": torch.ones(4, 10, dtype=torch.long)}


def load(name: str, directory, bits: str, **settings):
    """A model of the class with weights of so many bits and an adapter in all linear layers."""
    model_class, task_type, _, sizes = HEADS[name]
    build(name, sizes).save_pretrained(directory)
    args = ModelArguments(
        model_name_or_path=str(directory), use_peft=True, lora_dropout=0.0, target_modules=["all-linear"],
        **{bits: True}, **settings,
    )  # fmt: skip
    training_args = TrainingArguments(output_dir=str(directory / "run"), dtype="float32", use_cpu=True, do_train=True)
    torch.manual_seed(0)
    return load_model(model_class, args, training_args, load_config(args), task_type=task_type)


def sum_outputs(model) -> torch.Tensor:
    outputs = model(**BATCH)
    logits = outputs.start_logits - outputs.end_logits if "start_logits" in outputs else outputs.logits
    return logits.float().logsumexp(-1).sum()


def compute_gradients(model) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    sum_outputs(model).backward()
    return {name: weights.grad.clone() for name, weights in model.named_parameters() if weights.requires_grad}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", HEADS)
def test_layers_are_rounded_and_the_head_is_not(name, bits, tmp_path):
    model = load(name, tmp_path, bits).get_base_model()
    head = HEADS[name][2]
    linear = {key: part for key, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    layers = {key for key in linear if key.endswith("base_layer")}
    assert len(layers) == (12 if name.startswith("Bert") else 14)
    assert all(isinstance(linear[key], BITS[bits]) for key in layers)
    heads = [part for key, part in linear.items() if head in key]
    assert heads and all(type(part) is torch.nn.Linear and part.weight.dtype == torch.float32 for part in heads)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_the_same_before_and_after_an_evaluation(name, bits, tmp_path):
    """On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks 4-bit weights in place when nothing is learnt."""
    model = load(name, tmp_path, bits)
    for key, weights in model.named_parameters():
        if ".lora_B." in key:  # which starts at 0, so that no gradient would reach the layers below
            torch.nn.init.normal_(weights, std=0.1)
    before = compute_gradients(model)
    with torch.no_grad():
        expected = sum_outputs(model.eval())
    after = compute_gradients(model)
    for key, values in before.items():
        torch.testing.assert_close(after[key], values, msg=key)
    with torch.no_grad():
        torch.testing.assert_close(sum_outputs(model.eval()), expected)


def test_an_adapter_that_was_trained_on_4_bits_is_merged_into_the_weights_as_they_were(tmp_path):
    model = load("BertForTokenClassification", tmp_path, "load_in_4bit")
    optimizer = torch.optim.SGD([weights for weights in model.parameters() if weights.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum_outputs(model.train()).backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForTokenClassification.from_pretrained(tmp_path, dtype=torch.float32)
    before = {name: weights.clone() for name, weights in base.state_dict().items()}
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    merged = merge_adapter(put_adapter(base, tmp_path / "adapter")).state_dict()
    name = "bert.encoder.layer.1.output.dense"
    key = f"base_model.model.{name}.lora_{{}}.weight"
    update = adapter[key.format("B")] @ adapter[key.format("A")] * (32 / 16)  # lora_alpha / lora_r
    torch.testing.assert_close(merged[f"{name}.weight"], before[f"{name}.weight"] + update)
    assert update.abs().max() > 1e-4
    assert torch.equal(merged["bert.embeddings.LayerNorm.weight"], before["bert.embeddings.LayerNorm.weight"])
    assert not torch.equal(merged["classifier.weight"], before["classifier.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adalora", "ia3", "vera", "oft", "prefix", "prompt", "p_tuning"])
@pytest.mark.parametrize("bits", BITS)
def test_other_methods_learn_on_rounded_weights(method, bits, tmp_path):
    model_class, task_type, _, sizes = HEADS["LlamaForCausalLM"]
    build("LlamaForCausalLM", sizes).save_pretrained(tmp_path)
    dropout = {"lora_dropout": 0.0} if method == "adalora" else {}
    args = ModelArguments(
        model_name_or_path=str(tmp_path), use_peft=True, peft_method=method, **{bits: True}, **dropout
    )
    training_args = TrainingArguments(output_dir=str(tmp_path / "run"), dtype="float32", use_cpu=True, do_train=True)
    model = load_model(model_class, args, training_args, load_config(args), task_type=task_type).train()
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = -model(**BATCH).logits.float().log_softmax(-1)[..., 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
