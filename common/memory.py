"""How much memory a run takes, before it starts: `python -m common.memory --config recipes/ner/configs/full.yaml`.

Only the model's config.json is read, no weights and no data. With --accelerate the run is divided as that launch config
says. Any flag of the recipe overrides its config, as after `accelerate launch`.
"""

import argparse
import ast
import copy
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from common.adapters import add_adapter
from common.arguments import ModelArguments
from common.command_line import parse_arguments
from common.console import say
from common.errors import UserError, install_error_hook
from common.footprint import NOT_COUNTED, Batch, count_footprint, list_tensors
from common.freezing import freeze_parameters
from common.layouts import Layout, list_layouts, read_launch, read_layout
from common.models import (
    LONGEST_DEFAULT,
    choose_frozen_dtype,
    find_longest_input,
    load_config,
    load_tokenizer,
    make_quantization_config,
    name_precision,
)
from common.peak import describe_batch, format_bytes

import torch
import transformers
from transformers.quantizers import AutoHfQuantizer

# PEFT's names of the tasks, by the name of a recipe's model class.
TASK_TYPES = {
    "AutoModelForSequenceClassification": "SEQ_CLS", "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS", "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForCausalLM": "CAUSAL_LM",
}  # fmt: skip
METHODS = ("full", "LoRA", "QLoRA")
COPIES = {
    "none": "in 16 bits, made by autocast",
    "ddp": "in 16 bits, made by autocast, and DDP's buckets",
    "deepspeed": "DeepSpeed's float32 weights",
    "fsdp": "",
}
FEWEST_SHARING = 2  # processes in the comparison, where the launch has one
LABEL_WIDTH, CELL_WIDTH = 18, 26


class Recipe(NamedTuple):
    """What a run.py says of itself."""

    path: Path
    argument_types: list[type]
    model_class: type
    task_type: str


def read_recipe(path: Path) -> Recipe:
    """The dataclasses that a run.py hands to parse_arguments, and its model class."""
    if not path.is_file():
        raise UserError(f"{path}: no such recipe: give its run.py with --recipe.")
    spec = importlib.util.spec_from_file_location("recipe_of_this_memory", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    parsing = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "parse_arguments"]
    heads = [name for name in vars(module) if name in TASK_TYPES]
    if not parsing or len(heads) != 1:
        raise UserError(f"{path}: not a recipe: one calls parse_arguments, and imports one AutoModelFor... class.")
    argument_types = [getattr(module, argument.id) for argument in parsing[-1].args]
    return Recipe(path, argument_types, getattr(module, heads[0]), TASK_TYPES[heads[0]])


def build_model(recipe: Recipe, model_args: ModelArguments, training_args):
    """The model that the run would train, without weights: everything on the meta device."""
    tokenizer = load_tokenizer(model_args) if model_args.from_scratch else None
    config = load_config(model_args, tokenizer)
    if model_args.from_scratch and not model_args.tokenizer_name_or_path:
        config.vocab_size = model_args.vocab_size  # this tokenizer has seen no texts
    with torch.device("meta"):
        try:
            model = recipe.model_class.from_config(
                config,
                dtype=choose_frozen_dtype(training_args) if model_args.use_peft else torch.float32,
                attn_implementation=model_args.attn_implementation,
                trust_remote_code=model_args.trust_remote_code,
            )
        except (ValueError, ImportError) as error:
            name = model_args.model_name_or_path or model_args.from_scratch
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{name}: {recipe.path} cannot build this model: {said}") from error
        if model_args.quantizes:
            quantizer = AutoHfQuantizer.from_config(make_quantization_config(model_args, training_args))
            quantizer.preprocess_model(model, device_map=None)
            quantizer.postprocess_model(model)
        if model_args.freeze is not None:
            freeze_parameters(model, model_args.freeze)
        return add_adapter(model, model_args, recipe.task_type) if model_args.use_peft else model


def choose_batch(arguments: list, training_args, config) -> tuple[Batch, list[str]]:
    """The longest rows that the run can meet, and the arguments without a value, for which the model's limit stands."""
    limit = find_longest_input(config, SimpleNamespace(model_max_length=sys.maxsize)) or LONGEST_DEFAULT
    names = [name for name in ("max_seq_length", "max_source_length") for part in arguments if hasattr(part, name)]
    if getattr(config, "is_encoder_decoder", False):
        names.append("max_target_length")
    given = [next((getattr(part, name) for part in arguments if hasattr(part, name)), None) for name in names]
    lengths = [min(limit, LONGEST_DEFAULT) if length is None else length for length in given]
    unset = [name for name, length in zip(names, given, strict=True) if length is None]
    return Batch(training_args.count_rows(sum(lengths)), *lengths), unset


def change_method(model_args: ModelArguments, method: str) -> ModelArguments:
    """The same model trained by another of METHODS; a copy, since the options of LoRA are refused without it."""
    changed = copy.copy(model_args)
    changed.use_peft, changed.load_in_4bit, changed.load_in_8bit = method != "full", method == "QLoRA", False
    if changed.use_peft:
        changed.peft_method, changed.freeze = "lora", None
    return changed


def name_method(model_args: ModelArguments) -> str:
    """The method of a run in words."""
    if not model_args.use_peft:
        return "full" if model_args.freeze is None else f"full, {model_args.freeze} frozen"
    bits = "4-bit weights, " * model_args.load_in_4bit + "8-bit weights, " * model_args.load_in_8bit
    return bits + model_args.peft_method


