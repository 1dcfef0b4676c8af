"""The numbers that an argument may be, checked where it is read: a mistake is told with the file and line it is in."""

from math import inf
from typing import NamedTuple


class Range(NamedTuple):
    """An interval of numbers; `others` are single values beside it."""

    low: float
    high: float = inf
    holds_low: bool = True
    holds_high: bool = True
    others: tuple[float, ...] = ()
    cure: str = ""

    def holds(self, value: float) -> bool:
        """Whether `value` is one of them; NaN never is."""
        is_above = value >= self.low if self.holds_low else value > self.low
        is_below = value <= self.high if self.holds_high else value < self.high
        return (is_above and is_below) or value in self.others

    def describe(self) -> str:
        """The interval in words, as in "above 0 and at most 1"."""
        words = [f"at least {self.low:g}" if self.holds_low else f"above {self.low:g}"]
        if self.high < inf:
            words.append(f"at most {self.high:g}" if self.holds_high else f"below {self.high:g}")
        return " and ".join(words) + "".join(f", or {value:g}" for value in self.others) + self.cure


ONE, ZERO, POSITIVE, SHARE = Range(1), Range(0), Range(0, holds_low=False), Range(0, 1, holds_high=False)
RANGES = {
    # of TrainingArguments
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
         "eval_accumulation_steps", "save_total_limit", "torch_empty_cache_steps", "dataloader_prefetch_factor",
         "ddp_timeout", "early_stopping_patience"), ONE),
    **dict.fromkeys(("save_steps", "eval_steps", "logging_steps", "adam_epsilon"), POSITIVE),
    **dict.fromkeys(
        ("weight_decay", "max_grad_norm", "warmup_steps", "seed", "data_seed", "dataloader_num_workers", "eval_delay",
         "early_stopping_threshold"), ZERO),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), SHARE),
    # A larger one is a slip like 5e5: no optimizer here takes it.
    "learning_rate": Range(0, 1),
    "num_train_epochs": POSITIVE._replace(cure="; to evaluate without training, leave out do_train"),
    "max_steps": Range(1, others=(-1,), cure=" (num_train_epochs decides)"),
    # of models and data
    **dict.fromkeys(("vocab_size", "lora_alpha", "preprocessing_num_workers"), ONE),
    "lora_dropout": SHARE,
    "layerwise_lr_decay": Range(0, 1, holds_low=False),
    # of the recipes
    **dict.fromkeys(
        ("max_seq_length", "max_source_length", "max_target_length", "max_answer_length", "n_best_size",
         "max_train_samples_per_class"), ONE),
    **dict.fromkeys(("doc_stride", "focal_gamma", "lead_sentences", "min_new_tokens", "no_repeat_ngram_size"), ZERO),
    "repetition_penalty": POSITIVE,
    # of runs that are broken off
    "watchdog_seconds": ZERO,
    "max_nonfinite_steps": ONE,
}  # fmt: skip


def find_fault(name: str, value) -> str | None:
    """What is wrong with the value of an argument, or None; only numbers have a range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name not in RANGES or not is_number or RANGES[name].holds(value):
        return None
    return f"is {value:g}: it must be {RANGES[name].describe()}"
