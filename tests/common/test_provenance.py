"""common/provenance.py: digests, commits and versions, held against the tools that make them."""

import subprocess

from common.arguments import DataArguments
from common.provenance import describe_checkout, describe_data
from tests.conftest import NOBODY

import pytest


def run_git(folder, *command: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    git = subprocess.run(["git", *identity, *command], cwd=folder, capture_output=True, text=True, check=True)
    return git.stdout.strip()


def test_a_checkout_has_a_commit_and_is_dirty_once_a_known_file_changes(tmp_path):
    run_git(tmp_path, "init", "-q")
    (tmp_path / "run.py").write_text("1\n")
    run_git(tmp_path, "add", "run.py")
    run_git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "metrics.json").write_text("{}")
    commit = run_git(tmp_path, "rev-parse", "HEAD")
    assert describe_checkout(tmp_path / "outputs") == {"commit": commit, "dirty": False}
    (tmp_path / "run.py").write_text("2\n")
    assert describe_checkout(tmp_path) == {"commit": commit, "dirty": True}


def test_outside_of_a_checkout_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_checkout(tmp_path) == {}


def test_each_local_file_is_told_by_its_sha256(tmp_path):
    (tmp_path / "a.jsonl").write_text("abc")
    (tmp_path / "b.jsonl").write_text("")
    settings = vars(DataArguments(train_file=[str(tmp_path / "*.jsonl")]))
    assert describe_data(settings) == {
        "sha256": {
            str(tmp_path / "a.jsonl"): "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            str(tmp_path / "b.jsonl"): "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        }
    }
    folder = describe_data(vars(DataArguments(dataset_name=str(tmp_path))))
    assert folder == describe_data(settings)


@pytest.mark.parametrize("revision", [None, "refs/convert/parquet"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_dataset_that_cannot_be_asked_for_has_the_wanted_revision(offline, revision, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOBODY)
    settings = vars(DataArguments(dataset_name="tomaarsen/conll2003", dataset_revision=revision))
    assert describe_data(settings) == {"revision": revision, "sha256": {}}
