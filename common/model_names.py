"""The names of models: directories that must be there, hub ids, and the code that may come with either."""

import re
from pathlib import Path

from common.errors import UserError

import transformers
from transformers.models.auto.tokenization_auto import get_tokenizer_config


def check_model_names(model_args) -> None:
    """UserError for a model directory that is not there, and for code from the hub that could change unread."""
    for flag in ("model_name_or_path", "tokenizer_name_or_path"):
        name = getattr(model_args, flag)
        if name is None:
            continue
        check_directory(name, f"{flag} ")
        is_pinned = is_local(name) or re.fullmatch(r"[0-9a-f]{40}", model_args.model_revision)
        if model_args.trust_remote_code and not is_pinned:
            raise UserError(
                f"trust_remote_code runs what the owner of {name} last uploaded, and model_revision "
                f"{model_args.model_revision} moves: set model_revision to the commit (40 hexadecimal digits) whose "
                "code you have read, or give a local directory."
            )


def is_local(name: str) -> bool:
    """Whether a model is a directory, there or not, and no hub id."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()


def check_directory(name: str, flag: str = "") -> None:
    """UserError for a directory that is not there; it names the flag that the name was given with."""
    if is_local(name) and not Path(name).expanduser().is_dir():
        place = Path(name).expanduser().resolve()
        raise UserError(f"{flag}{name}: no such model directory (looked at {place}).")


def refuse_foreign_code(name: str, model_args) -> None:
    """UserError where a model's code lies in another repository, which model_revision does not pin."""
    settings = {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir}
    path = str(Path(name).expanduser()) if is_local(name) else name
    try:
        configs = [transformers.PreTrainedConfig.get_config_dict(path, **settings)[0]]
        configs.append(get_tokenizer_config(path, **settings))
    except OSError:  # what is missing is told by whoever loads it
        return
    for config in configs:
        for classes in (config.get("auto_map") or {}).values():
            for reference in classes if isinstance(classes, list) else [classes]:
                repository = (reference or "").rpartition("--")[0]
                if repository and repository != name:
                    raise UserError(
                        f"{name}: its code lies in another repository, {repository}, at no fixed commit: download both "
                        "and put the code beside the model, then give that directory."
                    )
