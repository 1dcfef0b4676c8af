"""Every method of PEFT on small models: its weights learn, are found again by the base, and merged give the same."""

import re

from common.adapters import (
    FEWEST_STEPS,
    add_adapter,
    check_adapter,
    compute_orthogonality,
    has_ranks_to_prune,
    list_head_names,
    load_hidden_state,
    mark_kept_ranks,
    merge_adapter,
    plan_ranks,
    put_adapter,
    save_hidden_state,
)
from common.arguments import PROMPT_METHODS, ModelArguments, TrainingArguments
from common.errors import UserError
from common.models import find_longest_input, load_config
from tests.small_models import ENCODER, ENCODER_DECODER, GPT2, T5, build

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = ENCODER | {"hidden_size": 32} | QUIET
CAUSAL = ENCODER | {"hidden_size": 32, "pad_token_id": 0}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
DISTILBERT = {
    "vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64,
    "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "qa_dropout": 0.0,
}  # fmt: skip
T5_SIZES = T5 | {"d_model": 32, "d_kv": 16, "dropout_rate": 0.0, "decoder_start_token_id": 0}
MODERNBERT = CAUSAL | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
MODELS = {  # class -> sizes, PEFT's name of the task
    "BertForSequenceClassification": (SIZES, "SEQ_CLS"),
    "BertForTokenClassification": (SIZES, "TOKEN_CLS"),
    "BertForQuestionAnswering": (SIZES, "QUESTION_ANS"),
    "RobertaForSequenceClassification": (SIZES | {"type_vocab_size": 1}, "SEQ_CLS"),
    "RobertaForQuestionAnswering": (SIZES | {"type_vocab_size": 1}, "QUESTION_ANS"),
    "DistilBertForSequenceClassification": (DISTILBERT, "SEQ_CLS"),
    "ElectraForSequenceClassification": (SIZES | {"embedding_size": 16}, "SEQ_CLS"),
    "DebertaV2ForSequenceClassification": (SIZES | {"pooler_dropout": 0.0}, "SEQ_CLS"),
    "DebertaV2ForTokenClassification": (SIZES, "TOKEN_CLS"),
    "ModernBertForTokenClassification": (MODERNBERT, "TOKEN_CLS"),
    "T5ForConditionalGeneration": (T5_SIZES, "SEQ_2_SEQ_LM"),
    "BartForConditionalGeneration": (ENCODER_DECODER | {"d_model": 32} | NO_DROPOUT, "SEQ_2_SEQ_LM"),
    "LlamaForCausalLM": (CAUSAL, "CAUSAL_LM"),
    "Qwen2ForCausalLM": (CAUSAL | {"num_key_value_heads": 2}, "CAUSAL_LM"),
    "GPT2LMHeadModel": (GPT2 | {"n_embd": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "CAUSAL_LM"),
    "LlamaForSequenceClassification": (CAUSAL, "SEQ_CLS"),
}  # fmt: skip
ALL_LINEAR = {"target_modules": ["all-linear"]}
METHODS = {  # name -> arguments
    "lora": {},
    "lora, all-linear": ALL_LINEAR,
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora, all-linear": {"use_dora": True} | ALL_LINEAR,
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, all-linear": {"init_lora_weights": "pissa"} | ALL_LINEAR,
    "adalora": {"peft_method": "adalora"},
    "prefix": {"peft_method": "prefix"},
    "prompt": {"peft_method": "prompt"},
    "p_tuning": {"peft_method": "p_tuning"},
    "ia3": {"peft_method": "ia3"},
    "vera": {"peft_method": "vera"},
    "oft": {"peft_method": "oft"},
    "boft": {"peft_method": "boft"},
    "ln_tuning": {"peft_method": "ln_tuning"},
}
# (class, method) -> what the refusal says
ONE_LAYER_HEADS = "trains no other head than classifier, score or qa_outputs"
NO_CHOICE = "Please specify `target_modules`"
REFUSED = {
    **{(f"{kind}ForQuestionAnswering", name): "its tokens would shift every position"
       for kind in ("Bert", "Roberta") for name in ("prompt", "p_tuning")},
    ("BertForQuestionAnswering", "prefix"): "PEFT hides from it which pieces are the question",
    **{(name, method): ONE_LAYER_HEADS for method in PROMPT_METHODS
       for name in ("DistilBertForSequenceClassification", "DebertaV2ForSequenceClassification",
                    "ModernBertForTokenClassification")},
    ("DebertaV2ForTokenClassification", "prefix"): "does not support past key values",
    ("ElectraForSequenceClassification", "prompt"): "Sizes of tensors must match",
    ("ElectraForSequenceClassification", "p_tuning"): "Sizes of tensors must match",
    ("ElectraForSequenceClassification", "ia3"): NO_CHOICE,
    ("DistilBertForSequenceClassification", "ia3"): NO_CHOICE,
    ("DistilBertForSequenceClassification", "vera"): NO_CHOICE,
    ("ModernBertForTokenClassification", "ia3"): NO_CHOICE,
    ("ModernBertForTokenClassification", "vera"): NO_CHOICE,
    ("GPT2LMHeadModel", "oft"): "Conv1D",
    ("GPT2LMHeadModel", "boft"): "Conv1D",
}  # fmt: skip
# In `make test`: each method with one kind of task, and the heads of several layers.
QUICK = {
    ("BertForTokenClassification", "lora, all-linear"), ("BertForQuestionAnswering", "dora, all-linear"),
    ("BertForTokenClassification", "pissa, all-linear"), ("RobertaForSequenceClassification", "ia3"),
    ("BertForQuestionAnswering", "adalora"), ("BertForTokenClassification", "p_tuning"),
    ("BertForSequenceClassification", "vera"),
    ("T5ForConditionalGeneration", "prefix"), ("LlamaForCausalLM", "prompt"), ("Qwen2ForCausalLM", "rslora"),
    ("BartForConditionalGeneration", "vera"), ("DebertaV2ForSequenceClassification", "oft"),
    ("DistilBertForSequenceClassification", "boft"), ("ModernBertForTokenClassification", "ln_tuning"),
}  # fmt: skip


@pytest.fixture
def training_args(tmp_path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True)


def save(name: str, directory) -> tuple:
    """The saved model of a class, its class and the task."""
    sizes, task_type = MODELS[name]
    build(name, sizes).save_pretrained(directory)
    return getattr(transformers, name), task_type


def make_arguments(directory, **settings) -> ModelArguments:
    dropout = {"lora_dropout": 0.0} if settings.get("peft_method", "lora") in ("lora", "adalora") else {}
    return ModelArguments(model_name_or_path=str(directory), use_peft=True, **dropout, **settings)


def make_batch(task_type: str, has_types: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (4, 10), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][0, 7:] = 0
    if has_types:
        batch["token_type_ids"] = (torch.arange(10) > 4).long().expand(4, 10)
    if task_type == "SEQ_2_SEQ_LM":
        batch["decoder_input_ids"] = ids[:, :6]
    return batch


def compute(model, batch) -> torch.Tensor:
    """Logits; those of starts and ends beside each other."""
    outputs = model(**batch)
    if "start_logits" in outputs:
        return torch.stack([outputs["start_logits"], outputs["end_logits"]], -1)
    return outputs["logits"]


def train_steps(model, batch, steps: int = 3) -> list[float]:
    """Losses of a few steps towards class 0."""
    optimizer = torch.optim.Adam([weights for weights in model.parameters() if weights.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = -compute(model.train(), batch).float().log_softmax(-1)[..., 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


CASES = [
    pytest.param(name, method, marks=[] if (name, method) in QUICK else pytest.mark.slow)
    for name in MODELS
    for method in METHODS
    if (name, method) not in REFUSED
]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_an_adapter_learns_and_gives_the_same_when_reloaded_and_when_merged(name, method, training_args, tmp_path):
    model_class, task_type = save(name, tmp_path / "base")
    args = make_arguments(tmp_path / "base", **METHODS[method])
    base = model_class.from_pretrained(tmp_path / "base")
    heads = list_head_names(base) if task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS") else []
    check_adapter(args, training_args, base.config, task_type)
    model = add_adapter(base, args, task_type)
    batch = make_batch(task_type, has_types=name.startswith("Bert"))
    before = {key: weights.detach().clone() for key, weights in model.named_parameters()}
    losses = train_steps(model, batch)
    assert losses[-1] < losses[0]
    changed = {key for key, weights in model.named_parameters() if not torch.equal(before[key], weights)}
    assert changed == {key for key, weights in model.named_parameters() if weights.requires_grad}
    bare = {key.removeprefix("base_model.").removeprefix("model.") for key in changed}
    for head in heads:
        assert any(key.startswith(f"{head}.modules_to_save.") for key in bare), f"{head} is new and was not trained"
    if name == "BertForSequenceClassification" and method not in PROMPT_METHODS:
        assert any(key.startswith("bert.pooler.modules_to_save.") for key in bare), "checkpoints may lack it"
    if has_ranks_to_prune(model):
        mark_kept_ranks(model)
    with torch.no_grad():
        expected = compute(model.eval(), batch)
        if task_type in ("TOKEN_CLS", "CAUSAL_LM"):
            assert expected.shape[:2] == (4, 10), "one for each piece of the input"
        model.save_pretrained(tmp_path / "adapter")
        reloaded = put_adapter(model_class.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
        torch.testing.assert_close(compute(reloaded, batch), expected)
        if task_type in ("SEQ_2_SEQ_LM", "CAUSAL_LM"):
            prompt = {key: batch[key] for key in ("input_ids", "attention_mask")} | {"max_new_tokens": 4}
            assert torch.equal(reloaded.generate(**prompt), model.generate(**prompt))
        if method not in PROMPT_METHODS:
            merged = merge_adapter(reloaded).eval()
            assert type(merged) is model_class
            assert merged.state_dict().keys() == model_class.from_pretrained(tmp_path / "base").state_dict().keys()
            torch.testing.assert_close(compute(merged, batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "method"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(name, method, training_args, tmp_path):
    model_class, task_type = save(name, tmp_path / "base")
    args = make_arguments(tmp_path / "base", **METHODS[method])
    with pytest.raises(UserError, match=re.escape(REFUSED[name, method])):
        base = model_class.from_pretrained(tmp_path / "base")
        check_adapter(args, training_args, base.config, task_type)
        add_adapter(base, args, task_type)


# What is refused before a model is loaded


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_method": "ia3", "lora_r": 8}, "lora_r is read by lora, adalora, but peft_method is ia3"),
        ({"peft_method": "prefix", "target_modules": ["query"]}, "target_modules is read by lora, adalora, ia3"),
        ({"use_dora": True, "peft_method": "adalora"}, "use_dora is read by lora, but peft_method is adalora"),
        ({"num_virtual_tokens": 5}, "num_virtual_tokens is read by prefix, prompt, p_tuning, but peft_method is lora"),
        ({"use_peft": False, "lora_r": 8}, "lora_r is read by lora, adalora, but use_peft is not set"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit and load_in_8bit exclude each other"),
        ({"use_peft": False, "load_in_8bit": True}, "8-bit weights cannot be trained directly: set use_peft too."),
        ({"load_in_4bit": True, "init_lora_weights": "pissa"}, "pissa splits the exact weights"),
        ({"load_in_8bit": True, "peft_method": "boft"}, "peft_method boft needs weights in full precision"),
        ({"peft_method": "prompt", "num_virtual_tokens": 0}, "must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_read(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ModelArguments(**{"model_name_or_path": "somewhere", "use_peft": True, **settings})


def test_a_prefix_and_activation_checkpointing_exclude_each_other(tmp_path):
    training_args = TrainingArguments(output_dir=str(tmp_path), activation_checkpointing=True, use_cpu=True)
    args = make_arguments(tmp_path, peft_method="prefix")
    with pytest.raises(UserError, match="checkpointing switches off the cache"):
        check_adapter(args, training_args, transformers.LlamaConfig(), "CAUSAL_LM")


def test_virtual_tokens_take_positions_from_the_input(tmp_path):
    save("BertForTokenClassification", tmp_path / "base")
    args = make_arguments(tmp_path / "base", peft_method="prompt", num_virtual_tokens=20)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=build_words(), model_max_length=512)
    assert find_longest_input(load_config(args), tokenizer) == 64 - 20
    assert find_longest_input(load_config(make_arguments(tmp_path / "base")), tokenizer) == 64
    with pytest.raises(UserError, match="num_virtual_tokens is 64, but the model has 64 positions"):
        args = make_arguments(tmp_path / "base", peft_method="prompt", num_virtual_tokens=64)
        check_adapter(args, TrainingArguments(output_dir=str(tmp_path / "x")), load_config(args), "TOKEN_CLS")


def build_words():
    return Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))


def test_layer_norms_are_found_by_class_and_those_of_the_head_left_to_it(tmp_path):
    """ModernBERT's first layer has no norm before its attention; its head has one, which is trained with it."""
    args = make_arguments(tmp_path, peft_method="ln_tuning")
    model = add_adapter(build("ModernBertForTokenClassification", MODERNBERT), args, "TOKEN_CLS")
    trained = {key for key, weights in model.named_parameters() if weights.requires_grad}
    body = [f"layers.{layer}.{norm}" for layer in range(3) for norm in ("attn_norm", "mlp_norm")]
    norms = {f"model.{name}" for name in ("embeddings.norm", "final_norm", *body)} - {"model.layers.0.attn_norm"}
    prefix, end = "base_model.model.", ".ln_tuning_layers.default.weight"
    assert {key.removeprefix(prefix).removesuffix(end) for key in trained if key.endswith(end)} == norms
    heads = {"head.modules_to_save.default.norm.weight", "head.modules_to_save.default.dense.weight"}
    heads |= {f"classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
    assert {key.removeprefix(prefix) for key in trained if not key.endswith(end)} == heads


# AdaLoRA


def make_adalora(tmp_path, r: int = 4):
    torch.manual_seed(0)
    model = build("LlamaForCausalLM", CAUSAL)
    return add_adapter(model, make_arguments(tmp_path, peft_method="adalora", lora_r=r), "CAUSAL_LM")


def count_ranks(model) -> int:
    return sum(int((weights != 0).sum()) for name, weights in model.named_parameters() if ".lora_E." in name)


def test_adalora_ends_with_the_ranks_of_its_budget(tmp_path):
    """3 layers with two matrices each start with 1.5 x 4 ranks, and keep 4 on average."""
    model = make_adalora(tmp_path)
    plan_ranks(model, 20)
    config = model.active_peft_config
    assert (config.init_r, config.target_r, config.tinit, config.tfinal, config.total_step) == (6, 4, 2, 6, 20)
    batch, ranks = make_batch("CAUSAL_LM", False), []
    optimizer = torch.optim.Adam([weights for weights in model.parameters() if weights.requires_grad], lr=1e-2)
    for step in range(1, 21):
        optimizer.zero_grad()
        (-compute(model.train(), batch).log_softmax(-1)[..., 0].mean()).backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        ranks.append(count_ranks(model))
    assert (
        ranks[1] == 36 and ranks[13] == 24 and set(ranks[13:]) == {24} and sorted(ranks[2:], reverse=True) == ranks[2:]
    )


def test_the_orthogonality_of_adalora_is_the_one_that_peft_adds_to_a_loss(tmp_path):
    model = make_adalora(tmp_path)
    ids = make_batch("CAUSAL_LM", False)["input_ids"]
    outside = compute_orthogonality(model)
    with torch.no_grad():
        alone = model.base_model.model(input_ids=ids, labels=ids).loss
        added = model.base_model(input_ids=ids, labels=ids).loss - alone
    torch.testing.assert_close(outside.detach(), added, atol=1e-4, rtol=1e-4)
    assert outside > 0


def test_the_whole_state_of_adalora_and_p_tuning_comes_back(tmp_path):
    """PEFT saves what prediction needs: pruned matrices, and virtual tokens without the network that makes them."""
    for method in ("adalora", "p_tuning"):
        models = []
        for _ in range(2):
            torch.manual_seed(len(models))
            base = build("LlamaForCausalLM", CAUSAL)
            models.append(add_adapter(base, make_arguments(tmp_path, peft_method=method), "CAUSAL_LM"))
        trained, fresh = models
        batch = make_batch("CAUSAL_LM", False)
        train_steps(trained, batch)
        if method == "adalora":
            plan_ranks(trained, FEWEST_STEPS)
            trained.base_model.update_and_allocate(1)
            trained.active_peft_config.rank_pattern = {"some": [True, False]}
        save_hidden_state(trained, tmp_path)
        load_hidden_state(fresh, tmp_path)
        weights = dict(fresh.named_parameters())
        assert all(torch.equal(values, weights[name]) for name, values in trained.named_parameters())
        if method == "adalora":
            assert fresh.active_peft_config.rank_pattern == {"some": [True, False]}
            for name, values in trained.base_model.rankallocator.exp_avg_ipt.items():
                assert torch.equal(values, fresh.base_model.rankallocator.exp_avg_ipt[name])


def test_pruned_ranks_are_not_saved(tmp_path):
    model = make_adalora(tmp_path)
    for name, weights in model.named_parameters():
        if ".lora_E." in name:
            weights.data.fill_(1.0)
            weights.data[2:] = 0
    mark_kept_ranks(model)
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {len(values) for name, values in saved.items() if name.endswith("lora_E")} == {2}
