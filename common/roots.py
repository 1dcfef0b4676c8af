"""The directories that paths of the settings must lie in, where whoever writes the settings is not trusted."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

VARIABLE = "TRAINER_RECIPES_ROOTS"  # directories, with : between them as in PATH; without it every path is allowed


def check_roots(text: str, label: str) -> None:
    """UserError for a path, glob or directory that leads out of the roots, also by a link in it."""
    roots = [Path(root).expanduser().resolve() for root in os.environ.get(VARIABLE, "").split(os.pathsep) if root]
    if not roots:
        return
    path = Path(text).expanduser()
    matches = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (as common.sources)
    if not matches and not path.is_absolute() and ".." not in path.parts:
        return  # a hub id, or no path at all
    for reached in [path, *matches]:
        for file in _list_all(reached):
            if not any(file.resolve().is_relative_to(root) for root in roots):
                raise UserError(
                    f"{label} {text} leads to {file.resolve()}, which is in no directory of {VARIABLE} "
                    f"({os.pathsep.join(map(str, roots))}): give a path there, or add its directory."
                )


def _list_all(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")
