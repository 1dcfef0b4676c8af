"""Where the rows of each split come from: files, globs, a directory or the hub."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.arguments import DataArguments
from common.console import say
from common.errors import UserError
from common.files import READERS, list_rows, read_parallel_rows, read_rows
from common.hub import find_hub_id, load_hub_dataset
from common.lines import Complaints


class Source(NamedTuple):
    """A file or a hub split: (line, row) pairs to read once, and the list of its faults."""

    rows: Iterator[tuple[int, dict]]
    complaints: Complaints


# The names that a split goes by; the first is the one to recommend.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


def find_sources(
    data_args: DataArguments, splits: Sequence[str], parallel: tuple[str, str] | None = None
) -> dict[str, list[Source]]:
    """The sources of each wanted split; only validation may be missing from them, to be made from train.

    `parallel` are the suffixes of two text files that belong together line by line, as in train.en and train.de.
    """
    files = {split: getattr(data_args, f"{split}_file") for split in splits}
    sources = {split: _open_files(paths, f"{split}_file", parallel) for split, paths in files.items() if paths}
    missing = [split for split in files if split not in sources]
    if data_args.dataset_name and missing:
        directory = Path(data_args.dataset_name).expanduser()
        if directory.is_file():
            raise UserError(f"dataset_name {directory} is a file; give it as {missing[0]}_file.")
        is_local = directory.is_dir()
        found = _search_directory(directory, missing, parallel) if is_local else _search_hub(data_args, missing)
        sources |= found
    for split in missing:
        if split not in sources and not (split == "validation" and "train" in files):
            raise UserError(f"No {split} rows: {_name_cure(data_args, split)}.")
    return sources


def _name_cure(data_args: DataArguments, split: str) -> str:
    if data_args.dataset_name is None:
        return f"set {split}_file"
    if Path(data_args.dataset_name).expanduser().is_dir():
        return f"put {split}.jsonl (or another of {', '.join(READERS)}) into {data_args.dataset_name}"
    return f"set {split}_split to a split of {data_args.dataset_name}"


def find_files(patterns: list[str], flag: str) -> list[Path]:
    """The files that paths and globs name, in their order; UserError where a pattern names none, or one twice."""
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path]
        if glob.has_magic(pattern) and not path.exists():
            # Not Path.glob: it would also find the hidden files that some systems put beside each file.
            matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        if not matches:
            raise UserError(f"{flag} {pattern}: no file in {Path.cwd()} matches; check the pattern.")
        repeated = [path for path in matches if path in paths]
        if repeated:
            raise UserError(f"{flag} names {repeated[0]} twice; name it once.")
        paths += matches
    return paths


def _open_files(patterns: list[str], flag: str, parallel: tuple[str, str] | None = None) -> list[Source]:
    paths = find_files(patterns, flag)
    return [_open_file(path) for path in paths] if parallel is None else _open_parallel_files(paths, parallel)


def _open_file(path: Path) -> Source:
    complaints = Complaints(str(path))
    return Source(read_rows(path, complaints), complaints)


def _open_parallel_files(paths: list[Path], parallel: tuple[str, str]) -> list[Source]:
    """The sources of the paths; a text file of one language is read together with that of the other."""
    source_suffix, target_suffix = (f".{language}" for language in parallel)
    sources = []
    for path in paths:
        if path.suffix == source_suffix:
            partner = path.with_suffix(target_suffix)
            complaints = Complaints(str(path))
            rows = read_parallel_rows(path, partner if partner in paths else None, parallel, complaints)
            sources.append(Source(rows, complaints))
        elif path.suffix != target_suffix:
            sources.append(_open_file(path))
        elif path.with_suffix(source_suffix) not in paths:
            raise UserError(f"{path}: its other half {path.with_suffix(source_suffix).name} is not named; name both.")
    return sources


def _search_directory(
    directory: Path, splits: list[str], parallel: tuple[str, str] | None = None
) -> dict[str, list[Source]]:
    sources = {}
    for split in splits:
        pairs = [[directory / f"{name}.{language}" for language in parallel or ()] for name in SPLIT_NAMES[split]]
        pair = next((paths for paths in pairs if paths and paths[0].is_file()), None)
        if pair is not None:
            sources[split] = _open_parallel_files([path for path in pair if path.is_file()], parallel)
            continue
        paths = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in READERS]
        paths = [path for path in paths if path.stem in SPLIT_NAMES[split]]
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{directory}: {names} could all be the {split} rows; name one with {split}_file.")
        if paths:
            sources[split] = [_open_file(paths[0])]
    return sources


def _search_hub(data_args: DataArguments, splits: list[str]) -> dict[str, list[Source]]:
    hub_id = find_hub_id(data_args.dataset_name)
    config, revision = data_args.dataset_config_name, data_args.dataset_revision
    loaded = load_hub_dataset(hub_id, config, revision, data_args.streaming)
    sources = {}
    for split in splits:
        wanted = getattr(data_args, f"{split}_split")
        names = SPLIT_NAMES[split] if wanted == split else (wanted,)
        name = next((name for name in names if name in loaded), None)
        if name is not None:
            if name != wanted:
                say(f"{split}: the split {name} of {hub_id}.")
            found = loaded[name]
            if found.features is None:  # of a stream whose files do not tell
                found = found._resolve_features()
            tables = found.with_format("arrow").iter(batch_size=1000)
            rows = enumerate(list_rows(tables, found.features))
            sources[split] = [Source(rows, Complaints(f"{hub_id}[{name}]", separator=" row "))]
        elif wanted != "validation":
            other = " or set test_file" if split == "test" else ""
            known = ", ".join(loaded)
            raise UserError(f"{hub_id} has no split {wanted!r}; set {split}_split to one of {known}{other}.")
    return sources
