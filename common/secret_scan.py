"""Secrets in files that are about to be uploaded: found by what they look like, and by what the environment holds."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

# What the tokens of these services look like, as their owners document it.
PATTERNS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a W&B API key": r"\bwandb_v\d_[A-Za-z0-9_]{30,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "an OpenAI or Anthropic key": r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,}",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}
_KINDS = [(kind, re.compile(pattern)) for kind, pattern in PATTERNS.items()]
_SECRET_NAME = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?(?:_|$)", re.IGNORECASE)
FEWEST_CHARACTERS = 8  # of a variable's value: shorter ones stand in any text
BINARY = (".safetensors", ".png", ".model", ".npz", ".arrow", ".parquet")  # weights and pictures are not read


def find_secrets(
    directory: Path, names: Iterable[str], environment: Mapping[str, str] = os.environ
) -> list[tuple[str, str]]:
    """(path:line, kind) of each secret in these files of a directory; what it is, is never said."""
    values = {
        value: f"the value of {name}"
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and len(value) >= FEWEST_CHARACTERS and not Path(value).exists()
    }
    found = []
    for name in names:
        path = directory / name
        if path.suffix in BINARY:
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            for line, text in enumerate(file, start=1):
                kind = next((kind for value, kind in values.items() if value in text), None)
                kind = kind or next((kind for kind, pattern in _KINDS if pattern.search(text)), None)
                if kind:
                    found.append((f"{path}:{line}", kind))
    return found
