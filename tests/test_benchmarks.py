"""The arithmetic of the benchmarks, by hand: what counts as a real token, what it costs, and what a ratio is of."""

import json
import os
import subprocess
import sys

from benchmarks.contestants import CONTESTANTS, TASKS
from benchmarks.cpu_functions import main as measure_functions
from benchmarks.growth import repeat_rows
from benchmarks.overhead import compare_steps
from benchmarks.overhead import main as measure_overhead
from benchmarks.padding import main as count_padding
from benchmarks.plain import SCRIPTS, _find_answer
from benchmarks.speed import average_ratios, compare_rounds, complete_measures, list_ratios
from benchmarks.startup import AS_PYTHON_DOES
from benchmarks.timed import watch_collator
from benchmarks.tokens import Sides, count_tokens
from benchmarks.utilization import choose_device, count_step_flops
from common.errors import UserError
from common.from_scratch import PRESETS
from tests.conftest import ROOT, launch

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM


def test_padding_is_computed_but_not_real():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    sides = count_tokens(batch, 0, has_targets=False)
    assert (sides.real, sides.computed, sides.source, sides.target) == (6, 8, 6, 0)
    assert sides.source_squares == 16 + 4
    assert sides.share == 0.75


def test_both_sides_of_an_encoder_decoder_are_counted():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [5, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "labels": torch.tensor([[3, -100], [3, 4]]),
    }
    sides = count_tokens(batch, 0, has_targets=True)
    assert (sides.real, sides.computed, sides.source, sides.target) == (4 + 3, 6 + 4, 4, 3)
    assert sides.products == 3 * 1 + 1 * 2
    assert sides.target_squares == 1 + 4
    assert count_tokens(batch, 0, has_targets=False).computed == 6


def test_texts_packed_into_a_row_have_lengths_of_their_own():
    # Texts of 3 and 2 pieces in the first row; one of 2 and three of padding in the second.
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 5, 6], [5, 6, 0, 0, 0]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]),
    }
    sides = count_tokens(batch, 0, has_targets=False)
    assert (sides.real, sides.computed) == (7, 10)
    assert sides.source_squares == 9 + 4 + 4


def test_flops_of_an_encoder_are_six_for_each_weight_and_token_and_those_of_attention():
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=20, num_labels=3,
    )  # fmt: skip
    layer = 4 * (8 * 8 + 8) + 2 * 8 + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 8
    weights = 2 * 8 + 2 * layer + (8 * 8 + 8) + (8 * 3 + 3)  # norm of the embeddings, layers, pooler, classifier
    sides = Sides(real=10, computed=12, source=10, source_squares=52)
    expected = 6 * weights * 10 + 12 * 8 * 2 * 52
    assert count_step_flops(BertForSequenceClassification(config), sides) == expected


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_of_a_decoder_counts_whether_it_is_tied_or_not(is_tied):
    config = LlamaConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        tie_word_embeddings=is_tied,
    )  # fmt: skip
    weights = 4 * 8 * 8 + 3 * 8 * 16 + 2 * 8 + 8 + 50 * 8
    sides = Sides(real=10, computed=10, source=10, source_squares=52)
    assert count_step_flops(LlamaForCausalLM(config), sides) == 6 * weights * 10 + 12 * 8 * 26


def test_ratios_are_of_runs_of_the_same_round():
    assert compare_rounds([10, 12, 30], [5, 4, 10]) == {"median": 3, "lowest": 2, "highest": 3}
    assert compare_rounds([2, 4], [3, 2], more_is_better=False) == {"median": 1.0, "lowest": 0.5, "highest": 1.5}
    with pytest.raises(ValueError, match="zip"):
        compare_rounds([1, 2], [1])


def test_geometric_means_are_not_arithmetic_ones():
    assert average_ratios([2, 8]) == pytest.approx(4)
    assert average_ratios([4, 0.25]) == pytest.approx(1)


def test_the_first_step_is_left_out_by_its_share_of_the_tokens():
    measured = {
        "timed_share": 0.75, "training_seconds": 3.0, "evaluation_seconds": 2.0, "device": "cpu", "dtype": "float32",
        "peak_memory": 5e8, "flops_per_second": 2e9,
    }  # fmt: skip
    found = complete_measures(measured, {"train": 100, "validation": 50}, 2.0, {"float32": 1e10})
    assert found["training_samples_per_second"] == pytest.approx(200 * 0.75 / 3)
    assert found["evaluation_samples_per_second"] == 25
    assert (found["peak_megabytes"], found["utilization"]) == (500, 20)


def test_less_memory_and_time_are_better():
    better = {
        "training_samples_per_second": 20.0, "real_tokens_per_second": 20.0, "evaluation_samples_per_second": 20.0,
        "first_step": 5.0, "seconds": 5.0, "peak_megabytes": 5.0,
    }  # fmt: skip
    worse = dict.fromkeys(better, 10.0)
    found = list_ratios([{"ours": better, "default": worse, "best": worse}])
    assert list(found) == ["default", "best"]
    assert {name: ratio["median"] for name, ratio in found["default"].items()} == dict.fromkeys(better, 2.0)


def test_batches_are_counted_in_the_order_in_which_they_are_collated():
    rows = [[5, 6], [5, 0], [5, 6]]
    dataloader = torch.utils.data.DataLoader(rows, batch_size=2, collate_fn=collate_ids)
    noted = []
    watch_collator(Stub(), dataloader, noted.append)
    assert len(list(dataloader)) == 2
    assert [(sides.real, sides.computed) for sides in noted] == [(3, 4), (2, 2)]


