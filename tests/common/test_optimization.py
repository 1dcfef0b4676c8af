"""common/optimization.py: a rate for each layer, and optimizers that work on a CPU or are refused before the run."""

import os
import shutil
import sys
from pathlib import Path

from common.adapters import add_adapter
from common.arguments import ModelArguments, TrainingArguments
from common.errors import UserError
from common.freezing import freeze_parameters
from common.losses import CrossEntropy
from common.optimization import check_optimizer, compute_rates, describe_rates
from common.trainers import Trainer
from recipes.ner import run as ner
from tests.conftest import launch, list_sample_flags, read_history, run_in_process
from tests.small_models import ENCODER, T5, build

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

EIGHT_BITS = ["adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"]


def list_rates(model, decay: float = 0.5, learning_rate: float = 1.0) -> dict[str, float]:
    return {name: rate for name, (_, rate) in compute_rates(model, learning_rate, decay).items()}


def read_rates(class_name: str, settings: dict, **rates: float) -> dict[str, float]:
    return list_rates(build(class_name, settings), **rates)


def read_arguments(output: Path, **settings) -> TrainingArguments:
    defaults = {"dtype": "float32", "use_cpu": True, "do_train": True, "report_to": [], "disable_tqdm": True}
    return TrainingArguments(output_dir=str(output), **defaults | settings)


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


# A rate for each layer


def test_each_layer_of_bert_has_half_the_rate_of_the_one_above():
    rates = read_rates("BertForSequenceClassification", ENCODER)
    places = {
        "classifier.weight": 1.0,
        "bert.pooler.dense.bias": 1.0,
        "bert.encoder.layer.2.output.LayerNorm.bias": 0.5,
        "bert.encoder.layer.1.attention.self.query.weight": 0.25,
        "bert.encoder.layer.0.intermediate.dense.weight": 0.125,
        "bert.embeddings.LayerNorm.weight": 0.0625,
        "bert.embeddings.word_embeddings.weight": 0.0625,
    }
    assert {name: rates[name] for name in places} == places
    assert len(rates) == 5 + 3 * 16 + 4 and set(rates.values()) == set(places.values())


def test_encoder_and_decoder_of_t5_have_the_same_rate_at_their_tops():
    """Nothing stands above them, since the lm_head is the table of the embeddings."""
    rates = read_rates("T5ForConditionalGeneration", T5)
    places = {
        "decoder.final_layer_norm.weight": 1.0,
        "decoder.block.1.layer.1.EncDecAttention.q.weight": 1.0,
        "decoder.block.0.layer.2.DenseReluDense.wi.weight": 0.5,
        "encoder.final_layer_norm.weight": 1.0,
        "encoder.block.2.layer.0.SelfAttention.k.weight": 1.0,
        "encoder.block.1.layer.0.SelfAttention.k.weight": 0.5,
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 0.25,
        "shared.weight": 0.125,
    }
    assert {name: rates[name] for name in places} == places


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_top_layer_of_llama_has_the_full_rate_where_its_head_is_tied(is_tied):
    rates = read_rates("LlamaForCausalLM", ENCODER | {"tie_word_embeddings": is_tied})
    places = {
        "model.norm.weight": 0.5,
        "model.layers.2.self_attn.q_proj.weight": 0.5,
        "model.layers.1.mlp.up_proj.weight": 0.25,
        "model.layers.0.input_layernorm.weight": 0.125,
        "model.embed_tokens.weight": 0.0625,
    }
    if is_tied:
        places = {name: 2 * rate for name, rate in places.items()}
    else:
        places["lm_head.weight"] = 1.0
    assert {name: rates[name] for name in places} == places


def test_frozen_weights_have_no_rate_and_leave_those_of_the_others_as_they_are():
    model = build("BertForSequenceClassification", ENCODER)
    freeze_parameters(model, "first_2_layers")
    rates = list_rates(model)
    assert len(rates) == 16 + 4 and rates["classifier.weight"] == 1.0
    assert rates["bert.encoder.layer.2.attention.self.query.weight"] == 0.5


def test_an_adapter_has_the_rate_of_its_layer_and_the_head_beside_it_the_full_one():
    model_args = ModelArguments(model_name_or_path="any", use_peft=True, target_modules=["query"])
    model = add_adapter(build("BertForSequenceClassification", ENCODER), model_args, "SEQ_CLS")
    rates = list_rates(model)
    query = "base_model.model.bert.encoder.layer.{}.attention.self.query.lora_B.default.weight"
    assert [rates[query.format(layer)] for layer in range(3)] == [0.125, 0.25, 0.5]
    assert rates["base_model.model.classifier.modules_to_save.default.weight"] == 1.0


