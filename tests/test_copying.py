"""The promise of copying: a recipe folder works anywhere, launched from anywhere."""

import shutil
import sys
from pathlib import Path

from tests.conftest import ROOT, launch

import pytest

SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("dialogue", "qa", "sentiment", "summarization", "translation")
]


@pytest.mark.parametrize("recipe", ["ner", *SLOW])
def test_a_copied_recipe_runs_outside_the_repository(recipe, tmp_path):
    copy = shutil.copytree(ROOT / "recipes" / recipe, tmp_path / f"my_{recipe}")
    accelerate = Path(sys.executable).with_name("accelerate")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = copy / "configs" / "demo.yaml"
    command = [accelerate, "launch", copy / "run.py", "--config", config, "--max_steps", "2", "--save_strategy", "no"]
    command += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    run = launch([str(word) for word in command], cwd=elsewhere)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (elsewhere / "outputs" / f"{recipe}-demo" / "metrics.json").is_file()
    assert f"report       {Path(f'outputs/{recipe}-demo/report.html')}" in run.stdout
