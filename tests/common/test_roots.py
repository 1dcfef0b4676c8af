"""common/roots.py: paths of the settings stay in the given directories, whatever they are written as."""

from common.errors import UserError
from common.roots import VARIABLE, check_roots

import pytest


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The one directory that is allowed, which is also the current one, with a file and two links out of it."""
    path = tmp_path / "inside"
    (path / "data").mkdir(parents=True)
    (path / "data" / "rows.jsonl").touch()
    (tmp_path / "secret.jsonl").touch()
    (path / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (path / "linked").mkdir()
    (path / "linked" / "train.jsonl").symlink_to(tmp_path / "secret.jsonl")
    monkeypatch.chdir(path)
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.mark.parametrize(
    "text", ["/etc", "../secret.jsonl", "../nothing", "~", "link.jsonl", "*.jsonl", "linked", "**"]
)
def test_a_path_that_leads_out_is_refused(text, inside):
    with pytest.raises(UserError, match="^run.yaml:2: train_file .* is in no directory of TRAINER_RECIPES_ROOTS"):
        check_roots(text, "run.yaml:2: train_file")


@pytest.mark.parametrize(
    "text", ["data", "./data/rows.jsonl", "data/*.jsonl", "namespace/name", "outputs/new", "a text"]
)
def test_what_lies_inside_and_what_is_no_path_is_allowed(text, inside):
    check_roots(text, "train_file")
    check_roots(str(inside / "data"), "train_file")


def test_several_directories_may_be_allowed_and_without_the_variable_all_are(inside, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{inside}:{tmp_path}")
    check_roots("link.jsonl", "train_file")
    monkeypatch.delenv(VARIABLE)
    check_roots("/etc", "train_file")
