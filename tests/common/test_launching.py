import os
import sys
import time
from pathlib import Path

from common.arguments import TrainingArguments
from common.errors import UserError
from common.launching import check_launch
from tests.conftest import ROOT, launch

import pytest


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP"])
def test_a_variable_that_would_turn_sharding_off_is_refused(name, tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    check_launch(args)
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_CPU is set, which turns (DeepSpeed|FSDP) off without a word"):
        check_launch(args)


def test_the_lock_of_an_interrupted_build_is_refused_and_that_of_a_running_one_is_not(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True)
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check_launch(args)
    hours_ago = time.time() - 3 * 3600
    os.utime(lock, (hours_ago, hours_ago))
    with pytest.raises(UserError) as refused:
        check_launch(args)
    assert str(lock) in str(refused.value) and "3.0 hours ago" in str(refused.value)
    lock.unlink()
    check_launch(args)


def test_fsdp_is_refused_where_accelerate_would_train_without_it(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="FSDP needs GPUs: here Accelerate would train without it"):
        check_launch(args)


@pytest.mark.parametrize("asked_by", ["accelerate", "flag"])
def test_the_first_version_of_fsdp_is_refused(asked_by, tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # which the flag sets: put back behind the test
    flags = {"fsdp": True, "fsdp_config": {"version": 1}} if asked_by == "flag" else {}
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True, **flags)
    if asked_by == "accelerate":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="FSDP's version 1 is deprecated.* set fsdp_version: 2"):
        check_launch(args)


def test_one_process_in_place_of_several_is_refused(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True)
    for name in ("MASTER_ADDR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    check_launch(args)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(
        UserError, match="asked for several processes, but has started one: set distributed_type: MULTI_GPU"
    ):
        check_launch(args)


CONFIGS = {
    "MULTI_CPU": ("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n", "but has started one"),
    "FSDP 2": ("distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 2\n", "FSDP needs GPUs"),
    "FSDP 1": (
        "distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 1\n",
        "version 1 is deprecated",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_launch_that_would_do_something_else_stops_with_a_message(name, tmp_path):
    text, message = CONFIGS[name]
    config = tmp_path / "config.yaml"
    config.write_text(f"compute_environment: LOCAL_MACHINE\nnum_machines: 1\nmain_process_port: 0\n{text}")
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "-q", "--config_file", str(config)]
    recipe = [str(ROOT / "recipes/ner" / name) for name in ("run.py", "configs/demo.yaml")]
    run = launch([*command, recipe[0], "--config", recipe[1], "--output_dir", str(tmp_path / "out")])
    assert run.returncode != 0 and message in run.stderr and not (tmp_path / "out").exists(), run.stderr[-2000:]


@pytest.mark.parametrize("asked_by", ["deepspeed", "deepspeed_config_file"])
def test_a_file_for_deepspeed_that_is_missing_or_broken_is_named(asked_by, tmp_path, monkeypatch):
    path = tmp_path / "zero2.json"
    settings = {"output_dir": str(tmp_path / "out")}
    if asked_by == "deepspeed":
        settings["deepspeed"] = str(path)
    else:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    with pytest.raises(UserError, match=f"^{asked_by} {path}: no such file in "):
        TrainingArguments(**settings)
    path.write_text('{"zero_optimization": {"stage": 2},\n "fp16" {}}')
    with pytest.raises(UserError, match=f"^{path}:2:9: not valid JSON: Expecting ':' delimiter"):
        TrainingArguments(**settings)
