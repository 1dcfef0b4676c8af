"""The rules of the tree: who may import whom, and what every recipe folder holds."""

import ast
import re
import sys
import tomllib
from importlib import metadata

from tests.conftest import ROOT

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RECIPES = sorted(path.parent for path in (ROOT / "recipes").glob("*/run.py"))
MODULES = sorted((ROOT / "common").rglob("*.py"))
PLANNED = {"sentiment", "ner", "translation", "summarization", "qa", "dialogue"}
# A file of such a name in a recipe folder, which is first on sys.path, would be imported instead of the library.
LIBRARIES = {"accelerate", "datasets", "evaluate", "peft", "tokenizers", "torch", "transformers", "wandb"}


def list_imports(path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return imported | {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}


def test_recipes_have_the_planned_names():
    assert {path.name for path in RECIPES} == PLANNED


def test_common_never_imports_a_recipe():
    assert len(MODULES) > 50
    for path in MODULES:
        assert not any(name.split(".")[0] in {"recipes", "run"} for name in list_imports(path)), path


def test_a_recipe_imports_no_other_recipe_and_no_sibling():
    for recipe in RECIPES:
        names = {name.split(".")[0] for name in list_imports(recipe / "run.py")}
        assert not names & {"recipes", "run", *PLANNED}, recipe


def test_every_recipe_has_the_same_files():
    for recipe in RECIPES:
        files = {path.relative_to(recipe).as_posix() for path in recipe.rglob("*") if "__pycache__" not in path.parts}
        assert {
            "run.py",
            "README.md",
            "sweep.yaml",
            "configs/demo.yaml",
            "configs/full.yaml",
            "configs/lora.yaml",
        } <= files, recipe
        assert {"configs/qlora.yaml", "sample/train.jsonl", "sample/validation.jsonl", "sample/README.md"} <= files, (
            recipe
        )
        assert [path.name for path in recipe.glob("*.py")] == ["run.py"], recipe


def test_nothing_in_a_recipe_folder_hides_a_library():
    for recipe in RECIPES:
        assert not {path.stem for path in recipe.iterdir()} & LIBRARIES


def test_every_recipe_keeps_the_order_of_its_parts():
    """Docstring, imports, argument dataclass, functions, main, __main__: knowing one recipe is knowing all."""
    for recipe in RECIPES:
        tree = ast.parse((recipe / "run.py").read_text(encoding="utf-8"))
        kinds = [type(node).__name__ for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        assert kinds[0] == "Expr" and kinds[1] == "ClassDef" and kinds[-1] == "If", recipe
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert functions[-1] == "main", recipe
        inner = [node for node in ast.walk(tree.body[-2]) if isinstance(node, ast.FunctionDef | ast.Lambda)]
        assert len(inner) == 1, f"{recipe}: main holds a function that no test can import"


def test_a_recipe_can_be_read_in_two_minutes():
    for recipe in RECIPES:
        assert len((recipe / "run.py").read_text(encoding="utf-8").splitlines()) <= 240, recipe


def test_modules_stay_short_and_are_named_by_a_noun():
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 310, path
        assert path.stem not in {"utils", "helpers", "misc", "base", "tools"}, path


def test_every_package_of_common_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert set(settings["tool"]["setuptools"]["packages"]) == packages


def test_transformers_is_new_enough_to_look_for_a_vocabulary_in_its_own_directory_only():
    """That it does is tried by fault E11; it was not tried with an older version."""
    (line,) = re.findall(r"^transformers==(\d+)\.(\d+)\.", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert tuple(map(int, line)) >= (5, 23)


def test_requirements_are_pinned_and_begin_with_the_project():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "-e ."
    assert len(lines) > 15 and all("==" in line for line in lines[1:])


def test_every_library_that_is_imported_is_required_or_comes_with_one_that_is():
    """Not with those of requirements-dev.txt: httpx, for one, came with trackio, but the hub's client left it."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {re.match(r"[\w.-]+", line)[0] for line in lines if line and line[0] not in "#-"}
    allowed = set(map(canonicalize_name, required))
    for name in required - {line.split("==")[0] for line in lines if "; sys_platform" in line}:
        needs = map(Requirement, metadata.requires(name) or [])
        allowed |= {canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate()}
    origins = metadata.packages_distributions()
    paths = [*MODULES, *(path / "run.py" for path in RECIPES), *(ROOT / "benchmarks").glob("*.py")]
    libraries = {name.split(".")[0] for path in paths for name in list_imports(path)} - sys.stdlib_module_names
    libraries -= {"common", "recipes", "benchmarks", "tests"}
    assert len(libraries) > 20
    missing = {name for name in libraries if not allowed & set(map(canonicalize_name, origins.get(name, [])))}
    assert not missing
