"""Two processes train as one: launched as a user launches them, on the CPU."""

import sys
from pathlib import Path

from common.arguments import TrainingArguments
from common.errors import UserError
from common.training import prepare_run
from tests.conftest import ROOT, SAMPLE, launch, list_sample_flags, read_history, read_jsonl, read_scores, write_jsonl

import pytest

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))


def train(encoder: Path, output: Path, config: str, rows: int, *flags: str):
    """Output, logged losses and metrics of two epochs over the sample with `rows` rows a process and step.

    480 rows: an incomplete last step would be filled up with other rows where there are two processes.
    """
    command = [
        ACCELERATE, "launch", "--config_file", str(ROOT / "accelerate_configs" / config),
        str(ROOT / "recipes/ner/run.py"),
        "--model_name_or_path", str(encoder), "--train_file", str(SAMPLE / "train.jsonl"), "--validation_file",
        str(SAMPLE / "validation.jsonl"), "--do_train", "--do_eval", "--dtype", "float32", "--learning_rate", "5e-3",
        "--per_device_train_batch_size", str(rows), "--max_steps", "60", "--logging_steps", "1",
        "--save_strategy", "no",
        "--max_train_samples", "480", "--max_eval_samples", "37", "--output_dir", str(output), *flags,
    ]  # fmt: skip
    run = launch(command)
    assert run.returncode == 0, run.stderr[-3000:]
    return run, [row["loss"] for row in read_history(output, "loss")], read_scores(output)


def test_two_processes_give_the_run_of_one(encoder, tmp_path):
    _, losses, metrics = train(encoder, tmp_path / "one", "cpu.yaml", 16)
    run, shared_losses, shared_metrics = train(encoder, tmp_path / "two", "multi_cpu.yaml", 8)
    assert "device     cpu, 2 processes" in run.stdout
    assert "batch      16 rows a step = 8 a device x 2 x 1 accumulation" in run.stdout
    assert len(losses) == 60
    assert shared_losses[:10] == pytest.approx(losses[:10], rel=1e-6)
    assert shared_losses == pytest.approx(losses, rel=1e-5)
    assert shared_metrics["validation_f1"] == metrics["validation_f1"] > 0
    predictions = [read_jsonl(tmp_path / name / "predictions_validation.jsonl") for name in ("one", "two")]
    assert len(predictions[0]) == 37
    assert [row["predicted_tags"] for row in predictions[0]] == [row["predicted_tags"] for row in predictions[1]]
    assert run.stdout.count("example 1") == 1, "only the first process speaks"


@pytest.mark.slow
def test_two_processes_share_a_stream(encoder, tmp_path):
    """Blocks of 60 rows leave a step that the next block completes."""
    flags = ["--streaming", "--streaming_buffer_size", "60", "--max_steps", "12"]
    _, losses, _ = train(encoder, tmp_path / "one", "cpu.yaml", 16, *flags)
    _, shared_losses, _ = train(encoder, tmp_path / "two", "multi_cpu.yaml", 8, *flags)
    assert len(losses) == 12 and shared_losses == pytest.approx(losses, rel=1e-6)


def test_two_processes_score_each_row_once(tagger, tmp_path):
    """37 rows do not divide by 2: the last batch is filled up, and neither scores nor loss may count that."""
    metrics = []
    for config in ("cpu.yaml", "multi_cpu.yaml"):
        output = tmp_path / config
        rows = [{"tokens": row["tokens"]} | {"tags": row["tags"]} for row in read_jsonl(SAMPLE / "validation.jsonl")]
        known = [row for row in rows if not {tag[2:] for tag in row["tags"]} & {"ORG", "PROD"}]
        path = write_jsonl(tmp_path / "validation.jsonl", known)
        command = [ACCELERATE, "launch", "--config_file", str(ROOT / "accelerate_configs" / config)]
        command += [str(ROOT / "recipes/ner/run.py"), "--model_name_or_path", str(tagger), "--do_eval"]
        command += ["--validation_file", str(path), "--max_eval_samples", "37", "--dtype", "float32"]
        run = launch([*command, "--output_dir", str(output)])
        assert run.returncode == 0, run.stderr[-3000:]
        metrics.append(read_scores(output))
        assert len(read_jsonl(output / "predictions_validation.jsonl")) == 37
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)
    assert metrics[0]["validation_loss"] > 0 and metrics[0]["validation_support_PER"] > 5


def test_accumulation_in_two_processes_gives_the_same_losses(encoder, tmp_path):
    _, losses, _ = train(encoder, tmp_path / "one", "cpu.yaml", 16, "--max_steps", "6")
    flags = ("--gradient_accumulation_steps", "4", "--max_steps", "6")
    _, shared_losses, _ = train(encoder, tmp_path / "two", "multi_cpu.yaml", 2, *flags)
    assert shared_losses == pytest.approx(losses, rel=1e-6)


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
    runs = []
    for config, rows in (("cpu.yaml", 16), ("multi_cpu.yaml", 8)):
        output = tmp_path / config
        command = [
            ACCELERATE, "launch", "--config_file", str(ROOT / "accelerate_configs" / config),
            str(ROOT / "recipes" / recipe / "run.py"), "--model_name_or_path", str(encoder),
            *list_sample_flags(recipe, "train", "validation"), "--do_train", "--do_eval", "--dtype", "float32",
            "--learning_rate", "2e-3", "--per_device_train_batch_size", str(rows), "--max_steps", "12",
            "--logging_steps", "1", "--max_train_samples", "192", "--max_eval_samples", "37", "--eval_strategy",
            "steps", "--save_strategy", "steps", "--eval_steps", "4", "--save_steps", "4", "--load_best_model_at_end",
            "--metric_for_best_model", metric, "--output_dir", str(output), *flags,
        ]  # fmt: skip
        run = launch(command)
        assert run.returncode == 0, run.stderr[-3000:]
        losses = [row["loss"] for row in read_history(output, "loss")]
        metrics = read_scores(output)
        runs.append((losses, metrics["validation_loss"], metrics[f"validation_{metric}"]))
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
    flags = [*flags, "--max_new_tokens" if model == "decoder" else "--max_target_length", "16"]
    model, runs = request.getfixturevalue(model), []
    for config, rows in (("cpu.yaml", 16), ("multi_cpu.yaml", 8)):
        output = tmp_path / config
        command = [
            ACCELERATE, "launch", "--config_file", str(ROOT / "accelerate_configs" / config),
            str(ROOT / "recipes" / recipe / "run.py"), "--model_name_or_path", str(model),
            *list_sample_flags(recipe, "train", "validation"), "--do_train", "--do_eval", "--dtype", "float32",
            "--learning_rate", "1e-2", "--per_device_train_batch_size", str(rows), "--max_steps", "10",
            "--logging_steps", "1", "--max_train_samples", "160", "--max_eval_samples", "37", "--eval_strategy",
            "steps", "--save_strategy", "steps", "--eval_steps", "5", "--save_steps", "5", "--load_best_model_at_end",
            "--metric_for_best_model", metric, "--num_beams", "2",
            "--per_device_eval_batch_size", str(rows), "--output_dir", str(output), *flags,
        ]  # fmt: skip
        run = launch(command)
        assert run.returncode == 0, run.stderr[-3000:]
        losses = [row["loss"] for row in read_history(output, "loss")]
        scores = read_history(output, f"eval_{metric}")
        names = ("loss", metric, "generated_length", "ended")
        evaluations = [[row[f"eval_{name}"] for name in names] for row in scores]
        metrics = read_scores(output)
        runs.append((losses, evaluations, metrics, read_jsonl(output / "predictions_validation.jsonl")))
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