def test_an_adapter_without_a_head_has_the_full_rate_in_the_top_layer():
    model_args = ModelArguments(model_name_or_path="any", use_peft=True, target_modules=["q_proj"])
    model = add_adapter(build("LlamaForCausalLM", ENCODER), model_args, "CAUSAL_LM")
    rates = list_rates(model)
    query = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.default.weight"
    assert [rates[query.format(layer)] for layer in range(3)] == [0.25, 0.5, 1.0]


def test_the_start_screen_says_the_highest_and_the_lowest_rate(tmp_path):
    bert = build("BertForSequenceClassification", ENCODER)
    args = read_arguments(tmp_path, learning_rate=2e-5, layerwise_lr_decay=0.9)
    assert describe_rates(bert, args) == "2e-05 (head) to 1.3e-05 (embeddings)"  # 2e-5 * 0.9^4 = 1.312e-5
    freeze_parameters(bert, "first_1_layers")
    assert describe_rates(bert, args) == "2e-05 (head) to 1.6e-05 (layer 2)"  # 2e-5 * 0.9^2 = 1.62e-5
    t5 = build("T5ForConditionalGeneration", T5)
    assert describe_rates(t5, args) == "2e-05 (top layer) to 1.5e-05 (embeddings)"  # 2e-5 * 0.9^3 = 1.458e-5
    freeze_parameters(bert, "backbone")
    assert describe_rates(bert, args) == "2e-05 (head)"
    for off in (None, 1.0):
        assert describe_rates(bert, read_arguments(tmp_path, learning_rate=2e-5, layerwise_lr_decay=off)) == "2e-05"


def test_shared_layers_are_refused():
    model = build("AlbertForSequenceClassification", ENCODER)
    assert "AlbertForSequenceClassification: its layers share their" in error_of(compute_rates, model, 1.0, 0.5)


def test_weights_that_fsdp_has_flattened_are_refused():
    model = build("BertForSequenceClassification", ENCODER)
    model.bert.encoder.register_parameter("_flat_param", torch.nn.Parameter(torch.zeros(3)))
    assert "fsdp_use_orig_params" in error_of(compute_rates, model, 1.0, 0.5)


# In a Trainer


