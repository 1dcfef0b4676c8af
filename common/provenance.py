"""What a run was made from: versions, hardware, commit and data, so that it can be told from every other run."""

import hashlib
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from common.hub import CANONICAL_IDS, HUB_ERRORS
from common.sources import find_files

import torch
from huggingface_hub import HfApi

PACKAGES = ("torch", "transformers", "datasets", "evaluate", "accelerate", "peft", "tokenizers")


def list_versions() -> dict:
    """Python's version, and those of the packages that decide what a run computes."""
    return {"python": platform.python_version(), "versions": {name: version(name) for name in PACKAGES}}


def describe_environment(training_args) -> dict:
    """Versions, devices, number of processes, and the commit of the folder that the recipe lies in."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        **list_versions(),
        "device": training_args.device.type,
        "gpus": gpus,
        "processes": training_args.world_size,
        "git": describe_checkout(Path(sys.argv[0]).resolve().parent),
    }


def describe_checkout(folder: Path) -> dict:
    """The commit that a folder is at, and whether files that git knows are changed; {} outside of a checkout."""

    def ask(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return {}


def describe_data(settings: dict) -> dict:
    """The revision of a hub dataset, or the sha256 of each local file, from the data arguments of a run."""
    files = [path for split in ("train", "validation", "test") for path in _list_files(settings[f"{split}_file"])]
    dataset = settings["dataset_name"]
    if dataset and Path(dataset).expanduser().is_dir():
        files += [path for path in sorted(Path(dataset).expanduser().iterdir()) if path.is_file()]
    elif dataset:
        return {"revision": find_revision(dataset, settings["dataset_revision"])} | _digest_files(files)
    return _digest_files(files)


def find_revision(dataset: str, wanted: str | None) -> str | None:
    """The commit of a hub dataset; what was wanted where the hub cannot be asked."""
    try:
        return HfApi().dataset_info(CANONICAL_IDS.get(dataset, dataset), revision=wanted, timeout=10).sha
    except HUB_ERRORS:
        return wanted


def _list_files(patterns: list[str] | None) -> list[Path]:
    return find_files(patterns, "") if patterns else []


def _digest_files(files: list[Path]) -> dict:
    return {"sha256": {str(path): compute_sha256(path) for path in files if path.is_file()}}


def compute_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
