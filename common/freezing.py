"""Weights that keep their pretrained values while the others are trained."""

from common.errors import UserError
from common.parts import find_stacks, has_shared_layers, locate_parameters

from transformers import PreTrainedModel


def freeze_parameters(model: PreTrainedModel, what: str) -> None:
    """Freeze the embeddings, the backbone (all but the head), or the embeddings and the lowest layers: first_4_layers.

    A pooler belongs to the head: many checkpoints have none, and frozen it would be random for ever. The layers of an
    encoder-decoder that are counted are those of its encoder. An lm_head that is tied to the embeddings freezes too.
    """
    name = type(model).__name__
    if what == "backbone" and model.get_output_embeddings() is not None:
        raise UserError(
            f"freeze backbone leaves nothing to learn in {name}: the head of a model that writes texts is pretrained, "
            "and often the same weights as its embeddings. Set freeze to embeddings or first_<k>_layers, or use_peft."
        )
    stacks, number = find_stacks(model), 0
    if what.startswith("first_"):
        number = int(what.split("_")[1])
        if has_shared_layers(model):
            raise UserError(
                f"freeze {what} is not possible in {name}: its layers share their weights. Set freeze to embeddings "
                "or backbone."
            )
        if model.config.is_encoder_decoder:
            stacks = {stack: layers for stack, layers in stacks.items() if "encoder" in stack.split(".")}
        most = min(stacks.values(), default=0)
        if number > most:
            side = "encoder" if model.config.is_encoder_decoder else "model"
            raise UserError(f"freeze is {what}, but the {side} has {most} layers.")
    parts = locate_parameters(model)
    for parameter_name, parameter in model.named_parameters():
        part = parts[parameter_name]
        is_low = part.kind == "layers" and part.stack in stacks and part.layer <= number
        if part.kind == "embeddings" or is_low or (what == "backbone" and part.kind != "head"):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze {what} leaves nothing to train in {name}: freeze fewer layers.")
