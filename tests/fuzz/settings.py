"""Config files and command lines of the six recipes, and accelerate's config files."""

import contextlib
import io
import json
import re
from functools import cache
from pathlib import Path

from common.command_line import parse_arguments
from common.errors import UserError
from common.fields import Field, build_parser
from common.layouts import read_launch, read_layout
from tests.conftest import ROOT
from tests.fuzz.contents import DAMAGES, PIECES, damage
from tests.fuzz.drawn import VALUES, mix
from tests.fuzz.reader import Reader, check_text
from tests.fuzz.recipes import NEEDED, RECIPES

import yaml
from hypothesis import strategies as st
from transformers.hf_argparser import string_to_bool

# Fields that would look for hardware, a launcher or another process, of which the tests have none.
LEFT_OUT = {"deepspeed", "fsdp", "fsdp_config", "local_rank", "ddp_backend", "tpu_num_cores"}
SCALARS = st.one_of(
    st.integers(-2, 600), st.floats(), st.booleans(), st.none(),
    st.sampled_from(["auto", "none", "all", "steps", "epoch", "no", "1e-5", "1e5", ".inf", "1_000", "0x10", "07",
                     "1:30", "2024-01-01", "~", "yes", "=", "", " ", "{}", "[]", "a: b", "*x", "&x", "!!int 3", "@",
                     "%", "\u2028", "bf16", "true", "True", "null", "./rows.jsonl", "../x", "\x85", "\ufeff",
                     "a\nb", "${HOME}", "~/x"]),
    st.text(max_size=8),
)  # fmt: skip
NESTED = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=4), SCALARS), SCALARS, max_size=2),
)


@cache
def list_fields(recipe: str) -> list[Field]:
    """The fields of a recipe that can be set anywhere."""
    return [field for name, field in build_parser(RECIPES[recipe][1])[1].items() if name not in LEFT_OUT]


def draw_value(field: Field) -> st.SearchStrategy:
    """Mostly a value that the field may have."""
    good = [st.just(field.default)] if isinstance(field.default, str | int | float | bool | None) else []
    if field.choices:
        good.append(st.sampled_from(field.choices))
    if field.takes_boolean or field.convert is string_to_bool:
        good.append(st.booleans())
    good += {int: [st.integers(0, 600)], float: [st.floats(0, 1)]}.get(field.convert, [])
    return st.one_of(*good, *good, NESTED)


@st.composite
def draw_settings(draw, recipe: str) -> dict:
    """Names with values, enough for a run, and a few more of which most are right."""
    settings = {"output_dir": "x", "train_file": "rows.jsonl", "report_to": "none", "use_cpu": True}
    needed = NEEDED.get(recipe, ["--from_scratch", "encoder_tiny"])
    settings |= {flag.removeprefix("--"): value for flag, value in zip(needed[::2], needed[1::2], strict=True)}
    for field in draw(st.lists(st.sampled_from(list_fields(recipe)), max_size=4)):
        settings[field.name] = draw(draw_value(field))
    if draw(st.integers(0, 9)) == 7:
        settings[
            draw(st.one_of(st.sampled_from(["sead", "evaluation_strategy", "a\nb", "hub_token"]), st.text(max_size=6)))
        ] = draw(NESTED)
    return settings


DEMOS = [(ROOT / "recipes" / recipe / "configs" / "demo.yaml").read_bytes() for recipe in RECIPES]
SOUP = st.lists(
    st.sampled_from([b"seed", b": ", b":", b"1", b"\n", b"  ", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"? ",
                     b"!!", b"---\n", b"...\n", b"%YAML 9.9\n", b"|\n", b">", b"#", b"<<: ", b"'", b'"',
                     b"\t", *PIECES]),
    max_size=14,
).map(b"".join)  # fmt: skip


def write_settings(settings: dict, is_flow: bool) -> bytes:
    """The settings as YAML."""
    return yaml.safe_dump(settings, allow_unicode=True, default_flow_style=is_flow, sort_keys=False).encode(
        errors="replace"
    )


@st.composite
def draw_config(draw) -> tuple[str, bytes]:
    """A recipe, and a config file for it: written from settings or the demo's, whole or damaged; or anything."""
    recipe = draw(st.sampled_from(sorted(RECIPES)))
    kind = draw(st.integers(0, 7))
    if kind == 7:
        return recipe, draw(st.one_of(st.binary(max_size=60), SOUP))
    if kind >= 5:
        demo = DEMOS[list(RECIPES).index(recipe)]
        return recipe, damage(demo, draw(st.lists(DAMAGES, max_size=3)))
    content = write_settings(draw(draw_settings(recipe)), draw(st.booleans()) and kind == 0)
    return recipe, damage(content, draw(st.lists(DAMAGES, max_size=1)) if kind == 4 else [])


