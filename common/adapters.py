"""Adapters: few new weights are trained, those of the model are left as they are. All methods are PEFT's.

The head of a classifier is new, so it is trained whole beside them. What cannot work is refused with the reason before
the model loads; `recipes` x methods, as the tests have run them, are the table in README.md.
"""

import json
import re
import warnings
from pathlib import Path

from common.arguments import PROMPT_METHODS, ModelArguments
from common.errors import UserError
from common.sharding import uses_fsdp

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

ADAPTER_DIRECTORY = "adapter"
HEADED_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # PEFT's names of the tasks whose head is new
# The share of AdaLoRA's steps at full rank, before it prunes, and of those at the final ranks; it prunes a hundred
# times between them. Below FEWEST_STEPS there is nothing to plan.
WARMUP_SHARE, FINAL_SHARE, FEWEST_STEPS = 0.1, 0.3, 10
RANK_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA keeps of each weight
STATE_FILE = "adapter_state.pt"


def check_adapter(model_args: ModelArguments, training_args: TrainingArguments, config, task_type: str) -> None:
    """UserError where the method would fail, or quietly do nothing, with this task, model or launch."""
    method, virtual = model_args.peft_method, model_args.num_virtual_tokens
    if method == "prefix" and (training_args.activation_checkpointing or training_args.gradient_checkpointing):
        raise UserError(
            "peft_method prefix and activation_checkpointing exclude each other: checkpointing switches off the cache "
            "of keys and values, which is where the prefix stands. Leave it out, or use lora."
        )
    if task_type == "QUESTION_ANS" and method in ("prompt", "p_tuning"):
        raise UserError(
            f"peft_method {method} does not serve question answering: its tokens would shift every position, and the "
            "answers with them. Use lora."
        )
    if task_type == "QUESTION_ANS" and method == "prefix" and (getattr(config, "type_vocab_size", None) or 0) > 1:
        raise UserError(
            "peft_method prefix does not serve question answering with this model: PEFT hides from it which pieces "
            "are the question (token_type_ids). Use lora."
        )
    if method == "adalora" and (training_args.deepspeed_plugin is not None or uses_fsdp(training_args)):
        raise UserError(
            "peft_method adalora needs the gradients of all weights in each process, which DeepSpeed and FSDP divide "
            "or drop: launch without them, or use lora."
        )
    if method in PROMPT_METHODS and (is_deepspeed_zero3_enabled() or uses_fsdp(training_args)):
        raise UserError(
            f"peft_method {method} does not work with ZeRO 3 and FSDP: PEFT computes what it saves in one process, "
            "which would wait for the others' part of the virtual tokens for ever. Launch with ZeRO 2, or use lora."
        )
    longest = getattr(config, "max_position_embeddings", None)
    if method in PROMPT_METHODS and longest and virtual >= longest:
        raise UserError(f"num_virtual_tokens is {virtual}, but the model has {longest} positions for everything.")


