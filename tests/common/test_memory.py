"""The estimate of a run's memory: against what is really allocated, against figures by hand, as people ask for it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from common import memory
from common.arguments import TrainingArguments
from common.errors import UserError
from common.footprint import (
    STATES,
    STATES_IN_8_BITS,
    Batch,
    Tensor,
    count_activations,
    count_footprint,
    count_optimizer_states,
    list_tensors,
)
from common.layouts import Layout, list_layouts, read_launch, read_layout
from recipes.ner import run as ner
from tests.conftest import ROOT, launch, list_sample_flags, run_in_process

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    BartConfig,
    BertConfig,
    LlamaConfig,
)

MEGABYTE = 10**6
ALONE = Layout("one device")


class OneMatrix(nn.Module):
    """A million weights, so that bytes a weight can be read as megabytes; nothing else, and no activations."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Linear(1000, 1000, bias=False)
        self.config = SimpleNamespace(hidden_size=1)

    def get_output_embeddings(self):
        return None


def make_arguments(tmp_path, **settings) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)


def measure(folder: Path, layers: int, *methods: str) -> dict[str, dict[str, float]]:
    """What the process of measure_memory.py found, by model and method."""
    command = [sys.executable, str(ROOT / "tests" / "common" / "measure_memory.py"), str(folder), str(layers), *methods]
    # The C library gives back at once what is freed, so that a peak is of what was in use.
    run = launch(command, MALLOC_MMAP_THRESHOLD_="131072", MALLOC_TRIM_THRESHOLD_="131072", PYTHONPATH=str(ROOT))
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux")
def test_weights_gradients_and_states_are_what_a_training_takes(tmp_path):
    """The peak of a process that trains 22 to 25 M weights, full and with LoRA, and rows too short to matter."""
    found = measure(tmp_path, 6, "full", "LoRA")
    assert len(found) == 6
    for name, sizes in found.items():
        assert sizes["estimated"] == pytest.approx(sizes["measured"], rel=0.15), name
    assert found["decoder full"]["estimated"] > 340 * MEGABYTE > 100 * MEGABYTE > found["decoder LoRA"]["estimated"]


@pytest.mark.slow
def test_four_bit_weights_take_what_config_json_tells(tmp_path):
    """All tensors that are there after a step; the estimate knows the loaded model's weights, to the byte."""
    found = measure(tmp_path, 6, "QLoRA")
    assert len(found) == 3
    for name, sizes in found.items():
        assert sizes["estimated"] == sizes["loaded"] == pytest.approx(sizes["measured"], rel=0.02), name


def test_a_four_bit_weight_is_counted_with_its_scales():
    """1024 x 1024 weights: half a byte each, 16,384 scales of a byte, 64 scales of those in float32."""
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(1024, 1024, bias=False, quant_type="nf4", compress_statistics=True)
    with torch.device("meta"):
        unloaded = bitsandbytes.nn.Linear4bit(1024, 1024, bias=False)
    layer = layer.to("cpu")  # quantizes
    state = layer.weight.quant_state
    assert layer.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes == 524288 + 16384 + 256
    assert [tensor.size for tensor in list_tensors(layer) + list_tensors(unloaded)] == [540928, 540928]
    assert [tensor.shape for tensor in list_tensors(layer)] == [(1024, 1024)]


def test_each_way_of_sharing_keeps_its_bytes_a_weight(tmp_path):
    """Adam in bfloat16: 2 + 2 + 12 bytes a weight, of which each stage of ZeRO divides one more (Rajbhandari 2020)."""
    expected = {
        "one device": (4 + 4 + 8 + 2, 0),  # the last: autocast's copy
        "DDP": (4 + 4 + 8 + 2 + 4, 0),  # the last: its buckets
        "ZeRO 1": (2 + 2 + 12 / 4, 0),
        "ZeRO 2": (2 + 14 / 4, 0),
        "ZeRO 2 offload": (2, 16 / 4),
        "ZeRO 3": (16 / 4, 0),
        "ZeRO 3 offload": (0, 18 / 4),
        "FSDP 2": (16 / 4, 0),
    }
    args, model = make_arguments(tmp_path, bf16=True), OneMatrix()
    footprints = {layout.name: count_footprint(model, args, layout, Batch(0, 0)) for layout in list_layouts(4)}
    found = {name: (footprint.total / MEGABYTE, footprint.host / MEGABYTE) for name, footprint in footprints.items()}
    assert found == expected


