"""The fields of the argument dataclasses, as the command line, the config files and the help see them."""

import dataclasses
import types
from argparse import SUPPRESS
from enum import Enum
from itertools import groupby
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from common.arguments import DataArguments, ModelArguments, RunArguments
from common.old_names import CURES
from common.tracking_arguments import TrackingArguments

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

GROUPS = ("Task", "Model", "Data", "Run", "Tracking", "Training")


class Field(NamedTuple):
    """A field of one of the dataclasses, as HfArgumentParser understands it."""

    name: str
    group: str
    types: tuple  # the members of its type hint: `int | None` has two
    default: Any  # dataclasses.MISSING where a value must be given
    convert: Any
    choices: list | None
    help: str
    takes_boolean: bool
    takes_dict: bool
    takes_list: bool


def build_parser(dataclass_types: tuple[type, ...]) -> tuple[HfArgumentParser, dict[str, Field]]:
    """A parser that hands out texts as they were written, and the fields, in the order in which they are shown."""
    assert issubclass(dataclass_types[-1], RunArguments), "the training arguments stand last"
    owners = {}
    for owner in dataclass_types:
        for name in list_names(owner):
            assert name not in owners, f"{name} is a field of both {owners[name].__name__} and {owner.__name__}"
            owners[name] = owner
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False, add_help=False, exit_on_error=False)
    actions = {action.dest: action for action in parser._actions if action.nargs != 0}  # 0: the --no_x of an --x
    hints = {name: hint for owner in dataclass_types for name, hint in get_type_hints(owner).items()}
    fields = []
    for name in dict.fromkeys(list_names(RunArguments) + list(owners)):
        owner, action = owners[name], actions[name]
        definition, hint = owner.__dataclass_fields__[name], hints[name]
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        origins = [get_origin(member) or member for member in members]
        enums = [member for member in members if isinstance(member, type) and issubclass(member, Enum)]
        if bool in members:
            action.nargs, action.const = "?", True  # HfArgumentParser: not where the default is None
        elif list in origins:
            action.nargs = "+"  # HfArgumentParser: one value only for `str | list[str]`
        has_factory = definition.default_factory is not dataclasses.MISSING
        field = Field(
            name,
            group=_choose_group(name, owner, is_training=owner is dataclass_types[-1]),
            types=members,
            default=definition.default_factory() if has_factory else definition.default,
            convert=enums[0] if enums and str not in members else action.type,
            choices=list(action.choices) if action.choices else None,
            help=" ".join((action.help or "").split()).replace("%%", "%"),
            takes_boolean=action.const is True or Literal[False] in members,
            takes_dict=dict in origins,
            takes_list=list in origins,
        )
        fields.append(field)
    for action in parser._actions:
        action.default, action.required, action.type, action.choices = SUPPRESS, False, None, None
    parser.add_argument("--config", action="append", default=SUPPRESS)
    for names in (("-h", "--help"), ("--help_all", "--help-all"), ("--print_config", "--print-config")):
        parser.add_argument(*names, action="store_true", default=SUPPRESS)
    return parser, {field.name: field for field in sorted(fields, key=lambda field: GROUPS.index(field.group))}


def list_names(dataclass_type: type) -> list[str]:
    return [field.name for field in dataclasses.fields(dataclass_type) if field.init]


def _choose_group(name: str, owner: type, is_training: bool) -> str:
    if is_training:
        added = {"Run": RunArguments, "Tracking": TrackingArguments}
        return next((group for group, part in added.items() if name in list_names(part)), "Training")
    return "Model" if issubclass(owner, ModelArguments) else "Data" if issubclass(owner, DataArguments) else "Task"


def group_fields(fields: dict[str, Field]) -> list[tuple[str, list[Field]]]:
    shown = [field for field in fields.values() if field.name not in CURES]
    return [(group, list(members)) for group, members in groupby(shown, key=lambda field: field.group)]


def name_wanted(field: Field) -> str:
    if field.choices:
        return "one of " + ", ".join(map(str, field.choices))
    if field.takes_dict:
        return 'a mapping, or JSON like {"key": 1}'
    words = {int: "a whole number", float: "a number", string_to_bool: "true or false", str: "text"}
    return words[str] if str in field.types else words.get(field.convert) or f"a {field.convert.__name__}"