def add_adapter(model: PreTrainedModel, model_args: ModelArguments, task_type: str):
    """The model with an adapter; adapter and new head are trained in float32, everything else is frozen."""
    import peft

    if model_args.quantizes:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for module in model.modules():
            # On CPUs with AVX512-BF16 an evaluation repacks the 4-bit weights in place, and later gradients are wrong.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    heads = list_head_names(model) if task_type in HEADED_TASKS else []
    if model_args.peft_method in PROMPT_METHODS:
        untrained = [name for name in heads if name not in ("classifier", "score", "qa_outputs")]
        if untrained:
            raise UserError(
                f"peft_method {model_args.peft_method} trains no other head than classifier, score or qa_outputs, but "
                f"{type(model).__name__} has {', '.join(untrained)} too, which would stay random. Use lora."
            )
    elif heads and getattr(model.base_model, "pooler", None) is not None:
        heads.append("pooler")  # it belongs to the body, but many checkpoints lack it: new, it must not stay random
    adapter_config, name = make_adapter_config(model, model_args, task_type, heads), type(model).__name__
    if knows_no_targets(adapter_config, model.config):
        adapter_config.target_modules = "all-linear"
    try:
        model = peft.get_peft_model(model, adapter_config)
        if adapter_config.is_prompt_learning:
            try_virtual_tokens(model)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())
        cure = "another peft_method" if model_args.peft_method in PROMPT_METHODS else "target_modules"
        if model_args.target_modules:
            cure = f"other target_modules than {', '.join(model_args.target_modules)}"
        raise UserError(
            f"PEFT cannot place the adapter ({model_args.peft_method}) in {name}: {said} Set {cure}."
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    drop_virtual_logits(model)
    return model


def list_head_names(model: PreTrainedModel) -> list[str]:
    """The modules with weights on top of the body: classifier, and pre_classifier, pooler or head where it has one."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]


def make_adapter_config(model: PreTrainedModel, model_args: ModelArguments, task_type: str, heads: list[str]):
    """PEFT's configuration of the method, its new weights placed where the arguments say or PEFT knows the model."""
    import peft

    # PEFT's class for question answering keeps token_type_ids and position_ids to itself (0.21): the model would read
    # question and context as one text. Its plain class hands on whatever it gets, and has to be told the head.
    method = model_args.peft_method
    plain = task_type == "QUESTION_ANS" and method not in PROMPT_METHODS
    task = {"task_type": None if plain else task_type}
    if method in PROMPT_METHODS:
        size = {"num_virtual_tokens": model_args.num_virtual_tokens}
        if method == "prefix":
            return peft.PrefixTuningConfig(**task, **size)
        if method == "prompt":
            return peft.PromptTuningConfig(**task, **size)
        return peft.PromptEncoderConfig(**task, **size, encoder_hidden_size=model.config.hidden_size)
    targets = model_args.target_modules
    all_linear = targets == ["all-linear"]
    task["modules_to_save"] = heads or None
    task["target_modules"] = "all-linear" if all_linear else targets
    if method == "ln_tuning":
        # By their whole names: the first of ModernBERT's layers has another module under the name of a norm.
        norms = [name for name, part in model.named_modules() if _is_norm(part) and name.split(".")[0] not in heads]
        return peft.LNTuningConfig(**task | {"target_modules": targets or norms})
    if method == "vera":
        if heads and all_linear:
            raise UserError("peft_method vera cannot leave out layers such as the head: list target_modules by name.")
        return peft.VeraConfig(**task)
    if heads:
        # A head is trained whole (modules_to_save): it cannot get the weights of an adapter as well.
        task["exclude_modules"] = rf"(.*\.)?({'|'.join(map(re.escape, heads))})(\..*)?"
    if method == "ia3":
        return peft.IA3Config(**task, feedforward_modules=[] if targets else None)
    if method == "oft":
        return peft.OFTConfig(**task)
    if method == "boft":
        return peft.BOFTConfig(**task)
    shared = {"lora_alpha": model_args.lora_alpha, "lora_dropout": model_args.lora_dropout}
    if method == "adalora":
        # As in the paper (Zhang et al. 2023), it starts with half as many ranks again as are kept on average. The
        # steps are planned when training starts: see plan_ranks.
        ranks = {"init_r": model_args.lora_r + model_args.lora_r // 2, "target_r": model_args.lora_r}
        return peft.AdaLoraConfig(**task, **shared, **ranks, total_step=1)
    return peft.LoraConfig(
        **task,
        **shared,
        r=model_args.lora_r,
        use_rslora=model_args.use_rslora,
        use_dora=model_args.use_dora,
        init_lora_weights=True if model_args.init_lora_weights == "default" else model_args.init_lora_weights,
    )


def knows_no_targets(adapter_config, config) -> bool:
    """Whether PEFT needs target_modules and has no choice of its own for this architecture."""
    import peft

    if adapter_config.is_prompt_learning or adapter_config.target_modules or adapter_config.peft_type == "VERA":
        return False
    tuner = peft.PEFT_TYPE_TO_TUNER_MAPPING[adapter_config.peft_type]
    return config.model_type not in getattr(tuner, "target_module_mapping", {config.model_type})


def try_virtual_tokens(model) -> None:
    """Fail now where the model cannot take virtual tokens: without a cache, or with embeddings of another size."""
    ids = torch.ones(1, 3, dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        model(**inputs, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))


def _is_norm(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith("Norm") and any(True for _ in module.parameters(recurse=False))


def drop_virtual_logits(model) -> None:
    """Take the logits of virtual tokens away where they stand before those of the input, so that labels fit again."""
    config = model.active_peft_config
    if not config.is_prompt_learning or config.task_type not in ("TOKEN_CLS", "CAUSAL_LM"):
        return

    def drop(module, args, kwargs, outputs):
        inputs = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        outputs["logits"] = outputs["logits"][:, -inputs.size(1) :]
        return outputs

    model.register_forward_hook(drop, with_kwargs=True)


def find_unmerged_adapter(directory: str | Path) -> Path | None:
    """The adapter of a result directory that has no weights at the top, because they cannot be merged."""
    directory = Path(directory).expanduser()
    adapter = directory / ADAPTER_DIRECTORY
    has_weights = any(directory.glob("*.safetensors")) or any(directory.glob("pytorch_model*.bin"))
    return adapter if (adapter / "adapter_config.json").is_file() and not has_weights else None


def read_base_name(adapter: Path) -> str:
    """The hub id or directory of the model that an adapter was trained for."""
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]


def put_adapter(base: PreTrainedModel, directory: Path):
    """`base` with the adapter that `directory` holds, for use and not for training."""
    import peft

    with warnings.catch_warnings():
        # AdaLoRA's names in it are not those that PEFT's check knows; they are found where the ranks are cut (0.21).
        warnings.filterwarnings("ignore", "The following rank_pattern keys did not match")
        model = peft.PeftModel.from_pretrained(base, str(directory))
    drop_virtual_logits(model)
    return model.eval()


def merge_adapter(model) -> PreTrainedModel:
    """The base with the adapter in its weights, and the trained head in place of its own."""
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    for name, part in list(base.named_modules()):
        if isinstance(part, ModulesToSaveWrapper):
            # All but LoRA's class look for the weight of a head, and one of several layers has none (PEFT 0.21).
            base.set_submodule(name, part.modules_to_save[model.active_adapter])
    return model.merge_and_unload()


def has_ranks_to_prune(model) -> bool:
    """Whether the adapter is AdaLoRA's."""
    return hasattr(getattr(model, "base_model", None), "rankallocator")


def plan_ranks(model, steps: int) -> None:
    """Set AdaLoRA's budget for a training of so many steps."""
    config = model.active_peft_config
    config.tinit, config.tfinal = round(WARMUP_SHARE * steps), round(FINAL_SHARE * steps)
    config.deltaT = max(steps // 100, 1)
    model.base_model.rankallocator.set_total_step(steps)


def compute_orthogonality(model) -> torch.Tensor:
    """How far AdaLoRA's P and Q are from orthogonal, the mean over them, times its weight (Zhang et al. 2023, eq. 4).

    PEFT adds it to a loss that the model computes; ours is computed outside.
    """
    distances = []
    for name, weights in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            product = weights @ weights.T if ".lora_A." in name else weights.T @ weights
            distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
    return model.active_peft_config.orth_reg_weight * torch.stack(distances).mean()


def mark_kept_ranks(model) -> None:
    """Note which of AdaLoRA's ranks are not 0, which are all that PEFT saves.

    What it notes while training is the last pruning's choice; in a best model of before the end ranks have grown since.
    """
    model.active_peft_config.rank_pattern = {
        name: (weights != 0).view(-1).tolist()
        for name, weights in model.base_model.model.named_parameters()
        if ".lora_E." in name
    }


def hides_state(model) -> bool:
    """Whether PEFT saves less than training goes on from: P-tuning's network, AdaLoRA's pruned ranks and scores."""
    config = getattr(model, "active_peft_config", None)
    return config is not None and config.peft_type.value in ("P_TUNING", "ADALORA")


def save_hidden_state(model, directory: str | Path) -> None:
    """Write what such a training goes on from into a checkpoint."""
    trained = {name: weights.detach() for name, weights in model.named_parameters() if weights.requires_grad}
    state = {"weights": trained}
    if has_ranks_to_prune(model):
        allocator = model.base_model.rankallocator
        state |= {name: getattr(allocator, name) for name in RANK_SCORES}
        state["rank_pattern"] = model.active_peft_config.rank_pattern
    torch.save(state, Path(directory) / STATE_FILE)


def load_hidden_state(model, directory: str | Path) -> None:
    """Put it back."""
    state = torch.load(Path(directory) / STATE_FILE, map_location="cpu", weights_only=True)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in state["weights"].items():
            weights[name].copy_(values)
    if has_ranks_to_prune(model):
        device = next(model.parameters()).device
        for name in RANK_SCORES:
            scores = {key: values.to(device) for key, values in state[name].items()}
            setattr(model.base_model.rankallocator, name, scores)
        model.active_peft_config.rank_pattern = state["rank_pattern"]
