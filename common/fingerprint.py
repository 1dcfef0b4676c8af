"""Which run a checkpoint is of: its settings, data, model and rows a step, compared before a run goes on with it."""

from pathlib import Path

from common.errors import UserError
from common.overview import count_rows_per_step
from common.provenance import compute_sha256, describe_data
from common.recovery_arguments import NOT_PART_OF_A_RUN

import yaml

# Compared by what they come to: the rows of an optimizer step, and what the files hold.
COMPARED_BY_CONTENT = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "auto_find_batch_size", "train_file",
    "validation_file", "test_file",
}  # fmt: skip
MODEL_FILES = ("config.json", "*.safetensors", "*.bin", "tokenizer*.json", "*.model", "vocab.*", "merges.txt")


def identify_run(training_args) -> dict:
    """Everything that decides what a run computes; two runs of equal dicts compute the same."""
    settings = yaml.safe_load(training_args.config_text) or {}
    model = settings.get("model_name_or_path")
    identity = {
        "settings": {
            name: settings[name] for name in sorted(settings.keys() - NOT_PART_OF_A_RUN - COMPARED_BY_CONTENT)
        },
        "rows_per_step": count_rows_per_step(training_args),
        "processes": training_args.world_size,
        "data": digest_data(settings),
    }
    if model is not None and Path(model).expanduser().is_dir():
        del identity["settings"]["model_name_or_path"]
        identity["model"] = digest_model(Path(model).expanduser())
    return identity


def digest_data(settings: dict) -> dict[str, str | None]:
    """The SHA-256 of each data file by its name, wherever the files lie, and the revision of a hub dataset."""
    data = describe_data(settings)
    digests = data.pop("sha256")
    are_unique = len({Path(path).name for path in digests}) == len(digests)
    return data | {Path(path).name if are_unique else path: digest for path, digest in digests.items()}


def digest_model(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file of a model and its tokenizer, by its name."""
    paths = sorted({path for pattern in MODEL_FILES for path in directory.glob(pattern)})
    return {path.name: compute_sha256(path) for path in paths}


def list_differences(there: dict, here: dict) -> dict[str, str]:
    """What differs between the identities of two runs, as name -> `name: there -> here`."""
    pairs = _pair(there.get("settings", {}), here["settings"])
    pairs |= _pair(*({name: run.get(name) for name in ("rows_per_step", "processes")} for run in (there, here)))
    said = {name: f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new}
    for part in ("data", "model"):
        old, new = there.get(part) or {}, here.get(part) or {}
        changed = [name for name, (one, other) in _pair(old, new).items() if one != other]
        if changed:
            said[part] = f"{part}: {', '.join(changed)} {'holds' if len(changed) == 1 else 'hold'} something else"
    return said


def _pair(there: dict, here: dict) -> dict[str, tuple]:
    return {name: (there.get(name), here.get(name)) for name in sorted(there.keys() | here.keys())}


def refuse_differences(place: Path, differences: dict[str, str], allowed: list[str] | None, cure: str) -> None:
    """UserError where more differs than is allowed; the flag that allows it is named."""
    refused = {name: text for name, text in differences.items() if name not in (allowed or [])}
    if refused:
        raise UserError(
            f"{place} with other settings ({'; '.join(refused.values())}): {cure}, or go on with the new "
            f"value from here: --allow_change {' '.join(refused)}."
        )
