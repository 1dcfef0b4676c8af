"""common/fingerprint.py: when two starts are starts of one run."""

from pathlib import Path
from types import SimpleNamespace

from common.errors import UserError
from common.fingerprint import identify_run, list_differences, refuse_differences

import pytest
import yaml


def make_arguments(folder: Path, rows=8, accumulation=1, processes=1, **settings) -> SimpleNamespace:
    """The training arguments of a run on folder/train.jsonl and folder/validation.jsonl."""
    text = {
        "train_file": [str(folder / "train.jsonl")], "validation_file": [str(folder / "validation.jsonl")],
        "test_file": None, "dataset_name": None, "dataset_revision": None, "model_name_or_path": None, "seed": 42,
        "learning_rate": 1e-3, "output_dir": "out", "logging_steps": 1, "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation, "report_to": [], "allow_change": None,
    } | settings  # fmt: skip
    return SimpleNamespace(
        config_text=yaml.safe_dump(text), per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation,
        world_size=processes, n_gpu=0,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with two files of data and one of a model."""
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def compare(there: SimpleNamespace, here: SimpleNamespace) -> dict[str, str]:
    return list_differences(identify_run(there), identify_run(here))


def test_where_a_run_is_watched_from_is_no_difference(data):
    there = make_arguments(data)
    here = make_arguments(data, output_dir="elsewhere", report_to=["wandb"], allow_change=["seed"])
    assert compare(there, here) == {}


def test_settings_that_differ_are_named_with_both_values(data):
    differences = compare(make_arguments(data), make_arguments(data, seed=7, learning_rate=1e-2))
    assert differences == {"learning_rate": "learning_rate: 0.001 -> 0.01", "seed": "seed: 42 -> 7"}


def test_what_counts_of_the_batch_is_the_rows_of_a_step(data):
    whole = make_arguments(data, rows=8)
    assert compare(whole, make_arguments(data, rows=2, accumulation=4)) == {}
    assert compare(whole, make_arguments(data, rows=4)) == {"rows_per_step": "rows_per_step: 8 -> 4"}
    assert compare(whole, make_arguments(data, rows=4, processes=2)) == {"processes": "processes: 1 -> 2"}


def test_a_file_is_known_by_what_it_holds(data, tmp_path_factory):
    there = identify_run(make_arguments(data))
    moved = tmp_path_factory.mktemp("moved")
    for name in ("train.jsonl", "validation.jsonl"):
        (moved / name).write_bytes((data / name).read_bytes())
    assert list_differences(there, identify_run(make_arguments(moved))) == {}
    (moved / "train.jsonl").write_text('{"text": "other"}\n')
    differences = list_differences(there, identify_run(make_arguments(moved)))
    assert differences == {"data": "data: train.jsonl holds something else"}
    (data / "validation.jsonl").write_text("")
    (data / "train.jsonl").write_text("")
    differences = list_differences(there, identify_run(make_arguments(data)))
    assert differences == {"data": "data: train.jsonl, validation.jsonl hold something else"}


def test_files_of_one_name_are_told_apart_by_their_paths(data):
    (data / "other").mkdir()
    (data / "other" / "train.jsonl").write_text("validation")
    paths = {"validation_file": [str(data / "other" / "train.jsonl")]}
    identity = identify_run(make_arguments(data, **paths))
    assert list(identity["data"]) == [str(data / "train.jsonl"), str(data / "other" / "train.jsonl")]


def test_a_local_model_is_known_by_its_files(data):
    there = identify_run(make_arguments(data, model_name_or_path=str(data / "model")))
    (data / "model").rename(data / "renamed")
    here = make_arguments(data, model_name_or_path=str(data / "renamed"))
    assert list_differences(there, identify_run(here)) == {}
    (data / "renamed" / "model.safetensors").write_bytes(b"other weights")
    differences = list_differences(there, identify_run(here))
    assert differences == {"model": "model: model.safetensors holds something else"}


def test_a_model_of_the_hub_is_known_by_its_name(data):
    there, here = (make_arguments(data, model_name_or_path=name) for name in ("org/one", "org/two"))
    assert compare(there, here) == {"model_name_or_path": "model_name_or_path: org/one -> org/two"}


def test_only_what_is_allowed_may_differ():
    differences = {"seed": "seed: 42 -> 7", "data": "data: train.jsonl holds something else"}
    with pytest.raises(
        UserError, match=r"^out with other settings \(seed: 42 -> 7; data: .*\): cure, or .*: --allow_ch"
    ):
        refuse_differences(Path("out"), differences, None, "cure")
    with pytest.raises(UserError, match=r"^out with other settings \(data: .*\): cure, or .*: --allow_change data\.$"):
        refuse_differences(Path("out"), differences, ["seed"], "cure")
    refuse_differences(Path("out"), differences, ["seed", "data"], "cure")
    refuse_differences(Path("out"), {}, None, "cure")
