"""Models that FSDP 2 divides between processes: prepared before it does, whole again where their weights are saved."""

from collections.abc import Iterator
from contextlib import contextmanager

from common.parts import find_stacks

from accelerate.utils import parse_flag_from_env
from torch.distributed.fsdp import StateDictType, register_fsdp_forward_method
from torch.nn import Module
from torch.optim import SGD
from transformers import PreTrainedModel


def uses_fsdp(training_args) -> bool:
    """Whether this run was asked to divide its model with FSDP, by accelerate's config or by --fsdp."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") or bool(training_args.fsdp)


def prepare_for_fsdp(model: PreTrainedModel) -> None:
    """Make a model that accelerate 1.15 can divide with FSDP 2, layer by layer, and generate with."""
    # Their own lists name embeddings too (BertEmbeddings), whose weights accelerate then divides a second time.
    layers = [layer for stack in find_stacks(model) for layer in model.get_submodule(stack)]
    model._no_split_modules = sorted({type(layer).__name__ for layer in layers})
    # Encoder and decoder have modules of their own for one shared weight, of which FSDP would manage only one.
    model.set_input_embeddings(model.get_input_embeddings())
    # generate() asks for this, and Accelerate does not set it: processes whose texts have ended go on until all have.
    model._is_fsdp_managed_module = True


def divide_untrained_model(trainer) -> None:
    """Divide a model that is evaluated without training: accelerate refuses to, without an optimizer beside it."""
    if trainer.is_fsdp_enabled and not trainer.accelerator._models:
        trainer.model, _ = trainer.accelerator.prepare(trainer.model, SGD(trainer.model.parameters()))
        trainer.model_wrapped = trainer.model


def prepare_for_generation(model: Module) -> None:
    """Let generate() of a divided model gather weights outside of its layers, also where it was never trained."""
    if "generate" not in vars(model):  # once: the method is wrapped
        register_fsdp_forward_method(model, "generate")


@contextmanager
def whole_state_dict(accelerator) -> Iterator[None]:
    """Within it, FSDP gives and saves whole weights, although checkpoints are written in shards."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        yield
        return
    kept, plugin.state_dict_type = plugin.state_dict_type, StateDictType.FULL_STATE_DICT
    try:
        yield
    finally:
        plugin.state_dict_type = kept
