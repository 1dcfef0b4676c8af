"""What a training keeps in memory, counted from the modules of its model, which needs no weights (meta device).

Weights, gradients, optimizer states and copies are counted tensor by tensor; activations are an estimate. What comes
and goes within a step is left out: see NOT_COUNTED.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from common.layouts import Layout
from common.parts import find_shape

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

NOT_COUNTED = (
    "the CUDA context (about 0.5 GiB), fragmentation, buckets and gathered layers of DeepSpeed and FSDP, temporary "
    "copies of the optimizer's step, and evaluation, where generating keeps keys and values"
)
# 32-bit numbers for each trained weight, by the value of --optim.
STATES = {
    "adamw_torch": 2, "adamw_torch_fused": 2, "adamw_torch_xla": 2, "adamw_torch_npu_fused": 2, "paged_adamw_32bit": 2,
    "lion_32bit": 1, "paged_lion_32bit": 1, "adagrad": 1, "rmsprop": 1, "rmsprop_bnb": 1, "rmsprop_bnb_32bit": 1,
    "sgd": 0,
}  # fmt: skip
# 8-bit numbers for each, with one float32 for a block of 256 (Dettmers et al. 2022). Embeddings and tensors of less
# than 4096 weights have 32-bit states all the same.
STATES_IN_8_BITS = {
    "adamw_bnb_8bit": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1, "paged_lion_8bit": 1,
    "rmsprop_bnb_8bit": 1,
}  # fmt: skip
SMALLEST_IN_8_BITS = 4096
BYTES_IN_8_BITS = 1 + 4 / 256
# 4 bits; for each 64 weights a scale of 8 bits; for each 256 scales one of 32 (Dettmers et al. 2023, section 3).
BYTES_IN_4_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
SOURCE_READER = re.compile(r"(encoder_attn|EncDecAttention|crossattention).*\.(k|v|key|value)(_proj)?$")


class Tensor(NamedTuple):
    """A weight tensor as it lies in memory."""

    shape: tuple[int, ...]
    size: float  # bytes
    is_trained: bool
    is_quantized: bool
    is_embedding: bool

    @property
    def numbers(self) -> int:
        return int(torch.Size(self.shape).numel())


class Batch(NamedTuple):
    """The rows of one forward pass on one device."""

    rows: int
    pieces: int  # of the longest row
    target_pieces: int = 0  # of the longest target of an encoder-decoder


@dataclass
class Footprint:
    """Bytes on one device, and in the memory of the host for each device."""

    weights: float
    gradients: float
    optimizer_states: float | None  # None: not known for this optimizer
    copies: float  # a second form of the weights or gradients: see count_footprint
    activations: float
    host: float = 0.0

    @property
    def kept(self) -> float:
        """Without activations: what is there at the end of a step, before gradients are cleared."""
        return self.weights + self.gradients + (self.optimizer_states or 0) + self.copies

    @property
    def total(self) -> float:
        return self.kept + self.activations


def count_footprint(model, training_args, layout: Layout, batch: Batch) -> Footprint:
    """What training `model` keeps on each device where processes share it by `layout`.

    Alone and with DDP weights are as they are, gradients and states in float32. `copies` are the 16-bit copies that
    autocast makes of the float32 weights of linear layers for a step, and with DDP its buckets, as large as the
    gradients. DeepSpeed keeps weights and gradients in the dtype that is computed in, and float32 copies of the trained
    weights beside them, in float32 runs too (Rajbhandari et al. 2020, section 3.1: 2 + 2 + 4 + 8 bytes a weight for
    Adam in 16 bits); offloaded, it keeps the gradients with the optimizer. FSDP 2 divides everything but 4-bit weights.
    """
    tensors = list_tensors(model)
    trained = [tensor for tensor in tensors if tensor.is_trained]
    trained_numbers = sum(tensor.numbers for tensor in trained)
    computed = {"bf16": 2, "fp16": 2}.get(training_args.mixed_precision, 4)  # bytes of a number
    activations = count_activations(model, batch, computed, training_args.activation_checkpointing)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    optim, optim_args = training_args.optim, training_args.optim_args
    processes = layout.processes
    if layout.engine == "deepspeed":
        optimizer_share, gradient_share, weight_share = (
            processes if layout.stage >= stage else 1 for stage in (1, 2, 3)
        )
        weights = sum(
            (tensor.size if tensor.is_quantized else tensor.numbers * computed)
            / (1 if is_persistent(tensor, model.config) else weight_share)
            for tensor in tensors
        )
        gradients = trained_numbers * computed / gradient_share
        copies = trained_numbers * 4 / optimizer_share
        flat = [Tensor((trained_numbers // optimizer_share,), 0, True, False, False)]
        # Offloaded, the step is that of DeepSpeed's own Adam, whatever the optimizer is called.
        states = count_optimizer_states("adamw_torch" if layout.offloads_optimizer else optim, optim_args, flat)
    elif layout.engine == "fsdp":
        weights = sum(tensor.size / (1 if tensor.is_quantized else processes) for tensor in tensors)
        gradients = trained_numbers * 4 / processes
        states = count_optimizer_states(optim, optim_args, trained)
        states, copies = None if states is None else states / processes, 0.0
    else:
        weights = sum(tensor.size for tensor in tensors)
        gradients = sum(tensor.size for tensor in trained)
        states = count_optimizer_states(optim, optim_args, trained)
        copies = gradients if layout.engine == "ddp" else 0.0
        if computed == 2:
            copies += sum(2 * module.weight.numel() for module in list_linear(model) if is_in_float32(module))
    footprint = Footprint(weights + buffers, gradients, states, copies, activations)
    if layout.offloads_optimizer:
        # The gradients that the host steps with are in float32 there.
        footprint.host += trained_numbers * 4 / processes + footprint.copies + (states or 0)
        footprint.gradients, footprint.copies, footprint.optimizer_states = 0.0, 0.0, 0.0
    if layout.offloads_weights:
        footprint.host += weights
        footprint.weights = buffers
    return footprint


def list_tensors(model) -> list[Tensor]:
    """The weights of a model, each once however many modules share it."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    tensors = []
    for parameter in model.parameters():
        kind = type(parameter).__name__
        shape = find_shape(parameter)
        numbers = shape.numel()
        if kind == "Params4bit":
            size = numbers * BYTES_IN_4_BITS
        elif kind == "Int8Params":
            size = numbers + 4 * shape[0]  # a float32 scale for each row
        else:
            size = numbers * parameter.element_size()
        quantized = kind in ("Params4bit", "Int8Params")
        tensors.append(Tensor(tuple(shape), size, parameter.requires_grad, quantized, id(parameter) in embeddings))
    return tensors


