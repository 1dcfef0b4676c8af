"""What --help prints: the task's own arguments first, then the shared ones, then the training arguments most used."""

import dataclasses
import shutil
import sys
import textwrap
from pathlib import Path

from common.fields import Field, group_fields, name_wanted

# The training arguments that --help shows, where the class has them; --help_all shows the others too.
COMMON_TRAINING_ARGUMENTS = (
    "output_dir do_train do_eval do_predict learning_rate num_train_epochs max_steps per_device_train_batch_size "
    "per_device_eval_batch_size gradient_accumulation_steps train_sampling_strategy warmup_steps lr_scheduler_type "
    "weight_decay max_grad_norm label_smoothing_factor seed eval_strategy eval_steps predict_with_generate "
    "generation_max_length generation_num_beams save_strategy save_steps save_total_limit load_best_model_at_end "
    "metric_for_best_model greater_is_better logging_steps report_to run_name activation_checkpointing torch_compile "
    "push_to_hub hub_model_id"
).split()


def format_help(fields: dict[str, Field], show_all: bool) -> str:
    paragraph = (sys.modules["__main__"].__doc__ or "").strip().split("\n\n")[0]
    parts = [f"usage: {Path(sys.argv[0]).name} [--config FILE] [--flag value ...]", paragraph]
    hidden = 0
    for group, members in group_fields(fields):
        shown = members
        if group == "Training" and not show_all:
            shown = [fields[name] for name in COMMON_TRAINING_ARGUMENTS if name in fields]
            hidden = len(members) - len(shown)
        parts.append("\n".join([f"{group}:", *map(_format_entry, shown)]))
    others = [
        _wrap_entry("--config FILE", "A YAML file whose lines are flags without dashes. A flag wins over a line."),
        _wrap_entry("--print_config", "Print all arguments as such a file, and stop."),
    ]
    if not show_all:
        others.append(_wrap_entry("--help_all", f"Show the {hidden} other training arguments too."))
    return "\n\n".join(filter(None, [*parts, "\n".join(["Other:", *others])])) + "\n"


def _format_entry(field: Field) -> str:
    kinds = {"a whole number": "N", "a number": "X", "true or false": "[BOOL]"}
    kind = "NAME" if field.choices else "JSON" if field.takes_dict else kinds.get(name_wanted(field), "TEXT")
    text = field.help.replace(" Not directly used by Trainer; intended for training/evaluation scripts.", "")
    notes = []
    if not all(str(choice) in text for choice in field.choices or []):
        notes.append(name_wanted(field))
    if field.default is dataclasses.MISSING:
        notes.append("required")
    elif field.default not in (None, "", []):
        default = getattr(field.default, "value", field.default)
        notes.append(f"default: {str(default).lower() if isinstance(default, bool) else default}")
    note = f" ({'; '.join(notes)})" if notes else ""
    return _wrap_entry(f"--{field.name} {kind}{' ...' if field.takes_list else ''}", text + note)


def _wrap_entry(flag: str, text: str) -> str:
    """The flag, and its text in a column of its own (below a flag that is too long for that)."""
    width = max(60, min(shutil.get_terminal_size().columns, 119))
    column = textwrap.fill(text, width, initial_indent=" " * 36, subsequent_indent=" " * 36)
    return f"  {flag:<34}{column[36:]}" if len(flag) < 34 else f"  {flag}\n{column}"
