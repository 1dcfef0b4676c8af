"""Training rows that are read while the model trains: all six recipes, as users run them."""

import json
from pathlib import Path

from tests.conftest import SAMPLE, read_history
from tests.faults.fault import NEEDED_FLAGS, RECIPES, run_recipe
from tests.faults.process import break_one_step
from tests.interruption import ROWS, describe_result, hash_file, list_short_flags, list_steps, restore_step

import pytest

QUICK = {"qa", "translation", "summarization", "sentiment"}  # the others are resumed in `make test`
STEPS = 5  # of four rows each: the two that an epoch has left have not come yet


def list_flags(recipe: str, output: Path, *flags: object) -> list[object]:
    return list_short_flags(recipe, [*NEEDED_FLAGS[recipe][:2], "--vocab_size", "600"], output, *flags)


def mark_slow(quick: set[str]) -> list:
    return [pytest.param(recipe, marks=[] if recipe in quick else pytest.mark.slow) for recipe in RECIPES]


@pytest.mark.parametrize("recipe", mark_slow(QUICK))
def test_a_stream_that_fits_its_buffer_is_trained_on_as_the_data_set_is(recipe, tmp_path):
    steps = ["--max_steps", STEPS, "--eval_steps", STEPS, "--save_steps", STEPS]
    whole = run_recipe(recipe, *list_flags(recipe, tmp_path / "whole", *steps))
    assert whole.code == 0, whole.tail()
    stream = ["--streaming", "--streaming_buffer_size", ROWS, "--dataloader_num_workers", 1]
    streamed = run_recipe(recipe, *list_flags(recipe, tmp_path / "streamed", *steps, *stream))
    assert streamed.code == 0, streamed.tail()
    assert f"train a stream, the first {ROWS} rows, validation 6 rows" in streamed.stdout
    assert f"steps      {STEPS} (20 rows)" in streamed.stdout
    losses = [[line["loss"] for line in read_history(tmp_path / name, "loss")] for name in ("whole", "streamed")]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
    found, expected = describe_result(tmp_path / "streamed"), describe_result(tmp_path / "whole")
    assert found["model.safetensors"] == expected["model.safetensors"]


@pytest.mark.parametrize("recipe", mark_slow({"ner", "dialogue"}))
def test_a_run_that_was_interrupted_within_a_stream_goes_on_exactly(recipe, tmp_path):
    flags = list_flags(recipe, tmp_path / "result", "--streaming", "--streaming_buffer_size", 9)
    # The first nine rows have not all of them.
    flags += ["--class_names", "negative", "neutral", "positive"] if recipe == "sentiment" else []
    run = run_recipe(recipe, *flags)
    assert run.code == 0, run.tail()
    whole = (tmp_path / "result").rename(tmp_path / "whole")
    assert list_steps(whole) == [3, 6, 9, 12, 15]
    for step in (3, 9):  # in the second block, and in the third time through the data
        restore_step(whole, tmp_path / "result", step)
        resumed = run_recipe(recipe, *flags)
        assert resumed.code == 0 and f"checkpoint-{step}." in resumed.stdout, resumed.tail()
        assert describe_result(tmp_path / "result", step) == describe_result(whole, step), step


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_that_is_refused_ends_the_run_with_a_checkpoint_and_mended_it_goes_on(workers, tmp_path):
    rows = (SAMPLE / "train.jsonl").read_text().splitlines()[:20]
    broken = json.loads(rows[17])
    broken["tags"] = ["B-NOWHERE"] * len(broken["tokens"])
    train = tmp_path / "train.jsonl"
    train.write_text("\n".join([*rows[:17], json.dumps(broken), *rows[18:]]) + "\n")
    flags = list_flags("ner", tmp_path / "result", "--train_file", train, "--streaming", "--streaming_buffer_size", 8)
    flags += [
        "--dataloader_num_workers",
        workers,
        "--save_steps",
        100,
        "--eval_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
        "--max_steps",
        6,
    ]
    run = run_recipe("ner", *flags)
    assert run.code == 1 and "Traceback" not in run.stderr, run.tail()
    step = list_steps(tmp_path / "result")[-1]
    said = f"error: {train}:18: tag B-NOWHERE is not in the first rows; name it in tag_names"
    assert said in run.stderr and f"checkpoint-{step} is saved: the same command goes on from there" in run.stderr
    assert step == 3  # the batch behind the next one is read ahead
    train.write_text("\n".join(rows) + "\n")
    refused = run_recipe("ner", *flags)
    assert refused.code == 1 and "--allow_change data" in refused.stderr, refused.tail()
    mended = run_recipe("ner", *flags, "--allow_change", "data")
    assert mended.code == 0 and f"Resuming from {tmp_path}/result/checkpoint-{step}." in mended.stdout, mended.tail()
    assert hash_file(tmp_path / "result" / "model.safetensors")


def test_a_step_that_is_not_finite_names_its_rows(tmp_path):
    finding = break_one_step("nan loss", "sentiment", tmp_path, "--streaming", "--streaming_buffer_size", 16)
    assert finding.verdict == "survives", finding.evidence


def test_a_stream_without_max_steps_is_refused_before_anything_is_written(tmp_path):
    flags = list_flags("qa", tmp_path / "result", "--streaming", "--max_steps", -1)
    run = run_recipe("qa", *flags)
    assert run.code == 1 and not (tmp_path / "result").exists(), run.tail()
    assert "error: streaming: nobody knows how many rows there are: set max_steps in place of num_" in run.stderr
