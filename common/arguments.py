"""The arguments that all recipes share; each recipe adds one dataclass of its own.

A field's help sentence, type and default are written here once: `--help`, the YAML files and `config.yaml` follow it.
"""

import os
import re
from dataclasses import dataclass, fields
from typing import Literal

from common.batch_arguments import BatchArguments
from common.best_score import check_best_model
from common.errors import UserError
from common.launching import check_deepspeed_file
from common.model_names import check_model_names
from common.options import option
from common.recovery_arguments import RecoveryArguments
from common.tracking_arguments import TrackingArguments

import torch
import transformers
from transformers.trainer_utils import HubStrategy

PROMPT_METHODS = ("prefix", "prompt", "p_tuning")  # virtual tokens before the input, or before every layer's keys
PEFT_OPTIONS = {  # option -> the methods that read it
    "target_modules": ("lora", "adalora", "ia3", "vera", "oft", "boft", "ln_tuning"),
    "lora_r": ("lora", "adalora"),
    "lora_alpha": ("lora", "adalora"),
    "lora_dropout": ("lora", "adalora"),
    "use_rslora": ("lora",),
    "use_dora": ("lora",),
    "init_lora_weights": ("lora",),
    "num_virtual_tokens": PROMPT_METHODS,
}


@dataclass
class ModelArguments:
    """Which model is trained, and which of its weights."""

    model_name_or_path: str | None = option(None, "Hub id (namespace/name) or local directory of the pretrained model.")
    from_scratch: str | None = option(
        None,
        "Instead of a pretrained model: a new one of this size (encoder_tiny, encoder_small, encoder_decoder_tiny, "
        "encoder_decoder_small, decoder_tiny, decoder_small).",
    )
    vocab_size: int = option(8000, "With from_scratch: most pieces that the tokenizer learns from the texts.")
    tokenizer_name_or_path: str | None = option(None, "Tokenizer, where it is not the one of model_name_or_path.")
    model_revision: str = option("main", "Branch, tag or commit of the model on the hub.")
    cache_dir: str | None = option(None, "Where downloads are kept instead of HF_HOME.")
    trust_remote_code: bool = option(False, "Run Python code that the model brings. Read it, and pin model_revision.")
    allow_pickle: bool = option(
        False, "Load pytorch_model.bin where there is no model.safetensors. A pickle can run code."
    )
    attn_implementation: str | None = option(
        None, "Attention: sdpa, eager, flash_attention_2. Default: the model's choice."
    )
    freeze: str | None = option(
        None,
        "Weights that stay as they are: embeddings (a tied lm_head with them), backbone (all but the head), or "
        "first_<k>_layers (the embeddings and the lowest k layers, of an encoder-decoder those of the encoder).",
    )
    use_peft: bool = option(False, "Train an adapter and the head, not all weights.")
    peft_method: Literal[
        "lora", "adalora", "prefix", "prompt", "p_tuning", "ia3", "vera", "oft", "boft", "ln_tuning"
    ] = option("lora", "With use_peft: the method. README.md has a table of what serves which recipe.")
    target_modules: list[str] | None = option(
        None,
        "Layers that get an adapter, by the end of their names, or all-linear. Default: PEFT's choice for the "
        "architecture, or all-linear where it has none. Not for prefix, prompt and p_tuning.",
    )
    lora_r: int = option(16, "Rank of the LoRA matrices; of adalora: on average, at the end.")
    lora_alpha: int = option(32, "The update of lora and adalora is multiplied by lora_alpha / lora_r.")
    lora_dropout: float = option(0.05, "Dropout on the input of the matrices of lora and adalora.")
    use_rslora: bool = option(False, "With lora: multiply by lora_alpha / sqrt(lora_r), for high ranks.")
    use_dora: bool = option(False, "With lora: learn the magnitude of the weights apart from their direction (DoRA).")
    init_lora_weights: Literal["default", "pissa"] = option(
        "default", "With lora: start from zero, or from the strongest directions of the weights (pissa)."
    )
    num_virtual_tokens: int = option(20, "With prefix, prompt and p_tuning: how many tokens are learnt.")
    load_in_4bit: bool = option(False, "Keep the frozen weights in 4 bits (QLoRA). Needs use_peft.")
    load_in_8bit: bool = option(False, "Keep the frozen weights in 8 bits. Needs use_peft.")
    license: str | None = option(None, "Licence of the trained model for its card, as the hub spells it (apache-2.0).")

    @property
    def quantizes(self) -> bool:
        """Whether the frozen weights are kept in 4 or 8 bits."""
        return self.load_in_4bit or self.load_in_8bit

    def __post_init__(self):
        if self.model_name_or_path and self.from_scratch:
            raise UserError("model_name_or_path and from_scratch exclude each other: give one of them.")
        if not self.model_name_or_path and not self.from_scratch:
            cure = "a hub id or directory, from_scratch to a preset, or config to a file with one, as configs/demo.yaml"
            raise UserError(f"No model: set model_name_or_path to {cure}.")
        if self.load_in_4bit and self.load_in_8bit:
            raise UserError("load_in_4bit and load_in_8bit exclude each other: give one of them.")
        if self.quantizes and not self.use_peft:
            bits = 4 if self.load_in_4bit else 8
            raise UserError(f"load_in_{bits}bit: {bits}-bit weights cannot be trained directly: set use_peft too.")
        check_model_names(self)
        self._check_peft()
        if self.use_peft and self.from_scratch:
            raise UserError("use_peft needs a pretrained model: an adapter on random weights learns nothing.")
        if self.freeze is not None and not re.fullmatch(r"embeddings|backbone|first_[1-9]\d*_layers", self.freeze):
            raise UserError(
                f"freeze must be embeddings, backbone or first_<k>_layers (like first_4_layers), not {self.freeze!r}."
            )
        if self.use_peft and self.freeze:
            raise UserError("use_peft already freezes the base model: leave out freeze.")
        if self.from_scratch and self.freeze:
            raise UserError("freeze needs a pretrained model: frozen weights of from_scratch would be random for ever.")

    def _check_peft(self):
        """UserError for an option that the method does not read, and for methods that need the exact weights."""
        method = self.peft_method if self.use_peft else None
        for option_field in fields(self):
            readers = PEFT_OPTIONS.get(option_field.name)
            if readers and method not in readers and getattr(self, option_field.name) != option_field.default:
                said = f"peft_method is {method}" if method else "use_peft is not set"
                raise UserError(
                    f"{option_field.name} is read by {', '.join(readers)}, but {said}: leave it out, or change that."
                )
        if self.quantizes and method in ("boft", "ln_tuning"):
            raise UserError(f"peft_method {method} needs weights in full precision: leave out load_in_4bit / 8bit.")
        if self.quantizes and self.init_lora_weights == "pissa":
            raise UserError(
                "init_lora_weights pissa splits the exact weights, 4 or 8 bits do not hold them: leave one of them out."
            )
        if self.num_virtual_tokens < 1 or self.lora_r < 1:
            raise UserError("num_virtual_tokens and lora_r must be at least 1.")


