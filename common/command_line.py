"""Reads the arguments of a recipe: dataclass defaults < lines of the `--config` file < flags on the command line."""

import dataclasses
import difflib
import json
import os
import re
import sys
from argparse import ArgumentError, ArgumentTypeError
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from common.console import escape_controls, say
from common.errors import UserError, install_error_hook
from common.fields import Field, build_parser, group_fields, list_names, name_wanted
from common.garbage import search_as_usual, settle_imports
from common.help_text import format_help
from common.old_names import CURES
from common.ranges import find_fault
from common.roots import check_roots

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

UNQUOTED = (int, float, string_to_bool)  # what a text in quotes is not


class Quoted(str):
    """A text that stands in quotes in a file: it is text, and neither a number nor true or false."""


class Setting(NamedTuple):
    """A value as it was written, and where."""

    raw: Any
    place: str  # "path/demo.yaml:7: " for a line of a file, "" for a flag
    label: str  # what was written: "seed" in a file, "--seed" for a flag
    folder: Path  # what ./ and ../ at the start of a path refer to


def parse_arguments(*dataclass_types: type, args: list[str] | None = None) -> tuple:
    """One instance of each dataclass, in the order given; a mistake ends the process with one sentence, exit code 2.

    The last one holds the training arguments; its attribute `config_text` is the whole run as YAML, just as
    --print_config prints it, and `places` says where in the file a setting was. With no arguments at all,
    `configs/demo.yaml` beside the running script is read.
    """
    install_error_hook()
    if args is None:
        settle_imports()
    else:
        search_as_usual()
    try:
        return _parse(dataclass_types, sys.argv[1:] if args is None else args)
    except UserError as error:
        # One message a machine: its processes all see the same files, but another machine may lack one.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("error:", escape_controls(" ".join(str(error).split())), file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _parse(dataclass_types: tuple[type, ...], args: list[str]) -> tuple:
    parser, fields = build_parser(dataclass_types)
    flags, requests = _read_flags(parser, fields, args)
    if {"help", "help_all"} & requests.keys():
        say(format_help(fields, show_all="help_all" in requests), end="")
        raise SystemExit(0)
    configs = requests.get("config", []) if args else [_find_demo_config()]
    if len(configs) > 1:
        raise UserError(f"--config is given {len(configs)} times ({', '.join(configs)}): give it once")
    lines = _read_config(configs[0], fields) if configs else {}
    # The file is converted whole, so that a mistake is found even in a line that a flag overrides.
    values = {name: _convert(setting, fields[name]) for name, setting in lines.items()}
    values |= {name: _convert(setting, fields[name]) for name, setting in flags.items()}
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in values:
            raise UserError(f"--{field.name} is missing: give it as a flag or as a line of the config file")
    config_text = _format_config(fields, values)
    if "print_config" in requests:
        say(config_text, end="")
        raise SystemExit(0)
    places = {name: setting.place for name, setting in lines.items() if name not in flags}
    instances = tuple(_build_instance(dataclass_type, values, places) for dataclass_type in dataclass_types)
    instances[-1].config_text, instances[-1].places = config_text, places
    return instances


def _read_flags(parser: HfArgumentParser, fields: dict[str, Field], args: list[str]) -> tuple[dict, dict]:
    """The settings by field name, and what else is asked for (config, help, help_all, print_config)."""
    try:
        namespace, leftovers = parser.parse_known_args(args)
    except ArgumentError as error:
        flag = error.argument_name.split("/")[0]
        raise UserError(f"{flag} {'needs a' if error.message.startswith('expected') else 'takes no'} value") from None
    requests = vars(namespace)
    flags = {}
    for name in [name for name in requests if name in fields]:
        raw = requests.pop(name)
        if isinstance(raw, list) and len(raw) == 1 and str in fields[name].types:
            raw = raw[0]
        flags[name] = Setting(raw, "", f"--{name}", Path.cwd())
        _check_name(name, flags[name], fields)
    if leftovers and not {"help", "help_all"} & requests.keys():
        flag, _, raw = leftovers[0].partition("=")
        if not flag.startswith("-"):
            raise UserError(f"unexpected argument {leftovers[0]!r}: a value stands behind its --flag")
        followers = [text for text in leftovers[1:2] if not text.startswith("--")]
        setting = Setting(raw or "".join(followers) or None, "", flag, Path.cwd())
        _check_name(flag.lstrip("-").replace("-", "_"), setting, fields)
    return flags, requests


