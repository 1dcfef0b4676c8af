"""Tokenizer and model: loaded or built, with the right head, label names, dtype, adapter and frozen layers."""

from collections.abc import Iterable
from pathlib import Path

from common.arguments import ModelArguments
from common.console import say
from common.errors import UserError
from common.from_scratch import PRESETS, build_config, train_tokenizer

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

# bitsandbytes would put these into 4 bits too; a head is new and has to be trained in full.
HEAD_NAMES = ["classifier", "pre_classifier", "score", "qa_outputs", "lm_head"]
# These models number their positions from padding_idx + 1 on, so that they have that many fewer than their config says.
OFFSET_POSITIONS = {
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert", "mpnet", "ibert",
    "longformer", "data2vec-text",
}  # fmt: skip
LONGEST_DEFAULT = 512


def load_tokenizer(model_args: ModelArguments, texts: Iterable[str] = ()) -> PreTrainedTokenizerBase:
    """The model's tokenizer or, from scratch, one learnt from `texts`."""
    if model_args.from_scratch and not model_args.tokenizer_name_or_path:
        return train_tokenizer(model_args.from_scratch, texts, model_args.vocab_size)
    name = model_args.tokenizer_name_or_path or model_args.model_name_or_path
    tokenizer = _load(AutoTokenizer.from_pretrained, name, model_args)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes where there are no files
        raise UserError(f"{name}: it has no tokenizer: set tokenizer_name_or_path.")
    tokenizer.padding_side = "right"  # the places of words and answers are counted from the left
    return tokenizer