def is_persistent(tensor: Tensor, config) -> bool:
    """Whether ZeRO 3 keeps a tensor whole, because it is small: the threshold that transformers sets for "auto"."""
    return tensor.numbers < 10 * getattr(config, "hidden_size", 0)


def count_optimizer_states(optim: str, optim_args: str | None, tensors: list[Tensor]) -> float | None:
    """Bytes of the states for these trained tensors; None where the optimizer is not known here."""
    optim = getattr(optim, "value", optim)
    if optim == "adafactor":
        return sum(4.0 * count_adafactor_states(tensor) for tensor in tensors)
    if optim == "sgd" and re.search(r"momentum=0*\.?0*[1-9]", (optim_args or "").replace(" ", "")):
        return sum(4.0 * tensor.numbers for tensor in tensors)
    if optim in STATES:
        return sum(4.0 * STATES[optim] * tensor.numbers for tensor in tensors)
    if optim not in STATES_IN_8_BITS:
        return None
    return sum(
        STATES_IN_8_BITS[optim]
        * tensor.numbers
        * (4 if tensor.is_embedding or tensor.numbers < SMALLEST_IN_8_BITS else BYTES_IN_8_BITS)
        for tensor in tensors
    )


def count_adafactor_states(tensor: Tensor) -> int:
    """A number for each row and each column of a matrix, for each weight of a vector (Shazeer and Stern 2018)."""
    if len(tensor.shape) < 2:
        return tensor.numbers
    return tensor.numbers // tensor.shape[-1] + tensor.numbers // tensor.shape[-2]


