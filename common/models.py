"""Tokenizer and model: loaded or built, with the right head, label names, dtype, adapter and frozen layers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

from common.adapters import add_adapter, check_adapter, find_unmerged_adapter, put_adapter, read_base_name
from common.arguments import PROMPT_METHODS, ModelArguments
from common.best_score import check_best_class
from common.checkpoints import MANIFEST, find_defect
from common.console import say
from common.errors import UserError
from common.freezing import freeze_parameters
from common.from_scratch import PRESETS, build_config, train_tokenizer
from common.model_names import check_directory, is_local, refuse_foreign_code
from common.sharding import prepare_for_fsdp, uses_fsdp

import torch
import transformers
from httpx2 import HTTPError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

# bitsandbytes would quantize these too; a head is new and has to be trained in full. Beginnings or ends of names, or
# regular expressions: BERT's pooler is part of its body, DeBERTa's is not.
HEAD_NAMES = ["classifier", "pre_classifier", "pooler", r".*\.pooler", "head", "score", "qa_outputs", "lm_head"]
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
    set_pad_token(tokenizer, name)
    return tokenizer


def set_pad_token(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let another special token fill up rows where there is none for it: masks and labels tell the two apart."""
    if tokenizer.pad_token is not None:
        return
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError(f"{name}: the tokenizer has no token to fill rows up with: set pad_token in its files.")
    say(f"{name}: the tokenizer has no pad token: {tokenizer.pad_token} fills rows up.")


def load_config(model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedConfig:
    """The model's configuration, before its head gets the labels of the data; from scratch it needs the tokenizer."""
    if model_args.from_scratch:
        return build_config(model_args.from_scratch, tokenizer)
    config = _load(AutoConfig.from_pretrained, model_args.model_name_or_path, model_args)
    if model_args.use_peft and model_args.peft_method in PROMPT_METHODS:
        config.num_virtual_tokens = (
            model_args.num_virtual_tokens
        )  # the positions that they take are the input's no more
    return config


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
    With use_peft the frozen weights are in the dtype that is computed in, or in 4 or 8 bits, and an adapter is added.
    """
    trained_labels = find_trained_labels(config, model_class)
    if label_names is not None:
        check_best_class(training_args, label_names)
        config.num_labels = len(label_names)
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    if model_args.from_scratch:
        if type(config) not in model_class._model_mapping:
            fitting = [name for kind, names in PRESETS.items() if kind in model_class._model_mapping for name in names]
            raise UserError(f"from_scratch {model_args.from_scratch} has no head for this: use {' or '.join(fitting)}.")
        model = model_class.from_config(config, attn_implementation=model_args.attn_implementation)
    elif (adapter := find_unmerged_adapter(model_args.model_name_or_path)) is not None:
        if training_args.do_train or model_args.use_peft:
            raise UserError(
                f"{model_args.model_name_or_path} holds an adapter that cannot be merged, for prediction: to train, "
                f"give the model that it was made for, {read_base_name(adapter)}."
            )
        base_args = replace(model_args, model_name_or_path=read_base_name(adapter))
        return put_adapter(load_weights(model_class, base_args, config, torch.float32), adapter)
    else:
        if model_args.use_peft:
            check_adapter(model_args, training_args, config, task_type)
        settings = _quantize(model_args, training_args) if model_args.quantizes else {}
        dtype = choose_frozen_dtype(training_args) if model_args.use_peft else torch.float32
        model = load_weights(model_class, model_args, config, dtype, **settings)
        if is_deepspeed_zero3_enabled():
            # Else what is saved gets the oldest names that loading knows: LayerNorm.gamma in BERT (transformers 5.23).
            model._weight_conversions = None
        if trained_labels is not None and label_names is not None and trained_labels != label_names:
            _replace_labels(model, trained_labels, label_names, training_args.do_train)
    if uses_fsdp(training_args):
        prepare_for_fsdp(model)
    if model_args.freeze:
        freeze_parameters(model, model_args.freeze)
    return add_adapter(model, model_args, task_type) if model_args.use_peft else model


def load_weights(model_class, model_args: ModelArguments, config: PreTrainedConfig, dtype: torch.dtype, **settings):
    """The pretrained model, its head new where the checkpoint has none of that shape."""
    return _load(
        model_class.from_pretrained,
        model_args.model_name_or_path,
        model_args,
        config=config,
        dtype=dtype,
        attn_implementation=model_args.attn_implementation,
        use_safetensors=None if model_args.allow_pickle else True,
        ignore_mismatched_sizes=True,
        **settings,
    )


def load_result(model_class, directory: str | Path, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """The model of a result directory, with the adapter in it where that could not be merged.

    UserError where a file of the model is not as the run wrote it.
    """
    if (Path(directory) / MANIFEST).is_file() and (defect := find_defect(Path(directory))):
        raise UserError(
            f"{directory}: {defect}. Copy the result again; if a file was changed on purpose, delete {MANIFEST}."
        )
    adapter = find_unmerged_adapter(directory)
    if adapter is None:
        return model_class.from_pretrained(directory, dtype=dtype)
    config = AutoConfig.from_pretrained(directory)
    base = model_class.from_pretrained(read_base_name(adapter), config=config, dtype=dtype)
    return put_adapter(base, adapter)


def choose_device() -> torch.device:
    """Where a trained model is used: the accelerator, or the CPU where there is none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def find_longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most pieces, special ones included, that model and tokenizer take at once; None without a limit."""
    limits = []
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        taken = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
        limits.append(positions - taken - getattr(config, "num_virtual_tokens", 0))
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
    check_directory(name)
    looks_local = is_local(name)
    if model_args.trust_remote_code:
        refuse_foreign_code(name, model_args)
    try:
        return loader(
            str(Path(name).expanduser()) if looks_local else name,
            revision=model_args.model_revision,
            cache_dir=model_args.cache_dir,
            trust_remote_code=model_args.trust_remote_code,
            **kwargs,
        )
    except UnpicklingError as error:
        raise UserError(
            f"{name}: pytorch_model.bin holds more than weights, and is not loaded: it could run code. Find out who "
            "made it, or take a model with safetensors."
        ) from error
    except (OSError, HTTPError, SafetensorError) as error:
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
            "trust_remote_code and, unless it is a local directory, model_revision to the commit that you have read."
        ) from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


def choose_frozen_dtype(training_args) -> torch.dtype:
    """What weights are kept in that an adapter leaves as they are: the dtype that is computed in."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training_args.mixed_precision, torch.float32)


def name_precision(training_args) -> str:
    """What is computed in, as torch calls it: bfloat16, float16 or float32."""
    return str(choose_frozen_dtype(training_args)).removeprefix("torch.")


def make_quantization_config(model_args: ModelArguments, training_args) -> transformers.BitsAndBytesConfig:
    """How weights are kept in 8 bits, or in QLoRA's NF4 (Dettmers et al. 2023); heads stay whole."""
    return transformers.BitsAndBytesConfig(
        load_in_8bit=model_args.load_in_8bit,
        load_in_4bit=model_args.load_in_4bit,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=choose_frozen_dtype(training_args),
        llm_int8_skip_modules=HEAD_NAMES,
    )


def _quantize(model_args: ModelArguments, training_args) -> dict:
    """The from_pretrained arguments of quantized weights."""
    # ZeRO 3 divides the weights itself, and from_pretrained refuses a device_map beside it.
    device_map = {} if is_deepspeed_zero3_enabled() else {"device_map": {"": training_args.device}}
    return {"quantization_config": make_quantization_config(model_args, training_args), **device_map}


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
