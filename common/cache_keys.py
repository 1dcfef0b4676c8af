"""What decides the result of a mapping, as one key: the same in every process, another one where anything differs."""

import hashlib
import inspect
import json
import re
import site
import sys
import sysconfig
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import common

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PACKAGES = ("transformers", "tokenizers", "datasets", "pyarrow", "numpy", "sentencepiece", "tiktoken", "jinja2")
PLAIN = (type(None), bool, int, float, complex, str)
ROWS_AT_ONCE = 1000
# What changes while a tokenizer is used, and not what it makes.
USED_UP = {"_tokenizer", "deprecation_warnings", "verbose"}
# What the backend of a fast tokenizer was built from, and is in it: as long as the vocabulary.
BUILT_IN = {"_vocab", "_merges", "_vocab_scores", "vocab", "merges"}


class UnknownContentError(Exception):
    """Whether two such values are equal cannot be told between processes."""


def compute_key(rows: datasets.Dataset, function: Callable, arguments: dict) -> str | None:
    """32 digits that stand for what `function` makes of `rows` with these arguments; None where that cannot be told.

    They come from content: the rows, the arguments, the source texts of the function's module, of `common` and of
    every loaded module that no package manager installed, and the versions of the libraries.
    """
    try:
        parts = {
            "versions": [sys.version, *map(_find_version, PACKAGES)],
            "sources": _digest_sources(function),
            "function": _write_out(function),
            "arguments": _write_out(arguments),
            "rows": _write_out(rows),
        }
    except (UnknownContentError, RecursionError):
        return None
    return _digest_text(json.dumps(parts))[:32]


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_sources(function: Callable) -> list[list[str]]:
    """The name and digest of every file that is no library's: of `common`, the recipe, code that a model brought."""
    while isinstance(function, partial):
        function = function.func
    try:
        files = {Path(inspect.getfile(function))}
    except TypeError:
        raise UnknownContentError("its source is not known") from None
    files |= set(Path(common.__file__).parent.rglob("*.py"))
    installed = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed = (*(f"{path}/" for path in {*installed, *site.getsitepackages(), site.getusersitepackages()}), "<")
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")  # a lazy module would begin to load when it is asked
        if isinstance(file, str) and not file.startswith(installed) and PurePath(file).is_absolute():
            files.add(Path(file))
    try:
        # What was written after the process had begun is perhaps not what it has loaded.
        if any(path.stat().st_mtime > common.STARTED for path in files):
            raise UnknownContentError("a source was changed")
        return sorted([path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files)
    except OSError:
        raise UnknownContentError("a source cannot be read") from None


def _write_out(value) -> list:
    """The value as lists of texts, in which nothing depends on the process; UnknownContentError where that fails."""
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in PLAIN:
        return [name, repr(value)]
    if kind in (list, tuple) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return [name, *map(_write_out, value)]
    if kind in (dict, OrderedDict):
        return [name, *([_write_out(key), _write_out(content)] for key, content in value.items())]
    if kind in (set, frozenset):
        return [name, *sorted(map(_write_out, value), key=json.dumps)]
    if isinstance(value, partial):
        return [name, *map(_write_out, (value.func, value.args, value.keywords))]
    if kind is FunctionType:
        return [name, *_write_out_function(value, set())]
    if isinstance(value, Enum):
        return [name, value.name]
    if isinstance(value, datasets.Dataset):
        return [name, *_digest_rows(value)]
    if isinstance(value, PreTrainedTokenizerBase):
        return [name, *_write_out_tokenizer(value)]
    if is_dataclass(value) and not isinstance(value, type):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        return [name, _write_out(content | getattr(value, "__dict__", {}))]
    return [name, *_write_out_leaf(value)]


def _write_out_leaf(value) -> list[str]:
    if isinstance(value, bytes):
        return [value.hex()]
    if isinstance(value, re.Pattern):
        return [repr(value.pattern), str(value.flags)]
    if isinstance(value, PurePath):
        return [str(value)]
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        array = np.asarray(value)
        return [str(array.dtype), str(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, datasets.Features):
        return [repr(value)]
    if isinstance(value, AddedToken):
        return [json.dumps(value.__getstate__(), sort_keys=True)]
    if isinstance(value, Tokenizer):
        return _write_out_backend(value)
    raise UnknownContentError(type(value).__qualname__)


def _write_out_function(function: FunctionType, seen: set[str]) -> list:
    """Its name, its defaults, and the values of its module that it reads, also through the module's other functions.

    The texts of the sources do not tell those: a recipe may set them from an argument.
    """
    _require_name(function)
    if function.__closure__:
        raise UnknownContentError("a function made by another one")
    seen.add(function.__qualname__)
    written = [function.__qualname__, _write_out([function.__defaults__, function.__kwdefaults__])]
    for name in sorted(set(_list_names(function.__code__)) & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            continue
        if type(value) is FunctionType and value.__module__ == function.__module__:
            if value.__qualname__ not in seen:
                written.append([name, *_write_out_function(value, seen)])
        elif isinstance(value, type | FunctionType | BuiltinFunctionType) or hasattr(value, "__wrapped__"):
            written.append([name, _require_name(value)])
        else:
            written.append([name, _write_out(value)])
    return written


def _list_names(code: CodeType) -> Iterator[str]:
    """The names that the code reads, and those of functions and comprehensions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _list_names(constant)


def _require_name(value) -> str:
    """module.name of what a module holds under its own name; UnknownContentError where it is another one there."""
    found = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not value:
        raise UnknownContentError(value.__qualname__)
    return f"{value.__module__}.{value.__qualname__}"


def _digest_rows(rows: datasets.Dataset) -> list[str]:
    """The types of the columns and a digest of their content, however the rows lie in files and memory."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        sink = pa.BufferOutputStream()
        # Combined, because where one file ends and the next begins makes no difference.
        table = table.replace_schema_metadata(None).combine_chunks()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        digest.update(sink.getvalue())
    return [repr(rows.features), str(len(rows)), digest.hexdigest()]


def _write_out_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list:
    """All that decides which pieces it makes of a text, wherever it was loaded from."""
    is_fast = isinstance(tokenizer, PreTrainedTokenizerFast)
    written = _write_out_backend(tokenizer.backend_tokenizer) if is_fast else _digest_vocabulary(tokenizer)
    for name, value in sorted(vars(tokenizer).items()):
        if name in USED_UP or (is_fast and name in BUILT_IN):
            continue
        if is_fast and name == "init_kwargs":
            value = {key: setting for key, setting in value.items() if key not in BUILT_IN}
        try:
            if isinstance(value, dict):
                value = dict(sorted(value.items()))
            if isinstance(value, dict) and {*map(type, value)} <= {str} and {*map(type, value.values())} <= {int}:
                written.append([name, _digest_text(json.dumps(value))])  # a vocabulary, too long for what follows
            else:
                written.append([name, _write_out(value)])
        except (UnknownContentError, TypeError):
            if is_fast:
                raise UnknownContentError(name) from None
            # What a slow tokenizer built from its vocabulary and its settings, which are all written out.
    return written


def _write_out_backend(backend: Tokenizer) -> list[str]:
    """What it is saved as, without the truncation and padding of its last call: each call sets its own."""
    return [_digest_backend(backend.to_str()), str(backend.encode_special_tokens)]


@lru_cache(maxsize=2)  # each split has the same tokenizer
def _digest_backend(text: str) -> str:
    saved = json.loads(text)
    saved.pop("truncation"), saved.pop("padding")
    return _digest_text(json.dumps(saved, sort_keys=True))


def _digest_vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="trainer-recipes-") as directory:
        try:
            tokenizer.save_vocabulary(directory)
        except Exception as error:  # each class has its own way to say that it cannot
            raise UnknownContentError("a vocabulary that cannot be saved") from error
        files = sorted(Path(directory).rglob("*"))
        return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files if path.is_file()]