def test_in_float32_deepspeed_keeps_its_copy_of_the_weights_too(tmp_path):
    layouts = [Layout("one device"), Layout("DDP", "ddp", 2), Layout("ZeRO 2", "deepspeed", 2, 2)]
    args = make_arguments(tmp_path, dtype="float32")
    totals = [count_footprint(OneMatrix(), args, layout, Batch(0, 0)).total / MEGABYTE for layout in layouts]
    assert totals == [16, 20, 4 + (4 + 4 + 8) / 2]


def test_frozen_weights_have_neither_gradients_nor_states(tmp_path):
    model = OneMatrix().requires_grad_(False).to(torch.bfloat16)
    footprint = count_footprint(model, make_arguments(tmp_path, bf16=True), ALONE, Batch(1, 100))
    assert footprint.total == footprint.weights == 2 * MEGABYTE


def test_an_unknown_optimizer_is_said_to_be_unknown(tmp_path):
    footprint = count_footprint(OneMatrix(), make_arguments(tmp_path, optim="ademamix"), ALONE, Batch(0, 0))
    assert footprint.optimizer_states is None and footprint.kept > 0


OPTIMIZERS = [*STATES, *STATES_IN_8_BITS, "adafactor"]
OTHER_HARDWARE = {"adamw_torch_xla", "adamw_torch_npu_fused"}


@pytest.mark.parametrize("optim", [name for name in OPTIMIZERS if name not in OTHER_HARDWARE])
def test_states_are_those_that_the_optimizer_makes(optim, tmp_path):
    """After a step: the states of an embedding, a matrix, and a vector that 8-bit optimizers keep in 32 bits."""
    model = nn.ModuleDict({"table": nn.Embedding(100, 64), "matrix": nn.Linear(128, 64)})
    trainer = transformers.Trainer(model, make_arguments(tmp_path, optim=optim))
    optimizer = trainer.create_optimizer()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # Beside them a few numbers for all weights: the step, bitsandbytes' tables of 256 values.
    states = [value for state in optimizer.state.values() for name, value in state.items() if "qmap" not in name]
    found = sum(value.nbytes for value in states if isinstance(value, torch.Tensor) and value.dim())
    assert found == count_optimizer_states(optim, None, list_tensors(model))


def test_momentum_is_a_state_of_sgd():
    tensors = [Tensor((10, 10), 400, True, False, False)]
    counts = [count_optimizer_states("sgd", text, tensors) for text in (None, "momentum=0.9", "momentum=0.0")]
    assert counts == [0, 400, 0]


PIECES = 64
CONFIGS = {
    AutoModelForTokenClassification: BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=256,
        attention_probs_dropout_prob=0.0,
    ),
    AutoModelForSeq2SeqLM: BartConfig(
        vocab_size=500, d_model=64, encoder_layers=3, decoder_layers=3, encoder_ffn_dim=256, decoder_ffn_dim=256,
        encoder_attention_heads=2, decoder_attention_heads=2,
    ),
    AutoModelForCausalLM: LlamaConfig(
        vocab_size=500, hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_class", CONFIGS, ids=lambda model_class: model_class.__name__)
@pytest.mark.parametrize("computed", [4, 2])
def test_activations_are_about_what_autograd_keeps(model_class, computed):
    """Within a quarter, on the CPU without dropout of scores, which its attention would keep; without the logits."""
    model = model_class.from_config(CONFIGS[model_class]).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes}
    kept = {}

    def keep(tensor):
        is_copy = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes
        if tensor.untyped_storage().data_ptr() not in weights and not is_copy:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its place is not given to another
        return tensor

    inputs = {"input_ids": torch.full((2, PIECES), 5), "attention_mask": torch.ones(2, PIECES, dtype=torch.long)}
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=computed == 2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(**inputs)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    head = model.get_output_embeddings()
    logits = 0 if head is None else 2 * PIECES * head.out_features * (computed + 8)
    assert count_activations(model, Batch(2, PIECES, PIECES), computed) - logits == pytest.approx(found, rel=0.25)


def test_activations_grow_with_the_rows_and_shrink_with_checkpointing():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[AutoModelForCausalLM])
    one, two = (count_activations(model, Batch(rows, PIECES), 2) for rows in (1, 2))
    logits = PIECES * 500 * (2 + 8)
    assert two == 2 * one and one > logits
    # The head's inputs and the last norm stay; of three layers one is computed again, three inputs are kept.
    outside = logits + PIECES * (64 * 2 + 64 * 8)
    layer = (one - outside) / 3
    checkpointed = count_activations(model, Batch(1, PIECES), 2, activation_checkpointing=True)
    assert checkpointed == pytest.approx(outside + layer + 3 * PIECES * 64 * 4)