@dataclass
class DataArguments:
    """Where the rows come from: a hub dataset, or local files (json, jsonl, csv, tsv, parquet, conll)."""

    dataset_name: str | None = option(
        None, "Hub id (namespace/name) of the dataset, or a local directory of data files."
    )
    dataset_config_name: str | None = option(None, "Configuration of the hub dataset.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the hub dataset.")
    train_split: str = option("train", "Name of the hub dataset's training split.")
    validation_split: str = option("validation", "Name of its validation split.")
    test_split: str = option("test", "Name of its test split.")
    train_file: list[str] | None = option(None, "Training files or globs.")
    validation_file: list[str] | None = option(None, "Validation files or globs.")
    test_file: list[str] | None = option(None, "Files or globs to predict; labels are optional in them.")
    validation_split_percentage: float = option(
        10.0, "Percent of the training rows taken for validation where there is no split."
    )
    max_train_samples: int | None = option(None, "Use only the first N training rows.")
    max_eval_samples: int | None = option(None, "Use only the first N validation rows.")
    max_predict_samples: int | None = option(None, "Use only the first N test rows.")
    max_chars: int = option(2_000_000, "Most characters of a row's text: more are refused, as rows joined by mistake.")
    preprocessing_num_workers: int | None = option(None, "Processes that tokenize. Default: one.")
    overwrite_cache: bool = option(False, "Prepare the rows anew, also where the cache has them from an earlier run.")
    streaming: bool = option(
        False,
        "Read the training rows while training, for data larger than the disk. Needs max_steps. Labels and what is "
        "printed come from the first streaming_buffer_size rows.",
    )
    streaming_buffer_size: int = option(
        10_000, "With streaming: how many rows are read, checked, prepared, shuffled and grouped by length at once."
    )
    language: str | None = option(None, "Language code of the texts (en, zh, ...), kept in recipe.json and the card.")

    def __post_init__(self):
        if self.dataset_name and (self.train_file or self.validation_file):
            raise UserError("dataset_name and train_file / validation_file exclude each other: give one of them.")
        if not (self.dataset_name or self.train_file or self.validation_file or self.test_file):
            raise UserError("No data: set dataset_name, or train_file / validation_file / test_file.")
        if not 0 < self.validation_split_percentage < 100:
            raise UserError(
                f"validation_split_percentage must lie between 0 and 100: {self.validation_split_percentage}."
            )
        for name in ("max_train_samples", "max_eval_samples", "max_predict_samples", "max_chars"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1: leave it out to use every row.")


@dataclass
class GenerationArguments:
    """How texts are generated, in every evaluation alike; what is left out is as the checkpoint has it."""

    num_beams: int | None = option(None, "Beams of the search; 1 takes the likeliest piece each time.")
    max_new_tokens: int | None = option(
        None,
        "Most pieces of a generated text. Default: max_target_length; in dialogues the checkpoint's, or 256.",
    )
    min_new_tokens: int | None = option(None, "Fewest pieces of a generated text.")
    no_repeat_ngram_size: int | None = option(None, "Never generate this many pieces in a row twice (0: no limit).")
    length_penalty: float | None = option(None, "Above 0 beams prefer longer texts, below 0 shorter ones.")
    repetition_penalty: float | None = option(None, "Above 1 makes pieces that are already there less likely.")

    def __post_init__(self):
        if self.num_beams is not None and self.num_beams < 1:
            raise UserError(f"num_beams must be at least 1, not {self.num_beams}.")
        if self.num_beams == 1 and self.length_penalty is not None:
            raise UserError("length_penalty weighs beams against each other: set num_beams above 1, or leave it out.")
        shortest, longest = self.min_new_tokens or 0, self.max_new_tokens
        if longest is not None and (longest < 1 or longest < shortest):
            raise UserError(f"max_new_tokens is {longest}: it must be at least 1 and at least min_new_tokens.")


@dataclass
class RunArguments(RecoveryArguments, BatchArguments):
    """What this project adds to Hugging Face's TrainingArguments, and the defaults that it turns round."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "What the model computes in: auto (bfloat16 where the hardware has it, else float32), float32, "
        "bfloat16 or float16. Trained weights are kept in float32 whatever the checkpoint was saved in.",
    )
    dry_run: bool = option(
        False, "Stop after the start screen, one training step, one evaluation batch, a save and a reload."
    )
    layerwise_lr_decay: float | None = option(
        None,
        "Learning rate of each layer as a share of that of the layer above, like 0.9: the head has learning_rate, the "
        "embeddings the lowest. Default: one rate for all.",
    )
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without a better metric_for_best_model."
    )
    early_stopping_threshold: float = option(0.0, "How much better an evaluation must be to count for early stopping.")
    # Hugging Face's default replaces a NaN loss by the running average in every log, so a broken run looks healthy.
    logging_nan_inf_filter: bool = option(False, "Hide NaN and infinite losses in the logs.")
    # Without it the patience of early stopping starts again at every resume.
    restore_callback_states_from_checkpoint: bool = option(
        True, "Restore the state of the callbacks when a run is resumed."
    )

    # Hugging Face's default uploads output_dir, predictions of the user's rows included, at every checkpoint.
    hub_strategy: HubStrategy | str = option(
        "end",
        "When push_to_hub uploads: end. every_save, checkpoint and all_checkpoints would upload what is not finished, "
        "and are refused.",
    )
    # Hugging Face's default searches the graph for them at every step; no model of these recipes has any.
    ddp_find_unused_parameters: bool | None = option(
        False, "Let parameters be without gradient where several processes train."
    )

    def __post_init__(self):
        if not self.use_cpu and not torch.accelerator.is_available():
            # Two processes started without it on a machine without accelerator would be two separate trainings.
            self.use_cpu = True
        chosen_elsewhere = self.bf16 or self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
        if chosen_elsewhere and self.dtype != "auto":
            raise UserError(
                f"dtype {self.dtype} and bf16 / fp16 / accelerate's mixed_precision both set the precision: "
                "leave dtype at auto or drop the other."
            )
        if not chosen_elsewhere:
            self.bf16 = self.dtype == "bfloat16" or (self.dtype == "auto" and computes_bfloat16_natively(self.use_cpu))
            self.fp16 = self.dtype == "float16"
        if self.fp16 and self.use_cpu:
            raise UserError("float16 has no use on a CPU: set dtype to bfloat16, float32 or auto.")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise UserError("early_stopping_patience needs load_best_model_at_end: true, else the last model is kept.")
        check_best_model(self)
        self.check_batches()
        check_deepspeed_file(self)
        super().__post_init__()


@dataclass
class TrainingArguments(RunArguments, TrackingArguments, transformers.TrainingArguments):
    """Hugging Face's TrainingArguments with this project's additions."""


@dataclass
class Seq2SeqTrainingArguments(RunArguments, TrackingArguments, transformers.Seq2SeqTrainingArguments):
    """Hugging Face's Seq2SeqTrainingArguments with this project's additions; evaluation generates texts."""

    predict_with_generate: bool = option(
        True, "Generate while training, too, for scores of texts; false: only the loss until the final evaluation."
    )

    def __post_init__(self):
        for name, cure in {
            "generation_max_length": "set max_new_tokens or max_target_length",
            "generation_num_beams": "set num_beams",
            "generation_config": "set num_beams, max_new_tokens and the like; the rest is taken from the checkpoint",
        }.items():
            if getattr(self, name) is not None:
                raise UserError(f"{name} would make evaluation and prediction differ: {cure}.")
        if self.sortish_sampler:
            raise UserError("sortish_sampler has no effect: set train_sampling_strategy to group_by_length.")
        wanted = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if wanted == "perplexity" and self.greater_is_better is None:
            self.greater_is_better = False  # Hugging Face takes every score but a loss for better the greater it is
        if wanted not in ("loss", "perplexity") and not self.predict_with_generate:
            raise UserError(
                f"metric_for_best_model {wanted} needs generated texts: set predict_with_generate, or choose loss."
            )
        super().__post_init__()


def computes_bfloat16_natively(use_cpu: bool) -> bool:
    """Whether the device has bfloat16 arithmetic of its own (emulated bfloat16 is slower than float32)."""
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not use_cpu:
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
