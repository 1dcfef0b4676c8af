import os
import time

from common.arguments import TrainingArguments
from common.errors import UserError
from common.launching import check_launch

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