def collate_ids(rows):
    return {"input_ids": torch.tensor(rows)}


class Stub:
    """As much of a Trainer as tells what its batches are padded with."""

    class processing_class:
        pad_token_id = 0

    class model:
        config = BertConfig()


def test_the_plain_script_finds_an_answer_or_points_to_the_first_piece():
    answers, in_context = {"text": ["old mill"], "answer_start": [4]}, [False, True, True, True, False]
    assert _find_answer(answers, [(0, 0), (0, 3), (4, 7), (8, 12), (0, 0)], in_context) == (2, 3)
    assert _find_answer(answers, [(0, 0), (8, 12), (13, 15), (16, 19), (0, 0)], in_context) == (0, 0)
    assert _find_answer({"text": [], "answer_start": []}, [], in_context) == (0, 0)


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TASKS)
def test_all_contestants_train_on_the_same_real_tokens(recipe, tmp_path):
    count_padding(["--recipe", recipe, "--samples", "40", "--output", str(tmp_path / "padding.json")])
    found = json.loads((tmp_path / "padding.json").read_text())[recipe]
    real = [found[contestant]["training_tokens"]["real"] for contestant in CONTESTANTS]
    assert real[0] == real[1] == real[2] > 0
    for contestant in CONTESTANTS:
        for split in ("training", "evaluation"):
            assert 0 < found[contestant][f"{split}_tokens"]["real"] <= found[contestant][f"{split}_tokens"]["computed"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ner", "qa", "translation"])
def test_the_bare_loop_loses_what_our_trainer_loses(recipe, tmp_path):
    """Else what is compared would not be two ways to the same training."""
    flags = ["--recipe", recipe, "--rounds", "1", "--steps", "6", "--batch_size", "4"]
    measure_overhead([*flags, "--output", str(tmp_path / "overhead.json")])
    (found,) = json.loads((tmp_path / "overhead.json").read_text())["figures"][recipe]["rounds"]
    assert found["bare_loss"] == pytest.approx(found["ours_loss"], rel=1e-3)
    assert len(found["bare"]) == len(found["ours"]) == 4 and min(found["bare"] + found["ours"]) > 0


def test_every_model_and_dtype_is_stepped_with_both_kinds_of_functions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measure_functions(["--lengths", "8", "--rows", "2", "--repeats", "3"])
    figures = json.loads((tmp_path / "outputs/benchmarks/cpu_functions.json").read_text())["figures"]
    assert [(found["model"], found["dtype"]) for found in figures] == [
        (model, dtype) for model in ("encoder_small", "decoder_small") for dtype in ("bfloat16", "float32")
    ]
    for found in figures:
        assert len(found["seconds"]) == 3 and all(theirs > 0 and ours > 0 for theirs, ours in found["seconds"])
        # Numbers in bfloat16 are within 2^-9, 0.2 %, of what they stand for: a step is off by more, but not by much.
        assert all(0.001 < error < 0.03 for error in found["errors"])
        assert len(found["errors"]) == (2 if found["dtype"] == "bfloat16" else 0)
    assert capsys.readouterr().out.count("\n") == 6


def test_the_run_beside_ours_searches_for_garbage_as_python_does(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import gc, sys\nimport common\nfrom common.garbage import settle_imports\nsettle_imports()\n"
        "print(gc.get_threshold()[0], gc.get_freeze_count() > 0, sys.argv)\n"
    )
    commands = [sys.executable, str(script)], [sys.executable, "-c", AS_PYTHON_DOES, str(script)]
    said = [launch([*command, "--flag"], PYTHONPATH=str(ROOT)).stdout for command in commands]
    assert said == [f"700 {is_frozen} ['{script}', '--flag']\n" for is_frozen in (True, False)]


def test_a_step_is_compared_with_the_same_step():
    assert compare_steps([1.0, 4.0, 90.0], [2.0, 4.0, 30.0]) == 1.0  # of 0.5, 1 and 3


def test_rows_are_repeated_under_other_ids(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "ä"}\n{"text": "b"}\n', encoding="utf-8")
    repeat_rows(path, 2)
    first, second = {"text": "ä"}, {"text": "b"}
    twice = [{"id": "a"} | first, second, {"id": "a-2"} | first, second]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == twice
    repeat_rows(path, 2)  # as 4 times become 16: no id a second time
    again = [{"id": "a-4"} | first, second, {"id": "a-2-6"} | first, second]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == twice + again


def test_every_recipe_has_a_plain_script_and_a_model_of_its_own():
    recipes = {path.parent.name for path in (ROOT / "recipes").glob("*/run.py")}
    assert set(TASKS) == set(SCRIPTS) == recipes
    assert {task.preset for task in TASKS.values()} <= {name for presets in PRESETS.values() for name in presets}
    assert CONTESTANTS[0] == "ours"


def test_runs_that_are_forked_have_one_thread_and_stay_offline_wherever_they_are_begun(tmp_path):
    """With two threads each, two runs at a time took minutes for what they generate in seconds."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom huggingface_hub import constants\nprint(torch.get_num_threads(), constants.HF_HUB_OFFLINE)"
    )
    code = "from tests.faults.forked import *; print(start_script(Path(sys.argv[1])).finish().stdout)"
    env = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")}
    run = subprocess.run([sys.executable, "-c", code, script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert "1 True" in run.stdout.splitlines(), run.stdout + run.stderr
