"""Two processes train as one: launched as a user launches them, on the CPU."""

import subprocess
import sys
from pathlib import Path

from common.arguments import TrainingArguments
from common.atomic_files import read_json
from common.errors import UserError
from common.training import prepare_run
from tests.conftest import ROOT, SAMPLE, launch, list_sample_flags, read_history, read_jsonl, read_scores, write_jsonl
from tests.faults.fault import run_recipe
from tests.faults.ranks import launch_stopped_while_saving
from tests.interruption import describe_result, list_short_flags, list_steps, restore_step

import pytest

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
# 480 rows: an incomplete last step would be filled up with other rows where there are two processes. A constant rate,
# so that the first steps are the same however many follow.
TRAIN = [
    *list_sample_flags("ner", "train", "validation"), "--do_train", "--do_eval", "--dtype", "float32",
    "--learning_rate", "5e-3", "--lr_scheduler_type", "constant", "--max_steps", "60", "--logging_steps", "1",
    "--save_strategy", "no", "--max_train_samples", "480", "--max_eval_samples", "37",
]  # fmt: skip


def run_alone(recipe: str, rows: int, output: Path, *flags: object) -> Path:
    """The result of one process with `rows` rows a batch."""
    run = run_recipe(recipe, *flags, "--per_device_train_batch_size", rows, "--output_dir", output)
    assert run.code == 0, run.tail()
    return output


def run_together(recipe: str, rows: int, output: Path, *flags: object) -> subprocess.CompletedProcess:
    """What two processes say, launched as a user launches them, with `rows` rows a batch of each."""
    command = [
        ACCELERATE, "launch", "--config_file", ROOT / "accelerate_configs" / "multi_cpu.yaml",
        ROOT / "recipes" / recipe / "run.py", *flags, "--per_device_train_batch_size", rows, "--output_dir", output,
    ]  # fmt: skip
    run = launch([str(word) for word in command])
    assert run.returncode == 0, run.stderr[-3000:]
    return run


def read_losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_history(output, "loss")]


@pytest.fixture(scope="module")
def alone(encoder, tmp_path_factory) -> Path:
    """The result of one process that trains 60 steps of 16 rows."""
    output = tmp_path_factory.mktemp("alone") / "out"
    return run_alone("ner", 16, output, "--model_name_or_path", encoder, *TRAIN)


def test_two_processes_give_the_run_of_one(alone, encoder, tmp_path):
    """37 rows do not divide by 2: the last batch is filled up, and neither scores nor loss may count that."""
    output = tmp_path / "two"
    run = run_together("ner", 8, output, "--model_name_or_path", encoder, *TRAIN)
    assert "device     cpu, 2 processes" in run.stdout
    assert "batch      16 rows a step = 8 a device x 2 x 1 accumulation" in run.stdout
    losses, shared_losses = read_losses(alone), read_losses(output)
    assert len(losses) == 60
    assert shared_losses[:10] == pytest.approx(losses[:10], rel=1e-6)
    assert shared_losses == pytest.approx(losses, rel=1e-5)
    scores = read_scores(alone)
    assert read_scores(output) == pytest.approx(scores, rel=1e-5)
    assert scores["validation_f1"] > 0 and scores["validation_loss"] > 0 and scores["validation_support_PER"] > 5
    predictions = [read_jsonl(path / "predictions_validation.jsonl") for path in (alone, output)]
    assert len(predictions[0]) == 37
    assert [row["predicted_tags"] for row in predictions[0]] == [row["predicted_tags"] for row in predictions[1]]
    assert run.stdout.count("example 1") == 1, "only the first process speaks"