def make_trainer(output: Path, model=None, **settings) -> Trainer:
    """A classifier whose linear layers have 4,096 weights or more, and rows that it can learn, with one class each."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    classes = torch.arange(64) % 2
    rows = torch.randint(5, 8, (64, 8)) + 50 * classes[:, None]
    data = Dataset.from_dict({"input_ids": rows.tolist(), "labels": classes.tolist()})
    args = read_arguments(
        output, **{"learning_rate": 1e-3, "max_steps": 12, "logging_steps": 1, "save_steps": 6} | settings
    )
    model = BertForSequenceClassification(config) if model is None else model
    return Trainer(model=model, args=args, train_dataset=data, compute_loss_func=CrossEntropy())


def list_logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_groups_are_split_by_rate_and_weight_decay_and_the_first_is_what_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, layerwise_lr_decay=0.5, weight_decay=0.1, max_steps=4, save_strategy="no")
    trainer.train()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    assert [group["initial_lr"] for group in groups] == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 1.25e-4]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0] * 4
    assert [len(group["params"]) for group in groups] == [2, 2, 6, 10, 6, 10, 3, 2]
    assert {names[id(weight)] for weight in groups[0]["params"]} == {"bert.pooler.dense.weight", "classifier.weight"}
    tables = {f"bert.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}
    assert {names[id(weight)] for weight in groups[6]["params"]} == tables
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert list_logged(trainer, "learning_rate") == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_a_schedule_multiplies_every_rate(tmp_path):
    trainer = make_trainer(tmp_path, layerwise_lr_decay=0.5, lr_scheduler_type="cosine", warmup_steps=4, max_steps=8)
    trainer.create_optimizer_and_scheduler(8)
    seen = []
    for _ in range(8):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        seen.append([group["lr"] for group in trainer.optimizer.param_groups][::2])
    assert seen[0] == pytest.approx([2.5e-4, 1.25e-4, 6.25e-5, 3.125e-5])
    assert seen[3] == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])
    assert seen[5] == pytest.approx([5e-4, 2.5e-4, 1.25e-4, 6.25e-5])


def test_without_decay_the_optimizer_is_that_of_hugging_face(tmp_path):
    trainer = make_trainer(tmp_path, layerwise_lr_decay=1.0, weight_decay=0.1)
    trainer.create_optimizer()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]


def test_a_run_with_a_rate_for_each_layer_resumes_to_the_same_losses(tmp_path):
    whole = make_trainer(tmp_path, layerwise_lr_decay=0.5)
    whole.train()
    resumed = make_trainer(tmp_path, layerwise_lr_decay=0.5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert list_logged(resumed, "loss") == list_logged(whole, "loss") and len(list_logged(whole, "loss")) == 12
    for found, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_a_recipe_trains_with_a_rate_for_each_layer(encoder, tmp_path, capsys):
    run_in_process(
        ner, ner.NerArguments, *list_sample_flags("ner", "train", "validation"), "--model_name_or_path", encoder,
        "--do_train", "--do_eval", "--max_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-3", "--dtype",
        "float32", "--max_train_samples", "16", "--max_eval_samples", "8", "--save_strategy", "no",
        "--layerwise_lr_decay", "0.9", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    # Two layers: 1e-3 * 0.9^3 = 7.29e-4.
    assert "adamw_torch_fused 0.001 (head) to 0.00073 (embeddings) linear" in capsys.readouterr().out
    assert [row["learning_rate"] for row in read_history(tmp_path / "out", "loss")] == [1e-3, 5e-4]


@pytest.fixture(scope="module")
def alone(encoder, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights that one process trains."""
    output = tmp_path_factory.mktemp("alone") / "out"
    launch_ner("cpu", encoder, output, 8)
    return load_file(output / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["multi_gpu", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"])
def test_two_processes_train_with_the_rates_and_the_frozen_weights_of_one(config, encoder, alone, tmp_path):
    if "deepspeed" in config and shutil.which("c++") is None:
        pytest.skip("no C++ compiler, which DeepSpeed needs")
    said = launch_ner(config, encoder, tmp_path / "out", 4)
    assert "device     cpu, 2 processes" in said
    # Whole weights, although a process of ZeRO 3 holds a part of each.
    assert "trained    embeddings 0 of 68,224; layers 17,088 of 17,088; head 297 of 297" in said
    assert "0.005 (head) to 0.0024 (layer 1)" in said  # 5e-3 * 0.7^2 = 2.45e-3
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        torch.testing.assert_close(found[name], values, atol=1e-4, rtol=0)


def launch_ner(config: str, model: Path, output: Path, rows: int) -> str:
    """What ten steps of eight rows say, with the launch config of this name."""
    script = ["tests/fsdp_on_cpu.py"] if config == "fsdp2" else []
    command = [
        Path(sys.executable).with_name("accelerate"), "launch", "--config_file", f"accelerate_configs/{config}.yaml",
        *script, "recipes/ner/run.py", "--model_name_or_path", model,
        *list_sample_flags("ner", "train", "validation"), "--do_train", "--do_eval", "--dtype", "float32",
        "--learning_rate", "5e-3", "--per_device_train_batch_size", rows, "--max_steps", "10", "--save_strategy", "no",
        "--max_train_samples", "80", "--max_eval_samples", "13", "--output_dir", output, "--freeze", "embeddings",
        "--layerwise_lr_decay", "0.7",
    ]  # fmt: skip
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trainer-recipes" / "extensions"
    built = os.environ.get("TORCH_EXTENSIONS_DIR", str(kept))  # building DeepSpeed's operations takes minutes once
    run = launch([str(word) for word in command], timeout=1200, TORCH_EXTENSIONS_DIR=built)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    return run.stdout


# Optimizers in 8 bits


def list_states(trainer: Trainer) -> dict[str, dict[str, torch.dtype]]:
    """The dtypes of the optimizer's states of each weight."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {
        names[id(parameter)]: {key: value.dtype for key, value in state.items() if key in ("state1", "state2")}
        for parameter, state in trainer.optimizer.optimizer.state.items()
    }


@pytest.mark.parametrize("optim", [*EIGHT_BITS, "paged_adamw_32bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_optimizers_of_bitsandbytes_learn_and_resume_on_a_cpu(optim, tmp_path):
    settings = {"optim": optim, "learning_rate": 4e-3}
    whole = make_trainer(tmp_path, **settings)
    whole.train()
    losses = list_logged(whole, "loss")
    assert len(losses) == 12 and losses[-1] < 0.5 * losses[0]
    states = list_states(whole)
    # Only from 4,096 weights on; tables of embeddings stay in 32 bits, as their authors advise.
    large = {name for name, parameter in whole.model.named_parameters() if parameter.numel() >= 4096}
    small = {torch.uint8} if optim in EIGHT_BITS else {torch.float32}
    for name, kinds in states.items():
        is_small = name in large and "embeddings" not in name
        assert set(kinds.values()) == (small if is_small else {torch.float32}), name
        assert len(kinds) == (1 if "lion" in optim else 2)
    assert len(large) == 1 + 2 * 6 + 1  # a table, the matrices of two layers and the pooler's
    resumed = make_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert list_logged(resumed, "loss") == losses and list_states(resumed) == states


def test_rates_by_layer_and_states_in_8_bits_go_together(tmp_path):
    trainer = make_trainer(tmp_path, optim="adamw_8bit", layerwise_lr_decay=0.5, max_steps=2, save_strategy="no")
    trainer.train()
    states = list_states(trainer)
    assert states["bert.encoder.layer.1.output.dense.weight"]["state1"] == torch.uint8
    assert states["bert.embeddings.word_embeddings.weight"]["state1"] == torch.float32
    assert trainer.optimizer.param_groups[-1]["initial_lr"] == 1.25e-4


def test_a_second_run_in_a_process_has_its_own_states_in_8_bits(tmp_path):
    """bitsandbytes 0.50 keeps for good that the first three weights, here the tables, were to have 32 bits."""
    make_trainer(tmp_path, optim="adamw_8bit", max_steps=1, save_strategy="no").train()
    second = make_trainer(tmp_path, optim="adamw_8bit", max_steps=1, save_strategy="no")
    freeze_parameters(second.model, "embeddings")
    second.train()
    states = list_states(second)
    assert len([name for name in states if "embeddings" not in name]) == len(states)
    for matrix in ("query", "key", "value"):
        assert states[f"bert.encoder.layer.0.attention.self.{matrix}.weight"]["state1"] == torch.uint8


# Refused before a run


@pytest.mark.parametrize(
    ("optim", "package"),
    [
        ("adamw_torch_8bit", "torchao"),
        ("galore_adamw", "galore_torch"),
        ("apollo_adamw", "apollo_torch"),
        ("schedule_free_adamw", "schedulefree"),
        ("stable_adamw", "torch-optimi"),
        ("lomo", "lomo_optim"),
        ("grokadamw", "grokadamw"),
    ],
)
def test_an_optimizer_whose_package_is_missing_is_refused_with_its_name(optim, package, tmp_path):
    message = error_of(check_optimizer, read_arguments(tmp_path, optim=optim))
    assert message.startswith(f"optim {optim} cannot be used: ") and package in message
    assert message.endswith("; or choose another optim.")


@pytest.mark.parametrize("optim", [*EIGHT_BITS, "paged_adamw_32bit"])
def test_without_bitsandbytes_its_optimizers_are_refused(optim, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    message = error_of(check_optimizer, read_arguments(tmp_path, optim=optim))
    assert message.startswith(f"optim {optim} cannot be used: You need to install `bitsandbytes`")
    assert "pip install -U bitsandbytes" in message


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", *EIGHT_BITS])
def test_what_is_installed_is_not_refused(optim, tmp_path):
    check_optimizer(read_arguments(tmp_path, optim=optim, layerwise_lr_decay=0.9))


def test_an_optimizer_that_wants_to_see_the_model_is_not_refused_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_lomo_available", lambda: True)
    check_optimizer(read_arguments(tmp_path, optim="lomo"))
    message = error_of(check_optimizer, read_arguments(tmp_path, optim="lomo", layerwise_lr_decay=0.9))
    assert message.startswith("layerwise_lr_decay has no effect on optim lomo")


def test_a_missing_package_ends_a_run_before_its_data_are_read(encoder, tmp_path):
    with pytest.raises(UserError, match="torchao"):
        run_in_process(
            ner, ner.NerArguments, "--train_file", tmp_path / "missing.jsonl", "--model_name_or_path", encoder,
            "--do_train", "--optim", "adamw_torch_8bit", "--output_dir", tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("section", ["optimizer", "scheduler"])
def test_an_optimizer_of_deepspeed_is_refused_with_rates_by_layer(section, tmp_path):
    config = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}
    args = read_arguments(tmp_path, layerwise_lr_decay=0.9)
    args.deepspeed_plugin = type("Plugin", (), {"hf_ds_config": type("Config", (), {"config": config})})
    check_optimizer(args)
    config[section] = {"type": "AdamW", "params": {}}
    assert f"DeepSpeed's {section} has one learning rate" in error_of(check_optimizer, args)