def say_run(model, footprint, layout: Layout, facts: dict[str, str]) -> None:
    """What is estimated, and each part of it on one line."""
    tensors = list_tensors(model)
    counts = [sum(tensor.numbers for tensor in tensors if tensor.is_trained or not only) for only in (False, True)]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    model_line = f"{type(base).__name__}, {counts[0]:,} parameters, {counts[1]:,} trained ({counts[1] / counts[0]:.1%})"
    for name, text in {"model": model_line, **facts}.items():
        say(f"{name:<{LABEL_WIDTH}} {text}")
    say()
    states = footprint.optimizer_states
    parts = {
        "weights": (footprint.weights, ""),
        "gradients": (footprint.gradients, ""),
        "optimizer states": (states, "unknown for this optimizer, left out of the sum" if states is None else ""),
        "copies": (footprint.copies, COPIES[layout.engine] if footprint.copies else ""),
        "activations": (footprint.activations, "an estimate"),
        "sum": (footprint.total, "on each device"),
    }
    if footprint.host:
        parts["host"] = (footprint.host, "in the memory of the machine, for each process")
    for name, (number, remark) in parts.items():
        shown = "?" if number is None else format_bytes(number)
        say(f"{name:<{LABEL_WIDTH}} {shown:>12}  {remark}".rstrip())


def say_comparison(recipe: Recipe, model_args, training_args, batch: Batch, processes: int) -> None:
    """The sums of the same run, trained and launched otherwise."""
    models, remarks = {}, []
    # An adapter needs a pretrained model.
    for method in METHODS[:1] if model_args.from_scratch else METHODS:
        try:
            models[method] = build_model(recipe, change_method(model_args, method), training_args)
        except UserError as error:
            remarks.append(f"no {method}: {error}")
    say()
    say(f"The sum for the same batch, trained or launched otherwise; from DDP on with {processes} processes,")
    say("each of which has what stands behind a + in the memory of the machine:")
    say()
    say(f"{'':<{LABEL_WIDTH}} " + "".join(f"{method:>{CELL_WIDTH}}" for method in models))
    for layout in list_layouts(processes):
        cells = []
        for method, model in models.items():
            if method == "QLoRA" and layout.stage == 3:
                cells.append("-")
                continue
            footprint = count_footprint(model, training_args, layout, batch)
            host = f" + {format_bytes(footprint.host)}" if footprint.host else ""
            cells.append(format_bytes(footprint.total) + host)
        say(f"{layout.name:<{LABEL_WIDTH}} " + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells))
    say()
    if "QLoRA" in models:
        remarks.append(
            "ZeRO 3 divides 4-bit weights only if they are stored as floats; in these recipes they are bytes."
        )
    for remark in remarks:
        say(remark)


def read_command_line(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and those that are the recipe's."""
    parser = argparse.ArgumentParser(
        prog="python -m common.memory",
        description="Estimate the memory of a run on each device, before it starts; no weights, no data are read.",
        epilog="Every other flag is the recipe's and overrides its config, as --per_device_train_batch_size 4.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="the config of the run, recipes/<task>/configs/<name>.yaml")
    parser.add_argument("--recipe", help="its run.py (default: the one in the folder above the config's)")
    parser.add_argument("--accelerate", help="the launch config, accelerate_configs/<name>.yaml (default: one device)")
    parser.add_argument("--num_processes", type=int, help="how many processes train (default: as in the launch config)")
    return parser.parse_known_args(args)


def main() -> None:
    """Print the estimate for the run that the command line names, and what else could be done."""
    install_error_hook()
    flags, overrides = read_command_line(sys.argv[1:])
    if flags.config is None and flags.recipe is None:
        raise UserError("no run: give --config recipes/<task>/configs/<name>.yaml (see --help).")
    if flags.num_processes is not None and flags.num_processes < 1:
        raise UserError(f"--num_processes is {flags.num_processes}: it must be 1 or more.")
    recipe = read_recipe(Path(flags.recipe) if flags.recipe else Path(flags.config).parent.parent / "run.py")
    config_file = flags.config or str(recipe.path.parent / "configs" / "demo.yaml")
    launch = {"distributed_type": "MULTI_GPU", "num_processes": flags.num_processes or 1}
    if flags.accelerate:
        launch = read_launch(flags.accelerate)
    layout = read_layout(launch, flags.accelerate or "", flags.num_processes)
    # As accelerate launch does, so that the arguments are read as they will be.
    os.environ["ACCELERATE_MIXED_PRECISION"] = str(launch.get("mixed_precision") or "no")
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # of PEFT's calls of transformers
    arguments = parse_arguments(*recipe.argument_types, args=["--config", config_file, *overrides])
    model_args = next(part for part in arguments if isinstance(part, ModelArguments))
    training_args = arguments[-1]
    model = build_model(recipe, model_args, training_args)
    batch, unset = choose_batch(arguments[:-1], training_args, model.config)
    taken = f" ({' and '.join(unset)} not set: {LONGEST_DEFAULT} or the model's limit)" if unset else ""
    facts = {
        "run": f"{config_file}: {name_method(model_args)}, {training_args.optim.value}, "
        f"computes in {name_precision(training_args)}",
        "launch": f"{layout.name}, {layout.processes} process{'es' if layout.processes > 1 else ''}"
        + (f" ({flags.accelerate})" if flags.accelerate else ""),
        "batch": describe_batch(batch) + " on each device" + taken,
    }
    say_run(model, count_footprint(model, training_args, layout, batch), layout, facts)
    say_comparison(recipe, model_args, training_args, batch, max(layout.processes, FEWEST_SHARING))
    say(f"Not counted: {NOT_COUNTED}.")
    say("Gradients replace activations within a step, so that the peak can be below the sum.")


if __name__ == "__main__":
    main()