@pytest.mark.parametrize(
    ("rows", "flags"),
    [
        (2, ("--train_sampling_strategy", "group_by_length")),
        pytest.param(2, ("--train_sampling_strategy", "random"), marks=pytest.mark.slow),
        pytest.param(2, ("--max_tokens_per_batch", "200"), marks=pytest.mark.slow),
        pytest.param(2, ("--train_sampling_strategy", "batch_rebalance"), marks=pytest.mark.slow),
        pytest.param(1, ("--gradient_accumulation_steps", "2"), marks=pytest.mark.slow),
    ],
)
def test_two_processes_killed_in_their_second_epoch_go_on_exactly(rows, flags, tmp_path):
    """Accelerate's loader of such a rest of an epoch does not tell the sampler which epoch it is."""
    output = tmp_path / "result"
    model = ["--from_scratch", "encoder_tiny", "--vocab_size", "600"]
    few = ["--max_steps", "10", "--save_steps", "2", "--eval_steps", "2"]
    flags = list_short_flags("ner", model, output, *few, *flags)
    run_together("ner", rows, output, *flags)
    whole = output.rename(tmp_path / "whole")
    epochs = {
        step: read_json(whole / f"checkpoint-{step}" / "trainer_state.json")["epoch"] for step in list_steps(whole)
    }
    step = next(step for step, epoch in epochs.items() if epoch > 1 and epoch % 1)
    restore_step(whole, output, step)
    run = run_together("ner", rows, output, *flags)
    assert f"Resuming from {output}/checkpoint-{step}." in run.stdout
    assert describe_result(output, step) == describe_result(whole, step)


def test_a_signal_while_two_processes_save_stops_both(tmp_path):
    """One of them alone had left the other in a checkpoint, without a word."""
    run = launch_stopped_while_saving(tmp_path)
    assert run.code == 1 and "Stopped by SIGTERM at step 6: " in run.stderr
    assert list_steps(tmp_path / "result")[-1] == 6


@pytest.mark.slow
def test_two_processes_share_a_stream(encoder, tmp_path):
    """Blocks of 60 rows leave a step that the next block completes."""
    flags = ["--model_name_or_path", encoder, *TRAIN, "--streaming", "--streaming_buffer_size", "60"]
    losses = read_losses(run_alone("ner", 16, tmp_path / "one", *flags, "--max_steps", "12"))
    run_together("ner", 8, tmp_path / "two", *flags, "--max_steps", "12")
    assert len(losses) == 12 and read_losses(tmp_path / "two") == pytest.approx(losses, rel=1e-6)


def test_two_processes_score_each_row_once(tagger, tmp_path):
    """The same weights, so that scores and loss are the same to the last digits but one."""
    rows = [{"tokens": row["tokens"]} | {"tags": row["tags"]} for row in read_jsonl(SAMPLE / "validation.jsonl")]
    known = [row for row in rows if not {tag[2:] for tag in row["tags"]} & {"ORG", "PROD"}]
    path = write_jsonl(tmp_path / "validation.jsonl", known)
    flags = ["--model_name_or_path", tagger, "--do_eval", "--validation_file", path, "--max_eval_samples", "37"]
    flags += ["--dtype", "float32"]
    run_alone("ner", 8, tmp_path / "one", *flags)
    run_together("ner", 8, tmp_path / "two", *flags)
    one, two = (read_scores(tmp_path / name) for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-6)
    assert one["validation_loss"] > 0 and one["validation_support_PER"] > 5
    for name in ("one", "two"):
        assert len(read_jsonl(tmp_path / name / "predictions_validation.jsonl")) == 37


def test_accumulation_in_two_processes_gives_the_same_losses(alone, encoder, tmp_path):
    flags = ["--model_name_or_path", encoder, *TRAIN, "--gradient_accumulation_steps", "4", "--max_steps", "6"]
    run_together("ner", 2, tmp_path / "two", *flags)
    assert read_losses(tmp_path / "two") == pytest.approx(read_losses(alone)[:6], rel=1e-6)