def load_config(model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedConfig:
    """The model's configuration, before its head gets the labels of the data; from scratch it needs the tokenizer."""
    if model_args.from_scratch:
        return build_config(model_args.from_scratch, tokenizer)
    return _load(AutoConfig.from_pretrained, model_args.model_name_or_path, model_args)


def find_trained_labels(config: PreTrainedConfig, model_class) -> list[str] | None:
    """The label names that the checkpoint's head was trained on, in the order of its outputs; None without a head."""
    head = model_class.__name__.removeprefix("AutoModel")  # ForTokenClassification, ForSequenceClassification, ...
    if not any(name.endswith(head) for name in config.architectures or []):
        return None
    return [config.id2label[index] for index in sorted(config.id2label)]


def load_model(
    model_class,
    model_args: ModelArguments,
    training_args: transformers.TrainingArguments,
    config: PreTrainedConfig,
    label_names: list[str] | None = None,
    task_type: str | None = None,
) -> PreTrainedModel:
    """The model to train, its weights in float32 whatever the checkpoint's dtype, its head named by `label_names`.

    The head is new where the checkpoint has none, or one for other labels. `task_type` is PEFT's (TOKEN_CLS, ...).
    With use_peft the frozen weights are in the dtype that is computed in, or in 4 bits, and a LoRA adapter is added.
    """
    trained_labels = find_trained_labels(config, model_class)
    if label_names is not None:
        config.num_labels = len(label_names)
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    if model_args.from_scratch:
        if type(config) not in model_class._model_mapping:
            fitting = [name for kind, names in PRESETS.items() if kind in model_class._model_mapping for name in names]
            raise UserError(f"from_scratch {model_args.from_scratch} has no head for this: use {' or '.join(fitting)}.")
        model = model_class.from_config(config, attn_implementation=model_args.attn_implementation)
    else:
        model = _load(
            model_class.from_pretrained,
            model_args.model_name_or_path,
            model_args,
            config=config,
            dtype=_choose_frozen_dtype(training_args) if model_args.use_peft else torch.float32,
            attn_implementation=model_args.attn_implementation,
            use_safetensors=None if model_args.allow_pickle else True,
            ignore_mismatched_sizes=True,
            **(_quantize_to_4_bits(training_args) if model_args.load_in_4bit else {}),
        )
        if is_deepspeed_zero3_enabled():
            # Else what is saved gets the oldest names that loading knows: LayerNorm.gamma in BERT (transformers 5.23).
            model._weight_conversions = None
        if trained_labels is not None and label_names is not None and trained_labels != label_names:
            _replace_labels(model, trained_labels, label_names, training_args.do_train)
    if model_args.freeze_layers:
        freeze_lowest_layers(model, model_args.freeze_layers)
    return add_adapter(model, model_args, task_type) if model_args.use_peft else model


def add_adapter(model: PreTrainedModel, model_args: ModelArguments, task_type: str):
    """The model with a LoRA adapter; adapter and head are trained in float32, everything else is frozen."""
    import peft

    if model_args.load_in_4bit:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for module in model.modules():
            # On CPUs with AVX512-BF16 an evaluation repacks the 4-bit weights in place, and later gradients are wrong.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    targets = model_args.lora_target_modules
    all_linear = targets == ["all-linear"]
    # PEFT's class for question answering keeps token_type_ids and position_ids to itself (0.21): the model would read
    # question and context as one text. Its plain class hands on whatever it gets, and has to be told the head.
    is_question_answering = task_type == "QUESTION_ANS"
    adapter_config = peft.LoraConfig(
        task_type=None if is_question_answering else task_type,
        modules_to_save=["qa_outputs"] if is_question_answering else None,
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules="all-linear" if all_linear else targets,
        # The head is trained whole (modules_to_save): it cannot get a LoRA matrix as well.
        exclude_modules=HEAD_NAMES if all_linear else None,
    )
    try:
        model = peft.get_peft_model(model, adapter_config)
    except ValueError as error:
        raise UserError(f"PEFT cannot place the adapter: {error} Set lora_target_modules.") from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def freeze_lowest_layers(model: PreTrainedModel, number: int) -> None:
    """Freeze everything below the layers and the lowest `number` of them; the head stays trainable."""
    body = model.base_model
    layers = max((m for m in body.modules() if isinstance(m, torch.nn.ModuleList)), key=len, default=[])
    if not 0 <= number <= len(layers):
        raise UserError(f"freeze_layers is {number}, but the model has {len(layers)} layers.")
    embeddings = [module for name, module in body.named_modules() if "embed" in name.rpartition(".")[2]]
    for part in (*embeddings, body.get_input_embeddings(), *layers[:number]):
        part.requires_grad_(False)


def find_longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most pieces, special ones included, that model and tokenizer take at once; None without a limit."""
    limits = []
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        limits.append(positions - (config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0))
    # "No limit" is written as 10^30. T5 has none, whatever its tokenizer says: its positions are relative.
    if tokenizer.model_max_length < 1_000_000 and not hasattr(config, "relative_attention_num_buckets"):
        limits.append(tokenizer.model_max_length)
    return min(limits, default=None)


def choose_max_length(
    wanted: int | None,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    longest_default: int = LONGEST_DEFAULT,
    name: str = "max_seq_length",
) -> int:
    """`wanted` if the model can take it; without a wish what the model takes, at most `longest_default` pieces."""
    limit = find_longest_input(config, tokenizer)
    if wanted is None:
        return min(limit or longest_default, longest_default)
    smallest = tokenizer.num_special_tokens_to_add() + 2
    if wanted < smallest:
        raise UserError(f"{name} is {wanted}: it must be at least {smallest} to hold a word.")
    if limit is not None and wanted > limit:
        raise UserError(f"{name} is {wanted}, but the model takes {limit} pieces: set it to {limit} or less.")
    return wanted


def _load(loader, name: str, model_args: ModelArguments, **kwargs):
    """What `loader` returns for `name`; what goes wrong is told in terms of the arguments."""
    looks_local = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()
    if looks_local and not Path(name).expanduser().is_dir():
        raise UserError(f"{name}: no such model directory (looked at {Path(name).expanduser().resolve()}).")
    try:
        return loader(
            str(Path(name).expanduser()) if looks_local else name,
            revision=model_args.model_revision,
            cache_dir=model_args.cache_dir,
            trust_remote_code=model_args.trust_remote_code,
            **kwargs,
        )
    except (OSError, SafetensorError) as error:
        only_pickle = not looks_local or (Path(name).expanduser() / "pytorch_model.bin").exists()
        if only_pickle and "safetensors" in str(error) and not model_args.allow_pickle:
            cure = "set allow_pickle to load pytorch_model.bin, if you trust where it comes from"
        elif looks_local:
            cure = "give a directory that save_pretrained has written, or a hub id"
        else:
            cure = (
                "check the hub id (namespace/name) and the network; without network give a local directory, or set "
                "from_scratch"
            )
        raise UserError(f"{name}: the model cannot be loaded: {_first_sentence(error)}; {cure}.") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise UserError(f"{name}: the model cannot be loaded: {_first_sentence(error)}.") from error
        raise UserError(
            f"{name}: the model brings its own Python code, which is not run unasked; read it, then set "
            "trust_remote_code and pin model_revision."
        ) from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


def _choose_frozen_dtype(training_args) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training_args.mixed_precision, torch.float32)


def _quantize_to_4_bits(training_args) -> dict:
    """The from_pretrained arguments of QLoRA's NF4 weights (Dettmers et al. 2023), heads left as they are."""
    quantization_config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_choose_frozen_dtype(training_args),
        llm_int8_skip_modules=HEAD_NAMES,
    )
    return {"quantization_config": quantization_config, "device_map": {"": training_args.device}}


def _replace_labels(model: PreTrainedModel, trained: list[str], wanted: list[str], do_train: bool) -> None:
    """Training starts with a new head where it knew other labels; without training the wanted names are put on it."""
    if do_train:
        _renew_head(model)
        say(f"The checkpoint's head was trained on other labels ({', '.join(trained[:6])}): it starts anew.")
    elif len(trained) != len(wanted):
        raise UserError(f"{len(wanted)} labels are named, but the model has {len(trained)}: {', '.join(trained)}.")


def _renew_head(model: PreTrainedModel) -> None:
    """Initialise every module outside the base model anew, as for a checkpoint without a head."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            for part in module.modules():
                for parameter in part.parameters(recurse=False):
                    parameter._is_hf_initialized = False
                model._init_weights(part)
