"""common/tracking.py: trackers that cannot work are found out first; where runs and their files belong."""

import os
import sys
from pathlib import Path

from common.arguments import TrainingArguments
from common.atomic_files import write_json
from common.errors import UserError
from common.tracked_run import choose_settings
from common.tracking import check_trackers, separate_trial
from common.trainers import Trainer
from recipes.ner import run as ner
from tests.conftest import run_in_process
from tests.small_models import ENCODER, build

import pytest
import yaml
from transformers.integrations import TensorBoardCallback


@pytest.fixture(autouse=True)
def without_variables(monkeypatch):
    for name in (
        "PROJECT",
        "ENTITY",
        "RUN_GROUP",
        "TAGS",
        "NOTES",
        "NAME",
        "RUN_ID",
        "RESUME",
        "DIR",
        "SWEEP_ID",
        "CACHE_DIR",
    ):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


def make_arguments(output: Path, **settings) -> TrainingArguments:
    return TrainingArguments(output_dir=str(output), dtype="float32", **settings)


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("mlflow", "report_to mlflow: it is not installed; run `pip install mlflow`, or leave it out."),
        ("wandbb", "report_to wandbb is unknown: choose from none, "),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_data_or_a_model_are_read(tracker, message, tmp_path):
    flags = ["--from_scratch", "encoder_tiny", "--train_file", "missing.jsonl", "--do_train", "--report_to", tracker]
    with pytest.raises(UserError) as caught:
        run_in_process(ner, ner.NerArguments, *flags, "--output_dir", tmp_path / "result")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "result").exists()


def test_settings_of_wandb_without_it_are_said_to_be_without_effect(tmp_path, capsys):
    check_trackers(make_arguments(tmp_path, wandb_project="x", wandb_tags=["a"]))
    assert capsys.readouterr().out == "wandb_project, wandb_tags have no effect: report_to does not name wandb.\n"
    check_trackers(make_arguments(tmp_path))
    assert capsys.readouterr().out == ""


def test_a_table_cannot_have_less_than_no_rows(tmp_path):
    with pytest.raises(UserError, match="wandb_table_rows is -1"):
        make_arguments(tmp_path, wandb_table_rows=-1)


def test_a_run_belongs_where_the_flags_say(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/my_ner/run.py"])
    chosen = choose_settings(make_arguments(tmp_path, wandb_tags=["a"], run_name="first"), tmp_path)
    assert chosen == {
        "project": "trainer-recipes-my_ner", "entity": None, "group": None, "tags": ["a"], "notes": None,
        "name": "first", "id": None, "resume": "allow", "dir": str(tmp_path),
    }  # fmt: skip


def test_the_environment_wins_over_flags_and_over_the_run_before(tmp_path, monkeypatch):
    write_json(tmp_path / "run.json", {"id": "abc"})
    arguments = make_arguments(tmp_path, wandb_project="flag", wandb_entity="team")
    assert choose_settings(arguments, tmp_path)["id"] == "abc"
    monkeypatch.setenv("WANDB_PROJECT", "environment")
    monkeypatch.setenv("WANDB_RUN_ID", "xyz")
    chosen = choose_settings(arguments, tmp_path)
    assert "project" not in chosen and "id" not in chosen and chosen["entity"] == "team"


def test_in_a_sweep_nothing_is_overridden_but_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_DIR", "/current")  # as the agent sets it
    arguments = make_arguments(tmp_path, wandb_project="flag", run_name="first", wandb_tags=["a"])
    assert choose_settings(arguments, tmp_path) == {"dir": str(tmp_path)}


def test_each_trial_of_a_sweep_has_a_directory_that_its_config_names(tmp_path, monkeypatch, capsys):
    arguments = make_arguments(tmp_path / "sweep")
    arguments.config_text = f"# Training\noutput_dir: {tmp_path}/sweep\nseed: 42\n"
    separate_trial(arguments)
    assert arguments.output_dir == f"{tmp_path}/sweep"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    separate_trial(arguments)
    assert arguments.output_dir == f"{tmp_path}/sweep/r1"
    assert yaml.safe_load(arguments.config_text) == {"output_dir": f"{tmp_path}/sweep/r1", "seed": 42}
    assert f"output_dir is {tmp_path}/sweep/r1" in capsys.readouterr().out


def test_tensorboard_writes_into_the_result_directory_and_goes_on_in_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    model = build("BertForTokenClassification", ENCODER)

    def find_folder() -> str:
        trainer = Trainer(model, make_arguments(tmp_path, report_to=["tensorboard"]))
        return next(c for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)).logging_dir

    assert find_folder() == str(tmp_path / "runs")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")
    assert find_folder() == "/elsewhere"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WANDB_API_KEY", "abc", "W&B: WANDB_API_KEY invalid: API key must have 40+ characters"),
        ("WANDB_MODE", "ofline", "W&B: 1 validation error for Settings mode Input should be 'online', 'offline'"),
    ],
)
def test_what_wandb_does_not_accept_is_said_before_anything_is_written(
    variable, value, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(variable, value)
    hook = sys.excepthook
    with pytest.raises(UserError) as caught:
        check_trackers(make_arguments(tmp_path / "result", report_to=["wandb"]))
    assert str(caught.value).startswith(message)
    assert sys.excepthook is hook and "WANDB_CACHE_DIR" not in os.environ
    assert not (tmp_path / "result").exists()


def test_a_disabled_wandb_is_no_tracker(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    arguments = make_arguments(tmp_path, report_to=["wandb", "tensorboard"])
    check_trackers(arguments)
    assert arguments.report_to == ["tensorboard"]