@pytest.mark.parametrize(
    ("recipe", "metric", "flags"),
    [
        pytest.param(
            "sentiment", "f1_macro", ["--class_weights", "auto", "--focal_gamma", "2"], marks=pytest.mark.slow
        ),
        ("qa", "f1", ["--max_seq_length", "128", "--doc_stride", "32"]),
    ],
)
def test_two_processes_find_the_best_model_of_one(recipe, metric, flags, encoder, tmp_path):
    """Upstream's QA: the second process dies with KeyError eval_f1. 37 rows do not divide by 2."""
    flags = [
        "--model_name_or_path", encoder, *list_sample_flags(recipe, "train", "validation"), "--do_train", "--do_eval",
        "--dtype", "float32", "--learning_rate", "2e-3", "--max_steps", "12", "--logging_steps", "1",
        "--max_train_samples", "192", "--max_eval_samples", "37", "--eval_strategy", "steps", "--save_strategy",
        "steps", "--eval_steps", "4", "--save_steps", "4", "--load_best_model_at_end", "--metric_for_best_model",
        metric, *flags,
    ]  # fmt: skip
    run_alone(recipe, 16, tmp_path / "one", *flags)
    run_together(recipe, 8, tmp_path / "two", *flags)
    runs = []
    for output in (tmp_path / "one", tmp_path / "two"):
        scores = read_scores(output)
        runs.append((read_losses(output), scores["validation_loss"], scores[f"validation_{metric}"]))
        assert len(read_jsonl(output / "predictions_validation.jsonl")) == 37
    assert len(runs[0][0]) == 12
    for one, two in zip(*runs, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    ("recipe", "metric", "model", "flags"),
    [
        ("translation", "bleu", "encoder_decoder", ["--source_lang", "en", "--target_lang", "de"]),
        pytest.param(
            "summarization", "rougeL", "encoder_decoder", ["--max_source_length", "96"], marks=pytest.mark.slow
        ),
        # Ten steps of one length each teach too little for a score above 0.
        pytest.param(
            "dialogue", "rougeL", "decoder", ["--assistant_turns", "last", "--train_sampling_strategy", "random"],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_two_processes_generate_the_texts_of_one(recipe, metric, model, flags, request, tmp_path):
    """37 rows do not divide by 2: Hugging Face's own loop gives back 38 or more, scored against other rows."""
    flags = [
        "--model_name_or_path", request.getfixturevalue(model), *list_sample_flags(recipe, "train", "validation"),
        "--do_train", "--do_eval", "--dtype", "float32", "--learning_rate", "1e-2", "--max_steps", "10",
        "--logging_steps", "1", "--max_train_samples", "160", "--max_eval_samples", "37", "--eval_strategy", "steps",
        "--save_strategy", "steps", "--eval_steps", "5", "--save_steps", "5", "--load_best_model_at_end",
        "--metric_for_best_model", metric, "--num_beams", "2",
        "--max_new_tokens" if model == "decoder" else "--max_target_length", "16", *flags,
    ]  # fmt: skip
    run_alone(recipe, 16, tmp_path / "one", *flags, "--per_device_eval_batch_size", "16")
    run_together(recipe, 8, tmp_path / "two", *flags, "--per_device_eval_batch_size", "8")
    names = ("loss", metric, "generated_length", "ended")
    runs = []
    for output in (tmp_path / "one", tmp_path / "two"):
        evaluations = [[row[f"eval_{name}"] for name in names] for row in read_history(output, f"eval_{metric}")]
        predictions = read_jsonl(output / "predictions_validation.jsonl")
        runs.append((read_losses(output), evaluations, read_scores(output), predictions))
    one, two = runs
    assert len(one[0]) == 10 and two[0] == pytest.approx(one[0], rel=1e-5)
    assert len(one[1]) == 2
    for expected, found in zip(one[1], two[1], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert two[2] == pytest.approx(one[2], rel=1e-5) and one[2][f"validation_{metric}"] > 0
    assert len(one[3]) == 37 and two[3] == one[3]


def test_processes_that_do_not_train_together_are_refused(tmp_path, monkeypatch):
    """A launcher has started two, but nothing joined them: each would overwrite the other's results."""
    args = TrainingArguments(output_dir=str(tmp_path / "out"), do_train=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started, but they do not train together"):
        prepare_run(args, {})