def parse(recipe: str, args: list[str]) -> tuple[tuple | None, str]:
    """What parse_arguments gives, or None, and all that it wrote to stderr; only exit code 2 may end it otherwise."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return parse_arguments(*RECIPES[recipe][1], args=args), stderr.getvalue()
    except SystemExit as end:
        assert end.code == 2, end.code
        return None, stderr.getvalue()


def check_round_trip(recipe: str, parsed: tuple, folder: Path) -> None:
    """The whole run as YAML, read again, is the same run."""
    path = folder / "again" / "config.yaml"
    path.parent.mkdir()
    text = parsed[-1].config_text
    path.write_text(text, encoding="utf-8")
    again, said = parse(recipe, ["--config", str(path)])
    assert again is not None, said
    assert again[-1].config_text == text
    assert [repr(part) for part in again[:-1]] == [repr(part) for part in parsed[:-1]]


def attempt_config(drawn: tuple[str, bytes], folder: Path) -> bool:
    """A config file is read, and what it says can be written and read again; or its line is told."""
    recipe, content = drawn
    path = folder / "run.yaml"
    path.write_bytes(content)
    parsed, said = parse(recipe, ["--config", str(path), "--use_cpu", "true"])
    if parsed is None:
        # What a file lacks is on none of its lines.
        lacking = r"--\w+ is missing: .*|No model: set model_name_or_path .*"
        assert re.fullmatch(rf"error: ({re.escape(str(path))}:(\d+): \S.*|{lacking})\n", said), said
        found = re.search(r":(\d+): ", said)
        lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", content.decode(errors="replace"))  # as YAML counts them
        assert found is None or 1 <= int(found[1]) <= len(lines), said
        check_text(said.rstrip("\n"))
        return False
    check_round_trip(recipe, parsed, folder)
    return True


@st.composite
def draw_flags(draw) -> tuple[str, list[str]]:
    """A recipe, and a command line for it."""
    recipe = draw(st.sampled_from(sorted(RECIPES)))
    args = []
    for name, value in draw(draw_settings(recipe)).items():
        values = (
            value if isinstance(value, list) else [json.dumps(value, default=str) if isinstance(value, dict) else value]
        )
        # A terminal can hand over neither NUL nor half a character.
        texts = [str(part).replace("\0", "").encode(errors="replace").decode() for part in values]
        name = name.replace("\0", "").encode(errors="replace").decode()
        glued = len(texts) == 1 and draw(st.booleans())
        args += [f"--{name}={texts[0]}"] if glued else [f"--{name}", *texts]
    if draw(st.integers(0, 9)) == 7:
        args.insert(
            draw(st.integers(0, len(args))),
            draw(
                st.one_of(
                    st.sampled_from(["--", "-", "-h1", "--seed", "x", "--config"]),
                    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
                )
            ),
        )
    return recipe, args


def attempt_flags(drawn: tuple[str, list[str]], folder: Path) -> bool:
    """A command line is read, and what it says can be written and read again; or the flag is told."""
    recipe, args = drawn
    if {"-h", "--help", "--help_all", "--help-all", "--print_config", "--print-config"} & set(args):
        return False
    parsed, said = parse(recipe, args)
    if parsed is None:
        lines = said.split("\n")
        assert re.match(r"error: \S", lines[0]) and lines[1:] == [""], said
        check_text(lines[0])
        return False
    check_round_trip(recipe, parsed, folder)
    return True


KIND = mix(st.sampled_from(["NO", "MULTI_GPU", "DEEPSPEED", "DEEPSPEED", "DEEPSPEED", "FSDP", False]))
SUBSETTINGS = mix(
    st.fixed_dictionaries(
        {},
        optional={
            "zero_stage": st.one_of(st.integers(0, 3), SCALARS),
            "deepspeed_config_file": mix(st.just("zero.json")),
            "offload_optimizer_device": mix(st.sampled_from(["none", "cpu", "nvme"])),
            "fsdp_offload_params": mix(st.booleans()),
        },
    )
)
LAUNCH = st.fixed_dictionaries(
    {"distributed_type": KIND, "num_processes": mix(st.integers(1, 8))},
    optional={"deepspeed_config": SUBSETTINGS, "fsdp_config": SUBSETTINGS, "mixed_precision": SCALARS},
)
ZERO = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"stage": mix(st.integers(0, 3)), "offload_optimizer": mix(st.just({"device": "cpu"})),
                      "offload_param": mix(st.just({"device": "none"}))},
    ).map(lambda zero: json.dumps({"zero_optimization": zero}).encode()),
    VALUES.map(lambda value: json.dumps({"zero_optimization": value}).encode()),
    VALUES.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20), st.sampled_from(PIECES),
)  # fmt: skip


def attempt_launch(drawn: tuple[bytes, bytes], folder: Path) -> bool:
    """accelerate's config gives a layout, or is refused by its name."""
    path = folder / "launch.yaml"
    path.write_bytes(drawn[0].replace(b"zero.json", str(folder / "zero.json").encode()))
    (folder / "zero.json").write_bytes(drawn[1])
    try:
        layout = read_layout(read_launch(str(path)), str(path))
    except UserError as error:
        assert str(error).startswith((f"{path}:", f"{folder / 'zero.json'}:")), error
        check_text(str(error))
        return False
    assert layout.processes >= 1 and 0 <= layout.stage <= 3
    return True


WRITTEN = LAUNCH.map(lambda launch: write_settings(launch, False))
LAUNCHES = st.one_of(WRITTEN, WRITTEN, WRITTEN, SOUP, st.binary(max_size=40))
READERS = [
    Reader("config files", draw_config(), attempt_config, 3),
    Reader("command lines", draw_flags(), attempt_flags, 3),
    Reader("configs of accelerate", st.tuples(LAUNCHES, ZERO), attempt_launch, 4),
]