def test_frozen_layers_keep_nothing_for_the_backward_pass():
    with torch.device("meta"):
        model = AutoModelForTokenClassification.from_config(CONFIGS[AutoModelForTokenClassification])
    whole = count_activations(model, Batch(1, PIECES), 4)
    model.base_model.requires_grad_(False)
    # The classifier of two labels alone: what it reads and says.
    assert count_activations(model, Batch(1, PIECES), 4) == PIECES * 4 * (64 + 2) < whole / 50


def test_layouts_are_read_from_every_launch_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    expected = {
        "cpu": ("one device", 1), "single_gpu": ("one device", 1), "multi_cpu": ("DDP", 2), "multi_gpu": ("DDP", 2),
        "multi_node": ("DDP", 16), "deepspeed_zero1": ("ZeRO 1", 2), "deepspeed_zero2": ("ZeRO 2", 2),
        "deepspeed_zero3": ("ZeRO 3", 2), "deepspeed_zero2_offload": ("ZeRO 2 offload", 2),
        "deepspeed_zero3_offload": ("ZeRO 3 offload", 2), "fsdp2": ("FSDP 2", 2),
    }  # fmt: skip
    paths = sorted(ROOT.glob("accelerate_configs/*.yaml"))
    layouts = {path.stem: read_layout(read_launch(str(path)), str(path)) for path in paths}
    assert {name: (layout.name, layout.processes) for name, layout in layouts.items()} == expected
    offloaded = layouts["deepspeed_zero2_offload"]
    assert (offloaded.stage, offloaded.offloads_optimizer, offloaded.offloads_weights) == (2, True, False)
    assert read_layout(read_launch(str(paths[0])), "", num_processes=4) == Layout("DDP", "ddp", 4)


def test_deepspeed_may_be_set_in_the_launch_config_itself():
    zero = {"zero_stage": 3, "offload_optimizer_device": "cpu", "offload_param_device": "none"}
    launch = {"distributed_type": "DEEPSPEED", "num_processes": 8, "deepspeed_config": zero}
    assert read_layout(launch, "") == Layout("ZeRO 3 offload", "deepspeed", 8, 3, True, False)


