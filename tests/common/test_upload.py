"""common/upload.py: what would reach the hub, at the boundary to the network; the rest is a real run."""

from types import SimpleNamespace

from common.arguments import TrainingArguments
from common.errors import UserError
from common.hub import is_unreachable
from common.upload import create_repository, list_public_files, upload_result
from recipes.ner import run as ner
from tests.conftest import NOBODY, list_sample_flags, run_in_process

import pytest
from httpx2 import ConnectError, Request, Response
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects

PUSH = ("--push_to_hub", "--hub_model_id", "me/tagger")


@pytest.fixture
def uploads(monkeypatch) -> list[dict]:
    """What HfApi is asked to upload, with the names of the files that it would take."""
    calls = []

    def create_repo(self, repo_id, private=None, exist_ok=False):
        assert exist_ok
        return SimpleNamespace(repo_id=f"{repo_id}")

    def upload_folder(self, *, folder_path, allow_patterns, **settings):
        files = (path.relative_to(folder_path).as_posix() for path in sorted(folder_path.rglob("*")) if path.is_file())
        calls.append(settings | {"files": [*filter_repo_objects(files, allow_patterns=allow_patterns)]})

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def run_ner(encoder, output, *flags) -> dict[str, float]:
    files = list_sample_flags("ner", "train", "validation", "test")
    return run_in_process(
        ner, ner.NerArguments, *files, "--model_name_or_path", encoder, "--do_train", "--do_eval", "--do_predict",
        "--output_dir", output, "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy",
        "no", "--use_peft", "--learning_rate", "1e-3", *flags,
    )  # fmt: skip


def test_the_result_is_uploaded_once_with_our_card_and_without_rows_or_checkpoints(encoder, tmp_path, uploads, capsys):
    output = tmp_path / "secret place"
    scores = run_ner(encoder, output, *PUSH, "--license", "apache-2.0")
    (upload,) = uploads
    assert upload["repo_id"] == "me/tagger"
    adapter = [f"adapter/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")]
    adapter += [f"adapter/{name}" for name in ("tokenizer.json", "tokenizer_config.json", "training_args.json")]
    pictures = ("f1_by_entity_type", "f1_by_length_of_the_sentence")
    assert upload["files"] == [
        "README.md", *adapter, "config.json", "config.yaml", "history.csv", "manifest.json", "metrics.json",
        "model.safetensors", *(f"plots/{split}_{name}.png" for split in ("test", "validation") for name in pictures),
        "recipe.json", "tokenizer.json", "tokenizer_config.json", "training_args.json",
    ]  # fmt: skip
    assert (output / "predictions_test.jsonl").is_file() and (output / "report.html").is_file()
    assert "uploaded     me/tagger: 20 files; predictions_*.jsonl and report.html stay here" in capsys.readouterr().out
    card = ModelCard.load(output / "README.md")
    assert 'model="me/tagger"' in card.text and "an adapter (lora), merged into the weights" in card.text
    assert card.data.license == "apache-2.0" and "- licence: apache-2.0" in card.text
    found = {(result.dataset_split, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert found == {(s, n): scores[f"{s}_{n}"] for s in ("validation", "test") for n in ("f1", "precision", "recall")}


def test_an_upload_that_fails_leaves_a_whole_run_and_says_what_to_do(encoder, tmp_path, uploads, monkeypatch, capsys):
    def refuse(self, **settings):
        raise OfflineModeIsEnabled("no network")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    run_ner(encoder, tmp_path / "out", *PUSH, "--hub_private_repo", "--hub_revision", "first")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == (
        f"warning: the result is whole, in {tmp_path}/out, but was not uploaded (no network). To do it by hand: "
        f"hf upload me/tagger {tmp_path}/out --private --revision first --exclude 'predictions_*.jsonl' "
        "--exclude report.html --exclude 'checkpoint-*' --exclude '_*'"
    )
    assert (tmp_path / "out" / "metrics.json").is_file() and (tmp_path / "out" / "README.md").is_file()


def test_a_secret_in_what_would_be_uploaded_keeps_the_result_here(tmp_path, uploads):
    token = "hf_" + "aB3" * 11
    (tmp_path / "README.md").write_text(f"# A model\n\nmade with {token}\n")
    (tmp_path / "predictions_test.jsonl").write_text(token)  # stays here anyway
    with pytest.raises(UserError) as refused:
        upload_result(tmp_path, "me/tagger", SimpleNamespace(hub_revision=None, hub_private_repo=None))
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/README.md:3: this looks like a Hugging Face token\nThe result is whole, in ")
    assert f"hf upload me/tagger {tmp_path} --exclude 'predictions_*.jsonl'" in message and token not in message
    assert not uploads


@pytest.mark.parametrize(("offline", "reason"), [(True, "offline mode is enabled"), (False, "Connection refused")])
def test_without_the_hub_the_run_trains_and_tries_again_at_its_end(
    encoder, tmp_path, capsys, monkeypatch, offline, reason
):
    """No boundary is replaced here: nothing answers where the hub is looked for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOBODY)
    run_ner(encoder, tmp_path / "out", *PUSH)
    said = capsys.readouterr()
    assert "push_to_hub: the hub cannot be reached" in said.out and "The run goes on" in said.out
    last = said.err.strip().splitlines()[-1]
    assert "hf upload me/tagger" in last and reason in last
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_a_hub_that_refuses_stops_the_run_before_it_trains(encoder, tmp_path, monkeypatch):
    def refuse(self, repo_id, **settings):
        raise HfHubHTTPError("401 Unauthorized", response=Response(401, request=Request("POST", "https://hub")))

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"there is no repository me/tagger on the hub for us.*leave out push_to_hub"):
        run_ner(encoder, tmp_path / "out", *PUSH)
    assert not (tmp_path / "out" / "checkpoint-2").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OfflineModeIsEnabled("offline"), True),
        (ConnectError("no route"), True),
        (HfHubHTTPError("x", response=Response(503, request=Request("POST", "https://hub"))), True),
        (HfHubHTTPError("x", response=Response(403, request=Request("POST", "https://hub"))), False),
        (OSError("the file is gone"), False),
    ],
)
def test_what_does_not_answer_is_unreachable_and_what_refuses_is_not(error, expected):
    assert is_unreachable(error) is expected


def test_a_dry_run_makes_no_repository(encoder, tmp_path):
    assert "train_loss" in run_ner(encoder, tmp_path / "out", *PUSH, "--dry_run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hub_strategy": "every_save"}, "hub_strategy every_save would upload what is not finished, and rows"),
        ({"do_train": False}, "push_to_hub uploads a model, but none is trained"),
    ],
)
def test_an_upload_that_cannot_be_meant_is_refused(settings, message):
    args = {"do_train": True, "hub_model_id": "me/x", "output_dir": "out"}
    with pytest.raises(UserError, match=message):
        create_repository(TrainingArguments(**args | settings))


def test_only_known_folders_and_no_hidden_files_are_public(tmp_path):
    names = ["model.safetensors", "predictions_test.jsonl", "report.html", ".env", "_tmp.json", "recipe.json.tmp"]
    for name in (
        *names,
        "wandb/run.json",
        "checkpoint-2/model.safetensors",
        "plots/[a].png",
        "adapter/x/y.json",
        "adapter/README.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list_public_files(tmp_path) == ["adapter/x/y.json", "model.safetensors", "plots/[a].png"]
