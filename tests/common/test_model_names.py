"""common/model_names.py: directories that must be there, and code that must not change unread."""

import json

from common.arguments import ModelArguments
from common.errors import UserError
from common.models import load_config

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("flag", ["model_name_or_path", "tokenizer_name_or_path"])
@pytest.mark.parametrize("name", ["./missing", "{here}/missing", "several/parts/missing", "../missing"])
def test_a_missing_directory_is_named_with_its_absolute_path(flag, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    name = name.format(here=tmp_path / "here")
    settings = {"model_name_or_path": "me/model", flag: name}
    looked_at = (tmp_path / "here" / name).resolve()
    assert error_of(ModelArguments, **settings) == f"{flag} {name}: no such model directory (looked at {looked_at})."


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0"])
def test_code_from_the_hub_is_run_at_a_commit_only(revision):
    settings = {"model_name_or_path": "me/model", "trust_remote_code": True}
    message = error_of(ModelArguments, **settings, model_revision=revision)
    assert f"model_revision {revision} moves: set model_revision to the commit" in message
    assert ModelArguments(**settings, model_revision=COMMIT).trust_remote_code


def test_a_tokenizer_from_the_hub_needs_a_commit_beside_a_local_model(tmp_path):
    settings = {"model_name_or_path": str(tmp_path), "trust_remote_code": True}
    assert ModelArguments(**settings).trust_remote_code
    assert "uploaded" in error_of(ModelArguments, **settings, tokenizer_name_or_path="me/tokenizer")


def test_without_code_no_commit_is_asked_for():
    assert ModelArguments(model_name_or_path="me/model").model_revision == "main"


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_of_another_repository_is_refused_since_nothing_pins_it(where, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "foreign"}')
    reference = "someone/code--modeling.Foreign"
    auto_map = {"AutoConfig": reference} if where == "config.json" else {"AutoTokenizer": [None, reference]}
    (tmp_path / where).write_text(json.dumps({"model_type": "foreign", "auto_map": auto_map}))
    arguments = ModelArguments(model_name_or_path=str(tmp_path), trust_remote_code=True)
    assert "its code lies in another repository, someone/code, at no fixed commit" in error_of(load_config, arguments)
