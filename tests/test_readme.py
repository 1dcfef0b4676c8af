"""What the READMEs and docstrings tell a user to run exists, and the tree they draw is the tree."""

import re
import shlex

from common.arguments import DataArguments, ModelArguments
from common.fields import list_names
from tests.conftest import ROOT
from tests.test_configs import OWN_ARGUMENTS

import pytest

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "recipes").rglob("*.md"))]
DOCUMENTS += [*sorted((ROOT / "recipes").rglob("run.py")), *sorted((ROOT / "benchmarks").rglob("*.md"))]
SHARED_FLAGS = {*list_names(ModelArguments), *list_names(DataArguments)}
SHARED_FLAGS |= {"config", "config_file", "help", "help_all", "print_config", "num_processes"}
COMMANDS = [
    (document, command.replace("\\\n", " ").strip())
    for document in DOCUMENTS
    for command in re.findall(
        r"^ *(accelerate launch (?:.*\\\n)*.*)$", document.read_text(encoding="utf-8"), re.MULTILINE
    )
]


def test_commands_are_found():
    assert len(COMMANDS) >= 40
    assert {document.name for document, _ in COMMANDS} >= {"README.md", "run.py"}


@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=[command[:60] for _, command in COMMANDS])
def test_the_files_and_flags_of_a_command_exist(document, command):
    words = shlex.split(command, comments=True)
    script = next(word for word in words if word.endswith("run.py"))
    assert (ROOT / script).is_file() or script.startswith("my_"), command
    recipe = script.split("/")[-2].removeprefix("my_")
    flags = SHARED_FLAGS.union(*(list_names(owner) for owner in OWN_ARGUMENTS[recipe]))
    for flag, value in zip(words, [*words[1:], ""], strict=True):
        if flag.startswith("--"):
            assert flag[2:].split("=")[0] in flags, f"{document.name}: {flag} in: {command}"
        if flag in ("--config", "--config_file") and not value.startswith(("my_", "outputs/")):
            assert (ROOT / value).is_file(), command


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
    named = {first or second for first, second in named}
    assert {"demo", "test"} <= named <= targets


def test_the_tree_in_the_readme_names_every_module():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    for path in sorted((ROOT / "common").glob("*.py")):
        if path.name != "__init__.py":
            assert re.search(rf"^  {path.name} +\S", tree, re.MULTILINE), f"{path.name} is missing in the README's tree"
    for name in re.findall(r"^  ([\w/]+\.py) ", tree, re.MULTILINE):
        assert (ROOT / "common" / name).is_file() or (ROOT / "recipes" / name).is_file(), name


def test_links_in_the_readmes_lead_somewhere():
    links = [
        (document, target)
        for document in DOCUMENTS
        if document.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    ]
    assert links
    for document, target in links:
        assert (document.parent / target).exists(), f"{document.name}: {target}"
