"""What an optimizer is given: a learning rate for each layer, and no setting that would fail late in the run."""

import sys

from common.errors import UserError
from common.parts import Part, has_shared_layers, locate_parameters

import transformers
from torch import nn

# These make the groups of weights that they update by themselves.
GROUPING_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")


def check_optimizer(training_args) -> None:
    """UserError, before anything is read, where `optim` lacks its package or cannot have a rate for each layer."""
    name = training_args.optim.value
    try:
        transformers.Trainer.get_optimizer_cls_and_kwargs(training_args)
    except (ImportError, ValueError, NotImplementedError) as error:
        if "need to pass a" not in str(error):  # some want the model, which is not there yet
            given = f" with optim_args {training_args.optim_args}" if training_args.optim_args else ""
            said = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"optim {name}{given} cannot be used: {said}; or choose another optim.") from error
    if not decays_by_layer(training_args):
        return
    if name.startswith(GROUPING_OPTIMIZERS):
        raise UserError(f"layerwise_lr_decay has no effect on optim {name}, which groups the weights itself: drop one.")
    plugin = training_args.deepspeed_plugin
    config = plugin.hf_ds_config.config if plugin is not None else {}
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise UserError(
                f"DeepSpeed's {section} has one learning rate for all layers: leave out layerwise_lr_decay, or take "
                f"{section} out of DeepSpeed's config, so that the recipe's is used."
            )


def decays_by_layer(training_args) -> bool:
    """Whether each layer has a learning rate of its own; never with Hugging Face's own TrainingArguments."""
    return getattr(training_args, "layerwise_lr_decay", None) not in (None, 1.0)


def compute_rates(model: nn.Module, learning_rate: float, decay: float) -> dict[str, tuple[Part, float]]:
    """Part and learning rate of each trained weight, by its name.

    Each layer has the rate of the one above times `decay`: discriminative fine-tuning (Howard & Ruder 2018, section
    3.2, who divide by 2.6). The head has `learning_rate` or, where no head is trained, the top layer; the embeddings
    have the lowest. Encoder and decoder are counted each from its own top. (ELECTRA's own code [Clark et al. 2020]
    takes one step more between the head and the top layer.)
    """
    if has_shared_layers(model):
        raise UserError(
            f"layerwise_lr_decay is not possible in {type(model).__name__}: its layers share their weights."
        )
    parts = locate_parameters(model)
    if any("_flat_param" in name for name in parts):
        raise UserError(
            "layerwise_lr_decay needs FSDP 2, or fsdp_use_orig_params: true: else layers are not told apart."
        )
    trained = {name: parts[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    top = min(part.depth for part in trained.values())
    return {name: (part, learning_rate * decay ** (part.depth - top)) for name, part in trained.items()}


def group_by_rate(model: nn.Module, training_args, decayed: list[str]) -> list[dict]:
    """The optimizer's groups: the weights of one rate, those whose names are `decayed` with weight decay.

    The highest rate comes first: it is the one that Trainer logs.
    """
    rates = compute_rates(model, training_args.learning_rate, training_args.layerwise_lr_decay)
    groups = {}
    for name, parameter in model.named_parameters():
        if name in rates:
            weight_decay = training_args.weight_decay if name in decayed else 0.0
            group = {"params": [], "lr": rates[name][1], "weight_decay": weight_decay}
            groups.setdefault((-rates[name][1], name not in decayed), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def describe_rates(model: nn.Module, training_args) -> str:
    """The learning rate or, where layers have their own, the highest and the lowest, and whose they are."""
    if not decays_by_layer(training_args):
        return f"{training_args.learning_rate:g}"
    rates = compute_rates(model, training_args.learning_rate, training_args.layerwise_lr_decay).values()
    (highest, first), (lowest, last) = max(rates, key=lambda rate: rate[1]), min(rates, key=lambda rate: rate[1])
    return f"{first:g} ({highest})" + (f" to {last:.2g} ({lowest})" if last < first else "")


def forget_overrides() -> None:
    """Clear what bitsandbytes remembers of earlier optimizers of this process.

    It keeps by their numbers which weights get 32-bit states; without this, a second run's would by chance be some of
    those that should get 8 bits (0.50).
    """
    if "bitsandbytes" in sys.modules:
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().initialize()