def list_linear(model) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, nn.Linear | Conv1D))


def is_in_float32(module: nn.Module) -> bool:
    """Whether autocast copies the module's weights: bitsandbytes' have kernels of their own."""
    return module.weight.dtype == torch.float32 and type(module.weight) is nn.Parameter


def count_activations(model, batch: Batch, computed: int, activation_checkpointing: bool = False) -> float:
    """About how many bytes autograd keeps of a forward pass for the backward pass; `computed`: bytes of a number.

    As in Korthikanti et al. 2022, section 4.1, each operation keeps what it reads, here summed over the real modules:
    for each piece of a row a linear layer adds its inputs and outputs (what the next operation reads), a LayerNorm its
    input in float32, an RMSNorm that and the normalised value, a dropout its mask of one byte. For a layer of BERT in
    16 bits that is 47 h bytes a piece; their eq. 1 has 34 h, with layer norms in 16 bits, and an input that several
    linear layers read counted once. sdpa keeps no scores; eager attention keeps softmax, mask and product for every
    head, the 5as term of eq. 1. The logits are kept as computed, and in float32 as log-probabilities and as their
    gradient. With activation checkpointing layers keep their inputs only, but for the one that is computed again
    (their section 5). Nothing is kept below the lowest trained weight.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, head = model.config, model.get_output_embeddings()
    hidden = getattr(config, "hidden_size", 0)
    kept, is_trained = Counter(), False
    for name, module in model.named_modules():
        is_trained = is_trained or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if not is_trained or ".lora_" in name or "original_module" in name:
            continue
        reads_target = "decoder" in name and not SOURCE_READER.search(name) or module is head
        pieces = batch.rows * (batch.target_pieces if reads_target and batch.target_pieces else batch.pieces)
        layer = re.match(r".*?\.\d+(?=\.)", name)
        kept[layer.group() if layer else ""] += pieces * _count_piece(module, name, config, computed, module is head)
    layers = [layer for layer in kept if layer]
    if getattr(config, "_attn_implementation", None) == "eager":
        longest = max(batch.pieces, batch.target_pieces)
        for layer in layers:
            kept[layer] += batch.rows * config.num_attention_heads * longest**2 * (2 * computed + 1)
    if activation_checkpointing and layers:
        inputs = len(layers) * batch.rows * max(batch.pieces, batch.target_pieces) * hidden * 4
        return kept[""] + inputs + max(kept[layer] for layer in layers)
    return float(sum(kept.values()))


def _count_piece(module: nn.Module, name: str, config, computed: int, is_head: bool) -> float:
    """Bytes that a module adds for one piece."""
    kind = type(module).__name__
    if isinstance(module, nn.Linear | Conv1D):
        is_linear = isinstance(module, nn.Linear)
        features = (module.in_features, module.out_features) if is_linear else (module.nx, module.nf)
        return computed * sum(features) + (8 * features[1] if is_head else 0)
    if kind.endswith("Norm") and getattr(module, "weight", None) is not None:
        width = find_shape(module.weight).numel()
        if name.endswith(("q_norm", "k_norm")) and width == getattr(config, "head_dim", None):
            width *= config.num_key_value_heads if name.endswith("k_norm") else config.num_attention_heads
        return width * (4 if isinstance(module, nn.LayerNorm) else 8)
    if isinstance(module, nn.Dropout) and module.p:
        return getattr(config, "hidden_size", 0)
    return 0