@pytest.fixture
def ask(monkeypatch, capsys):
    """What `python -m common.memory` prints with these flags."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    verbosity = transformers.utils.logging.get_verbosity()

    def run(*flags: object) -> str:
        monkeypatch.setattr(sys, "argv", ["memory", *map(str, flags)])
        memory.main()
        return capsys.readouterr().out

    yield run
    transformers.utils.logging.set_verbosity(verbosity)


@pytest.mark.parametrize("recipe", ["dialogue", "ner", "qa", "sentiment", "summarization", "translation"])
def test_the_demo_of_every_recipe_is_estimated(recipe, ask):
    said = ask("--config", f"recipes/{recipe}/configs/demo.yaml")
    lines = [line.split() for line in said.splitlines() if line]
    assert [line[0] for line in lines[:10]] == [
        "model", "run", "launch", "batch", "weights", "gradients", "optimizer", "copies", "activations", "sum",
    ]  # fmt: skip
    assert "rows of" in said and "LoRA" not in said  # an adapter needs a pretrained model
    assert ("of a target" in said) == (recipe in ("summarization", "translation"))


def test_a_run_is_estimated_as_it_is_launched_and_beside_what_else_there_is(ask, encoder):
    said = ask(
        "--config", "recipes/ner/configs/lora.yaml", "--accelerate", "accelerate_configs/deepspeed_zero2_offload.yaml",
        "--model_name_or_path", encoder, "--target_modules", "query", "value", "--dtype", "float32",
        "--per_device_train_batch_size", "4", "--max_seq_length", "32", "--num_processes", "4",
    )  # fmt: skip
    assert "BertForTokenClassification" in said and "lora, adamw_torch_fused, computes in float32" in said
    assert "ZeRO 2 offload, 4 processes" in said and "4 rows of 32 pieces" in said and "not set" not in said
    lines = {line[:18].strip(): line[18:].split() for line in said.splitlines()}
    # Two layers of query and value, 16 x 32 + 32 x 16 each, and a classifier of 32 x 2 + 2.
    assert "4,162 trained" in " ".join(lines["model"])
    assert lines["gradients"][0] == lines["optimizer states"][0] == "0.0"
    # The float32 weights, two states and a gradient of a quarter of the 4162: 16 bytes each.
    assert lines["host"][:2] == [f"{4162 * 16 / 4 / 2**20:.1f}", "MiB"]
    assert [len(lines[layout.name]) for layout in list_layouts(4)] == [6, 6, 6, 6, 15, 5, 11, 6]


def test_a_method_that_peft_cannot_place_is_left_out_with_its_reason(ask, encoder):
    said = ask(
        "--config", "recipes/ner/configs/full.yaml", "--model_name_or_path", encoder, "--use_peft", "--peft_method",
        "ln_tuning", "--target_modules", "LayerNorm",
    )  # fmt: skip
    assert ": ln_tuning, adamw_torch_fused" in said
    assert "no LoRA: PEFT cannot place the adapter" in said and "no QLoRA: PEFT" in said


def test_a_mistake_gets_one_sentence(ask, tmp_path):
    config = ["--config", "recipes/ner/configs/demo.yaml"]
    (tmp_path / "launch.yaml").write_text("distributed_type: DEEPSPEED\nnum_processes: 2\n")
    (tmp_path / "lost.yaml").write_text(
        "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {deepspeed_config_file: lost.json}\n"
    )
    (tmp_path / "tpu.yaml").write_text("distributed_type: XLA\nnum_processes: 2\n")
    (tmp_path / "few.yaml").write_text("distributed_type: MULTI_GPU\n")
    (tmp_path / "run.py").write_text("print()\n")
    for flags, message in {
        (): "no run: give --config",
        ("--config", "recipes/ner/configs/full.yaml"): "FacebookAI/roberta-base: the model cannot be loaded",
        ("--config", "demo.yaml"): "run.py: no such recipe",
        ("--config", *config[1:], "--recipe", tmp_path / "run.py"): "not a recipe",
        (*config, "--num_processes", "0"): "--num_processes is 0",
        (*config, "--accelerate", "none.yaml"): "none.yaml: the accelerate config cannot be read",
        (*config, "--accelerate", tmp_path / "launch.yaml"): "neither deepspeed_config_file nor zero_stage",
        (*config, "--accelerate", tmp_path / "lost.yaml"): "relative to where you launch from",
        (*config, "--accelerate", tmp_path / "tpu.yaml"): "distributed_type is XLA",
        (*config, "--accelerate", tmp_path / "few.yaml"): "num_processes is missing",
    }.items():
        with pytest.raises(UserError, match=message):
            ask(*flags)


@pytest.mark.slow
def test_a_model_out_of_reach_is_told_without_a_traceback():
    run = launch([sys.executable, "-m", "common.memory", "--config", "recipes/ner/configs/full.yaml"])
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.startswith("error: FacebookAI/roberta-base: the model cannot be loaded")
    assert "local directory" in run.stderr and "Traceback" not in run.stderr


def test_a_dry_run_tells_the_estimate_and_the_measured_peak(encoder, tmp_path, capsys):
    flags = ["--model_name_or_path", encoder, *list_sample_flags("ner", "train"), "--do_train", "--dry_run"]
    flags += ["--report_to", "none", "--dtype", "float32", "--max_train_samples", "20", "--output_dir", tmp_path]
    run_in_process(ner, ner.NerArguments, *flags)
    estimated, measured = capsys.readouterr().out.split("memory     ")[1].splitlines()[:2]
    assert estimated.startswith("estimated ") and "one device, 8 rows of" in estimated
    assert measured.strip().startswith("measured ") and "with all libraries" in measured


@pytest.mark.parametrize(
    ("lines", "zero", "message"),
    [
        ("a: 2024-13-45", "", "launch.yaml: not valid YAML: "),
        ("a: " + 2000 * "[", "", "launch.yaml: not valid YAML: "),
        ("deepspeed_config: [1]", "", "launch.yaml: deepspeed_config is '[1]': write lines of settings"),
        ("deepspeed_config: {zero_stage: 4}", "", "launch.yaml: the stage of ZeRO is '4': write 0, 1, 2 or 3."),
        ("deepspeed_config: {deepspeed_config_file: zero.json}", "[]", "zero.json: it is '[]': write"),
        ("deepspeed_config: {deepspeed_config_file: zero.json}", 2000 * "[", "zero.json: not valid JSON: "),
    ],
)
def test_a_launch_config_that_holds_something_else_is_refused(tmp_path, monkeypatch, lines, zero, message):
    monkeypatch.chdir(tmp_path)
    Path("launch.yaml").write_text(f"distributed_type: DEEPSPEED\nnum_processes: 2\n{lines}\n")
    Path("zero.json").write_text(zero)
    with pytest.raises(UserError) as caught:
        read_layout(read_launch("launch.yaml"), "launch.yaml")
    assert str(caught.value).startswith(message)
