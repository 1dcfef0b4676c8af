"""Trains small models for a few steps and prints, as JSON, what that was estimated to take and what it took, in bytes.

A process of its own for tests/common/test_memory.py: what others have allocated before would be measured too.
"""

import gc
import json
import sys
from pathlib import Path

from common import memory
from common.adapters import add_adapter
from common.arguments import ModelArguments, TrainingArguments
from common.footprint import Batch, count_footprint
from common.layouts import Layout
from common.losses import CrossEntropy
from common.models import load_config, load_model
from common.peak import PeakMemory
from common.trainers import Trainer

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    T5Config,
    TrainerCallback,
)

PIECES = 8
ALONE, BATCH, CPU = Layout("one device"), Batch(1, PIECES), torch.device("cpu")
TASKS = {
    "encoder": (AutoModelForTokenClassification, "TOKEN_CLS"),
    "encoder-decoder": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "decoder": (AutoModelForCausalLM, "CAUSAL_LM"),
}


class LiveTensors(TrainerCallback):
    """Counts the bytes of all tensors that are there after the optimizer's step, gradients included."""

    measured = 0

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.measured = count_live_bytes()


def count_live_bytes() -> int:
    """The storages of all tensors of this process, each once."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def build_config(kind: str, layers: int) -> PreTrainedConfig:
    """A model of about 3 M weights a layer, and 4 M of embeddings."""
    sizes = {"vocab_size": 8000, "hidden_size": 512, "num_hidden_layers": layers, "num_attention_heads": 8}
    if kind == "encoder":
        return BertConfig(**sizes, intermediate_size=2048)
    if kind == "encoder-decoder":
        return T5Config(vocab_size=8000, d_model=512, d_ff=2048, num_layers=layers // 2, decoder_start_token_id=0)
    return LlamaConfig(**sizes, intermediate_size=1376, tie_word_embeddings=True)


def build_model(kind: str, method: str, layers: int):
    """A model with random weights, as it is trained."""
    model_class, task_type = TASKS[kind]
    model = model_class.from_config(build_config(kind, layers))
    if method == "full":
        return model
    return add_adapter(model, ModelArguments(model_name_or_path="none", use_peft=True), task_type)


def train(model, args, *callbacks: TrainerCallback) -> None:
    """Two steps of one short row."""
    names = ["input_ids", "labels"] + ["decoder_input_ids"] * model.config.is_encoder_decoder
    rows = Dataset.from_dict({name: [[1] * PIECES] * 4 for name in names})
    loss = CrossEntropy(shift=model.config.model_type == "llama")
    Trainer(model=model, args=args, train_dataset=rows, compute_loss_func=loss, callbacks=list(callbacks)).train()


def measure(kind: str, method: str, args, layers: int) -> dict[str, float]:
    """The memory of the process, from before there is a model until after the last step."""
    with torch.device("meta"):
        footprint = count_footprint(build_model(kind, method, layers), args, ALONE, BATCH)
    with PeakMemory(CPU) as building:
        model = build_model(kind, method, layers)
    with PeakMemory(CPU) as training:  # without what comes and goes while weights are drawn
        train(model, args)
    return {"estimated": footprint.kept, "measured": training.peak - building.before}


def measure_quantized(kind: str, args, layers: int, folder: Path) -> dict[str, float]:
    """The live tensors of QLoRA, estimated from config.json: libraries take more than 4-bit weights of this size."""
    model_class, task_type = TASKS[kind]
    build_model(kind, "full", layers).save_pretrained(folder)
    model_args = ModelArguments(model_name_or_path=str(folder), use_peft=True, load_in_4bit=True)
    recipe = memory.Recipe(folder, [], model_class, task_type)
    footprint = count_footprint(memory.build_model(recipe, model_args, args), args, ALONE, BATCH)
    before, tensors = count_live_bytes(), LiveTensors()
    model = load_model(model_class, model_args, args, load_config(model_args), task_type=task_type)
    loaded = count_footprint(model, args, ALONE, BATCH)
    train(model, args, tensors)
    return {"estimated": footprint.kept, "loaded": loaded.kept, "measured": tensors.measured - before}


def main(folder: Path, layers: int, methods: list[str]) -> None:
    args = TrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=1, optim="adamw_torch", dtype="float32",
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    found = {}
    for kind in TASKS:
        for method in methods:
            if method == "QLoRA":
                found[f"{kind} {method}"] = measure_quantized(kind, args, layers, folder / kind)
                continue
            train(build_model(kind, "LoRA", 2), args)  # loads the libraries that the first step needs
            found[f"{kind} {method}"] = measure(kind, method, args, layers)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