def _check_name(name: str, setting: Setting, fields: dict[str, Field]) -> None:
    """Refuses a name that has a cure, and one that is no field."""
    raw, is_flag = setting.raw, not setting.place
    if name in CURES:
        value = str(raw).lower() if isinstance(raw, bool) else raw if isinstance(raw, str) else "..."
        cure = re.sub(r"use (\w+): ", r"use --\1 ", CURES[name]) if is_flag else CURES[name]
        raise UserError(f"{setting.place}{setting.label} {cure.format(value=value)}")
    if name not in fields:
        known = [field for field in fields if field not in CURES]
        close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
        if is_flag:
            cure = f"did you mean --{close[0]}?" if close else "see --help_all"
            raise UserError(f"unknown flag {setting.label}: {cure}")
        cure = f"did you mean {close[0]!r}?" if close else "see --help_all"
        raise UserError(f"{setting.place}unknown key {setting.label!r}: {cure}")


def _find_demo_config() -> str:
    path = Path(sys.argv[0]).resolve().parent / "configs" / "demo.yaml"
    if not path.is_file():
        raise UserError(f"no arguments, and there is no {_shorten_path(path)}: give --config FILE (see --help)")
    say(f"No arguments: running {_shorten_path(path)} (see --help)")
    return _shorten_path(path)


