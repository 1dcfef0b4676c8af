"""common/secret_scan.py: what looks like a secret is found with its line and never said."""

from common.secret_scan import FEWEST_CHARACTERS, PATTERNS, find_secrets

import pytest

# Made up; put together here, so that this file holds none.
SECRETS = {
    "a Hugging Face token": "hf_" + "aB3" * 11 + "x",
    "a W&B API key": "wandb_v1_" + "aB3_" * 10,
    "an AWS access key": "AKIA" + "ABCDEFGH23456789",
    "a GitHub token": "ghp_" + "aB3d" * 9,
    "an OpenAI or Anthropic key": "sk-proj-" + "aB3-_x" * 6,
    "a Google API key": "AIza" + "aB3d5" * 7,
    "a Slack token": "xoxb-" + "123456789012-abcdef",
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
}


def test_every_pattern_is_tried():
    assert SECRETS.keys() == PATTERNS.keys()


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_on_its_line(kind, tmp_path):
    (tmp_path / "README.md").write_text(f"one\ntwo: '{SECRETS[kind]}',\nthree\n")
    assert find_secrets(tmp_path, ["README.md"], {}) == [(f"{tmp_path / 'README.md'}:2", kind)]


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "db_password", "APIKEY", "AWS_SECRETS_X"])
def test_the_value_of_a_variable_whose_name_says_secret_is_found(name, tmp_path):
    value = "0123456789" * 4  # as W&B's keys: 40 hexadecimal digits
    (tmp_path / "recipe.json").write_text(f'{{\n"command": "run --x={value}"}}')
    assert find_secrets(tmp_path, ["recipe.json"], {name: value}) == [
        (f"{tmp_path / 'recipe.json'}:2", f"the value of {name}")
    ]
    assert find_secrets(tmp_path, ["recipe.json"], {"HOME": value}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKENIZERS_PARALLELISM", "disabled, as ever"), ("KEYBOARD", "qwertyuiop"), ("HF_TOKEN", "x" * 7)],
)
def test_other_variables_and_short_values_are_no_secrets(name, value, tmp_path):
    assert len("x" * 7) < FEWEST_CHARACTERS
    (tmp_path / "config.yaml").write_text(f"note: {value}\n")
    assert find_secrets(tmp_path, ["config.yaml"], {name: value}) == []


def test_the_path_of_a_key_is_no_secret(tmp_path):
    (tmp_path / "config.yaml").write_text(f"dir: {tmp_path}\n")
    assert find_secrets(tmp_path, ["config.yaml"], {"SSH_KEY": str(tmp_path)}) == []


def test_hashes_and_words_are_no_secrets(tmp_path):
    texts = [
        "f" * 40,
        "hf_hub",
        "a task-oriented dialogue",
        "sk-learn",
        "AKIA",
        "BEGIN PRIVATE",
        "xoxo-hugs-and-kisses",
    ]
    (tmp_path / "README.md").write_text("\n".join(texts))
    assert find_secrets(tmp_path, ["README.md"], {}) == []


def test_weights_and_pictures_are_not_read(tmp_path):
    for name in ("model.safetensors", "a.png", "notes.txt"):
        (tmp_path / name).write_text(SECRETS["a GitHub token"])
    assert len(find_secrets(tmp_path, ["model.safetensors", "a.png", "notes.txt"], {})) == 1
