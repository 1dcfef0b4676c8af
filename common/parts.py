"""Which part of a model each of its weights belongs to: the embeddings, a layer, the head, or an adapter.

A layer is an entry of a list of modules that each architecture calls by its own name: encoder.layer, h, block, layers.
What stands beside that list, such as the last norm, belongs to the top layer; what stands outside is the head.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import nn

# DeBERTa-v2 normalises its relative positions, and its convolution runs beside the lowest layer.
DEBERTA_NORM, DEBERTA_CONVOLUTION = "deberta.encoder.LayerNorm.", "deberta.encoder.conv."


class Part(NamedTuple):
    """Where a weight stands."""

    kind: Literal["embeddings", "layers", "head", "adapter"]
    depth: int  # 0 the head, 1 the top layer of encoder or decoder, 2 the one below, ..., most of all the embeddings
    layer: int | None  # counted from the lowest, which is 1
    stack: str | None  # the name of the list of layers

    def __str__(self) -> str:
        if self.layer is None:
            return self.kind
        return "top layer" if self.depth == 1 else f"layer {self.layer}"


def find_stacks(model: nn.Module) -> dict[str, int]:
    """The lists of layers by name, and how many layers each has; an encoder-decoder has two."""
    stacks = {}
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{stack}.") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not is_inside:
            stacks[name] = len(module)
    return stacks


def locate_parameters(model: nn.Module) -> dict[str, Part]:
    """The part of each weight that named_parameters() gives, but the copies of a head that PEFT sets aside.

    A weight that two modules share has the place of the first: an lm_head that is tied belongs to the embeddings. The
    weights of an adapter have the depth of the layer that they are added to, those of virtual tokens that of the head.
    """
    stacks = find_stacks(model)
    tables = {
        name.removesuffix(".base_layer") for name, part in model.named_modules() if isinstance(part, nn.Embedding)
    }
    added = set(_list_adapter_weights(model))
    parts = {}
    for name, _ in model.named_parameters():
        if ".original_module." not in name:
            part = _locate(name, stacks, tables)
            parts[name] = part._replace(kind="adapter") if name in added else part
    return parts


def find_shape(parameter: nn.Parameter) -> torch.Size:
    """The shape of a weight as the model has it: under ZeRO 3 a process holds a part, and 4-bit weights are packed."""
    if type(parameter).__name__ == "Params4bit" and getattr(parameter, "quant_state", None) is not None:
        return torch.Size(parameter.quant_state.shape)
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def has_shared_layers(model: nn.Module) -> bool:
    """Whether several layers are the same weights, as in ALBERT."""
    groups = getattr(model.config, "num_hidden_groups", None)
    return groups is not None and groups < model.config.num_hidden_layers


def has_tied_head(model: nn.Module) -> bool:
    """Whether the lm_head is the table of the embeddings."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is table.weight


def _locate(name: str, stacks: dict[str, int], tables: set[str]) -> Part:
    if name.startswith("prompt_encoder."):
        return Part("adapter", 0, None, None)
    bottom = Part("embeddings", max(stacks.values(), default=0) + 1, None, None)
    for stack, number in stacks.items():
        if name.startswith(f"{stack}."):
            layer = int(re.search(r"\d+", name[len(stack) :]).group()) + 1
            return Part("layers", number - layer + 1, layer, stack)
    is_table = any(name.startswith(f"{table}.") for table in tables)
    if is_table or "embed" in name or DEBERTA_NORM in name:
        return bottom
    for stack, number in stacks.items():
        if DEBERTA_CONVOLUTION in name:
            return Part("layers", number, 1, stack)
        if name.startswith(f"{stack.rpartition('.')[0]}."):
            return Part("layers", 1, number, stack)
    return Part("head", 0, None, None)


def _list_adapter_weights(model: nn.Module) -> Iterator[str]:
    """The names of the weights that PEFT has added; a head that it trains whole is none of them."""
    if not hasattr(model, "peft_config"):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            for inner, _ in module.named_parameters():
                if not inner.startswith("base_layer."):
                    yield f"{name}.{inner}"