def _read_config(path: str, fields: dict[str, Field]) -> dict[str, Setting]:
    """The settings that a YAML file holds, by field name."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: the config file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: the config file is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{path}:{error.problem_mark.line + 1}: not valid YAML: {reason}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: not valid YAML: U+{error.character:04X} is no text") from None
    except RecursionError:
        raise UserError(f"{path}:1: not valid YAML: brackets within brackets, a thousand deep") from None
    if root is None:
        raise UserError(f"{path}:1: the config file is empty: write lines like 'seed: 42'")
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}:{root.start_mark.line + 1}: a config file has lines like 'seed: 42'")
    settings = {}
    for key, value in root.value:
        place = f"{path}:{key.start_mark.line + 1}: "
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{place}a config file has lines like 'seed: 42'")
        raw = _read_node(value, f"{place}{key.value}")
        setting = Setting(raw, place, key.value, Path.cwd() / Path(path).parent)
        _check_name(key.value, setting, fields)
        if key.value in settings:
            first = settings[key.value].place.split(":")[-2]
            raise UserError(f"{place}{key.value} is given twice: it is already on line {first}")
        settings[key.value] = setting
    return settings


def _read_node(node: yaml.Node, where: str, is_typed: bool = False, outer: tuple[yaml.Node, ...] = ()) -> Any:
    """The source text, a list of texts or None; inside a mapping, where no field says what is wanted, typed values.

    `outer` are the nodes that this one stands in.
    """
    if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
        raise UserError(f"{where}: the tag {node.tag!r} is not for a config file: write plain values")
    if node in outer:
        raise UserError(f"{where}: the list or mapping holds itself: write its values out")
    if isinstance(node, yaml.MappingNode):
        return {key.value: _read_node(value, where, True, (*outer, node)) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_read_node(item, where, is_typed, (*outer, node)) for item in node.value]
    if node.tag == "tag:yaml.org,2002:null":
        return None
    if is_typed and node.tag == "tag:yaml.org,2002:bool":
        return yaml.SafeLoader.bool_values[node.value.lower()]
    # By the source text again: PyYAML takes 1e-5 for a string.
    if is_typed and node.style is None and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", node.value):
        return int(node.value) if re.fullmatch(r"[-+]?\d+", node.value) else float(node.value)
    return node.value if is_typed or node.style is None else Quoted(node.value)


def _convert(setting: Setting, field: Field) -> Any:
    """The value that the dataclass gets."""
    raw = setting.raw
    if raw is None and type(None) not in field.types:
        raise UserError(f"{setting.place}{setting.label} has no value: it must be {name_wanted(field)}")
    if raw is None or isinstance(raw, bool) or (isinstance(raw, dict) and field.takes_dict):
        return raw
    if isinstance(raw, list) and field.takes_list:
        each = setting._replace(label=f"each item of {setting.label}")
        return [_convert_text(item, each, field) for item in raw]
    value = _convert_text(raw, setting, field)
    return [value] if field.takes_list and str not in field.types else value


def _convert_text(text: Any, setting: Setting, field: Field) -> Any:
    if isinstance(text, Quoted):
        text = str(text)
        if field.convert in UNQUOTED and str not in field.types:
            wanted = name_wanted(field)
            raise UserError(f"{setting.place}{setting.label} must be {wanted}, not the text {text!r}: drop the quotes")
    try:
        if not isinstance(text, str):
            raise TypeError
        if field.takes_boolean and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if field.takes_dict and (text.startswith("{") or str not in field.types):
            return dict(json.loads(text))
        # Python does not know infinity as YAML writes it.
        text = text.replace(".inf", "inf") if field.convert is float else text
        if field.choices and text not in map(str, field.choices):
            raise ValueError
        value = text if str in field.types else field.convert(text)
    except (ValueError, TypeError, ArgumentTypeError, RecursionError):
        given = {list: "a list", dict: "a mapping", type(None): "null"}.get(type(text), repr(text))
        raise UserError(f"{setting.place}{setting.label} must be {name_wanted(field)}, not {given}") from None
    fault = find_fault(field.name, value)
    if fault is not None:
        raise UserError(f"{setting.place}{setting.label} {fault}")
    if isinstance(value, str) and value.startswith(("./", "../")):
        value = _shorten_path(Path(os.path.normpath(setting.folder / value)))
    if isinstance(value, str):
        check_roots(value, f"{setting.place}{field.name}")
    return value


def _shorten_path(path: Path) -> str:
    """The path as seen from the current directory where it lies below it, else the whole path."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _build_instance(dataclass_type: type, values: dict[str, Any], places: dict[str, str]) -> Any:
    try:
        return dataclass_type(**{name: values[name] for name in list_names(dataclass_type) if name in values})
    except (ValueError, TypeError, OSError) as error:  # OSError: of a file that the value names
        text = str(error)
        found = {name: re.search(rf"\b{name}\b", text) for name in list_names(dataclass_type)}
        named = sorted((match.start(), name) for name, match in found.items() if match)
        if named:  # what is said first is what is wrong; a line that is only part of the cure is not to blame
            raise UserError(places.get(named[0][1], "") + text) from error
        # Messages of Hugging Face often tell the value alone.
        told = [name for name in places if _tells(text, values[name])]
        if len(told) > 1:  # of an enum they tell the class as well: "none is not a valid DebugOption"
            told = [name for name in told if re.search(rf"(?i) is not a valid {name}", text)]
        raise UserError((f"{places[told[0]]}{told[0]}: " if len(told) == 1 else "") + text) from error


def _tells(text: str, value: Any) -> bool:
    return isinstance(value, str) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def _format_config(fields: dict[str, Field], values: dict[str, Any]) -> str:
    """Every argument of the run as YAML; read as a config file, it gives the same arguments again."""
    lines = []
    for group, members in group_fields(fields):
        lines.append(f"# {group}")
        lines += [f"{field.name}: {_format_value(values.get(field.name, field.default), field)}" for field in members]
    return "\n".join(lines) + "\n"


def _format_value(value: Any, field: Field) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if field.convert is float and isinstance(value, int):
        value = float(value)  # Hugging Face writes 500 where it means 500.0
    value = value.value if isinstance(value, Enum) else value
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    style = None if all(text.isprintable() for text in texts) else '"'  # escapes line breaks instead of folding them
    # As the only item of a list on one line, whose brackets are cut off.
    flow = {"default_flow_style": True, "width": float("inf"), "allow_unicode": True}
    return yaml.safe_dump([value], default_style=style, **flow)[1:-2]
