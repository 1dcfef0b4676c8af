"""What W&B gets of whole runs, read back from the files of offline runs; nothing of it is secret."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from recipes.ner import run as ner
from tests.conftest import ROOT, launch, list_sample_flags, read_jsonl, run_in_process, run_recipe, stop_at
from tests.offline_runs import find_runs, read_run

import pytest
import yaml
from matplotlib import image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SECRETS = {"WANDB_API_KEY": "5ec2e7" * 6 + "abcd", "HF_TOKEN": "hf_" + "5ec2e7" * 5 + "abcd"}
TEXTS = ["--max_source_length", "32", "--max_target_length", "16", "--num_beams", "1"]
# Beside the sample's flags: what makes a run of each recipe short, and what W&B must hold at its end.
RECIPES = {
    "sentiment": (["--learning_rate", "5e-3"], "accuracy", "text"),
    "ner": (["--learning_rate", "5e-3"], "f1", "tokens"),
    "qa": (["--learning_rate", "3e-3", "--doc_stride", "32"], "exact_match", "question"),
    "translation": (["--source_lang", "en", "--target_lang", "de", *TEXTS], "bleu", "source"),
    "summarization": (TEXTS, "rougeL", "document"),
    "dialogue": (["--max_seq_length", "96", "--max_new_tokens", "4"], "rougeL", "predicted_reply"),
}
MODELS = {"translation": "encoder_decoder", "summarization": "encoder_decoder", "dialogue": "decoder"}


def list_flags(recipe: str, model: Path, output: Path, *others: str) -> list[str]:
    """The flags of a tracked run of six steps on 32 rows."""
    flags = {
        "model_name_or_path": model, "output_dir": output, "dtype": "float32", "max_steps": 6, "eval_steps": 3,
        "eval_strategy": "steps", "save_steps": 3, "logging_steps": 1, "max_train_samples": 32,
        "max_eval_samples": 8, "max_predict_samples": 5, "per_device_train_batch_size": 8, "report_to": "wandb",
    }  # fmt: skip
    texts = [str(text) for name, value in flags.items() for text in (f"--{name}", value)]
    texts += [*list_sample_flags(recipe, "train", "validation", "test"), "--do_train", "--do_eval", "--do_predict"]
    return [*texts, *others]


def assert_nothing_is_secret(run: subprocess.CompletedProcess, *folders: Path) -> None:
    """Neither the output of a run nor any file in the folders holds one of the SECRETS."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for secret in SECRETS.values():
        assert secret not in run.stdout + run.stderr
        for path in files:
            assert secret.encode() not in path.read_bytes(), f"{path} holds a secret"


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.slow] * (name != "sentiment")) for name in RECIPES]
)
def test_wandb_gets_settings_history_tables_pictures_and_scores(recipe, request, tmp_path):
    flags, score, column = RECIPES[recipe]
    model = request.getfixturevalue(MODELS.get(recipe, "encoder"))
    output, home = tmp_path / "result", tmp_path / "home"
    home.mkdir()
    flags = [*flags, "--metric_for_best_model", score, "--load_best_model_at_end", "--wandb_table_rows", "3"]
    flags += ["--wandb_project", "mine", "--wandb_group", "seeds", "--wandb_tags", "a", "b", "--wandb_notes", "Why."]
    flags = list_flags(recipe, model, output, *flags, "--wandb_log_model")
    run = run_recipe(recipe, *flags, HOME=str(home), XDG_CACHE_HOME=str(home), **SECRETS, WANDB_MODE="offline")
    assert run.returncode == 0, run.stderr[-3000:]
    (path,) = find_runs(output)
    tracked = read_run(path)
    assert (tracked.project, tracked.group, tracked.tags, tracked.notes) == ("mine", "seeds", ["a", "b"], "Why.")
    assert f"wandb sync {output}/_wandb/wandb/offline-run-*-{tracked.id}" in run.stdout
    assert json.loads((output / "_wandb" / "run.json").read_text())["id"] == tracked.id

    # Settings
    config = {name: values for name, values in tracked.config.items() if name != "_wandb"}
    assert list(config) == ["recipe", "model", "data", "peft", "training", "environment"]
    assert config["recipe"]["name"] == recipe
    assert config["model"]["trained_parameters"] == config["model"]["parameters"] > 1000
    rows = config["data"]["rows"]
    assert (rows["train"], rows["validation"]) == (32, 8)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in config["data"]["sha256"].values())
    assert len(config["data"]["sha256"]) == 3
    assert config["training"]["effective_batch"] == 8 and config["training"]["max_steps"] == 6
    if (ROOT / ".git").exists():
        assert re.fullmatch("[0-9a-f]{40}", config["environment"]["git"]["commit"])

    # History and scores
    metrics = json.loads((output / "metrics.json").read_text())
    assert [entry["_step"] for entry in tracked.history] == [1, 2, 3, 4, 5, 6]
    assert all(entry["train/loss"] > 0 for entry in tracked.history)
    best = max(entry[f"eval/{score}"] for entry in tracked.history if f"eval/{score}" in entry)
    assert tracked.summary[f"eval/{score}"]["max"] == best
    for split in ("validation", "test"):
        assert tracked.summary[f"{split}/{score}"] == metrics[f"{split}_{score}"]
    assert tracked.exit_code == 0 and not tracked.alerts
    assert tracked.summary["inputs/train pieces"]["_type"] == "histogram"
    sweep = yaml.safe_load((ROOT / "recipes" / recipe / "sweep.yaml").read_text())
    assert sweep["metric"]["name"] in tracked.summary

    # Tables and pictures
    predictions = read_jsonl(output / "predictions_test.jsonl")
    table = tracked.media["predictions/test"]
    assert len(predictions) == 5 and len(table["data"]) == 3
    assert column in table["columns"]
    place = table["columns"].index("id")
    ids = [row["id"] for row in predictions for _ in row.get("replies", [row])]
    assert [row[place] for row in table["data"]] == ids[:3]
    assert sum(name.startswith("tables/") for name in tracked.media) >= 2
    pictures = {name.removeprefix("plots/") for name in tracked.media if name.startswith("plots/")}
    assert pictures == {path.stem for path in (output / "plots").glob("*.png")} and "learning_curve" in pictures
    assert all(image.imread(tracked.media[f"plots/{name}"]).size for name in pictures)
    charts = {name for name in tracked.media if name.startswith("charts/")}
    if recipe == "sentiment":
        confusions = tracked.media["charts/test confusion matrix_table"]
        assert [row[2] for row in confusions["data"]] == [n for row in metrics["test_confusion_matrix"] for n in row]
        assert "charts/test precision and recall_table" in charts
    if recipe == "ner":
        assert "charts/test F1 by entity type_table" in charts and "tables/test entity types" in tracked.media

    # The model, and what is not to travel
    names = tracked.artifacts[f"model-{tracked.id}"]
    assert {"config.json", "model.safetensors", "README.md", "recipe.json", "tokenizer.json"} <= set(names)
    assert not [name for name in names if name.startswith(("_", "checkpoint", "predictions"))]
    assert_nothing_is_secret(run, output, home)
    assert not (home / ".local" / "share" / "wandb").exists() and not (home / "wandb").exists()


def test_a_stopped_run_goes_on_as_the_same_run(encoder, tmp_path):
    output = tmp_path / "stopped"
    flags = ["--max_steps", "12", "--save_steps", "50", "--eval_steps", "50", "--report_to", "wandb", "tensorboard"]
    flags = list_flags("ner", encoder, output, *flags)
    command = [sys.executable, "-u", str(ROOT / "recipes/ner/run.py"), *flags]
    code, said = stop_at("step 3/12", command, WANDB_MODE="offline")
    assert code == 128 + signal.SIGTERM and "wandb sync" in said, said
    # Where it is watched from may change in between.
    run = run_recipe("ner", *flags, "--wandb_tags", "again", "--wandb_notes", "After a stop.", WANDB_MODE="offline")
    assert run.returncode == 0 and "Resuming from" in run.stdout, run.stderr
    first, second = map(read_run, find_runs(output))
    assert first.id == second.id and (first.exit_code, second.exit_code) == (128 + signal.SIGTERM, 0)
    assert second.tags == ["again"]
    steps = [entry["train/global_step"] for part in (first, second) for entry in part.history]
    assert sorted(set(steps)) == list(range(1, 13)) and steps == sorted(steps)
    assert [entry["_step"] for entry in second.history] == [entry["train/global_step"] for entry in second.history]
    board = EventAccumulator(str(output / "runs")).Reload()
    assert [scalar.step for scalar in board.Scalars("train/loss")] == list(range(1, 13))


def test_without_a_key_a_run_is_offline_and_a_broken_one_alerts_and_ends_as_failed(encoder, tmp_path):
    output = tmp_path / "broken"
    sabotage = [sys.executable, str(ROOT / "tests/faults/sabotage.py"), str(ROOT / "recipes/ner/run.py")]
    flags = map(str, list_flags("ner", encoder, output))
    run = launch([*sabotage, "nan loss", "1", "99", *flags], HOME=str(tmp_path))
    assert run.returncode == 1
    assert "error: The loss is not finite at 3 steps in a row from 1. Its rows: " in run.stderr
    assert "Traceback" not in run.stderr
    no_key, data = run.stdout.index("W&B: no API key"), run.stdout.index("data       train 32 rows")
    assert no_key < data and "wandb sync" in run.stdout
    tracked = read_run(find_runs(output)[0])
    assert tracked.exit_code == 1
    assert [title for title, _ in tracked.alerts] == ["The loss is no number"]


@pytest.mark.slow
def test_stopping_early_alerts(encoder, tmp_path):
    output = tmp_path / "early"
    flags = ["--early_stopping_patience", "1", "--early_stopping_threshold", "9", "--load_best_model_at_end"]
    flags += ["--metric_for_best_model", "loss", "--eval_steps", "1", "--save_steps", "1"]
    run = run_recipe("ner", *list_flags("ner", encoder, output, *flags), WANDB_MODE="offline")
    assert run.returncode == 0, run.stderr
    tracked = read_run(find_runs(output)[0])
    assert [title for title, _ in tracked.alerts] == ["Stopped early"]
    assert tracked.alerts[0][1].startswith("At step 2 of 6; best: loss ")
    assert tracked.metrics["eval/loss"] == ["min", "last"]


@pytest.mark.parametrize("name", ["hub_token", "push_to_hub_token"])
def test_a_token_as_a_flag_or_a_line_is_refused_and_not_repeated(name, encoder, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"{name}: {SECRETS['HF_TOKEN']}\n")
    for given in ([f"--{name}", SECRETS["HF_TOKEN"]], [f"--{name}={SECRETS['HF_TOKEN']}"], ["--config", str(config)]):
        flags = list_flags("ner", encoder, tmp_path / "result", *given)
        with pytest.raises(SystemExit) as caught:
            run_in_process(ner, ner.NerArguments, *flags)
        said = capsys.readouterr()
        assert caught.value.code == 2 and "set HF_TOKEN in the environment" in said.err
        assert SECRETS["HF_TOKEN"] not in said.out + said.err


@pytest.mark.slow
def test_disabled_means_that_nothing_is_tracked(encoder, tmp_path):
    run = run_recipe("ner", *list_flags("ner", encoder, tmp_path / "result"), WANDB_MODE="disabled")
    assert run.returncode == 0 and "(tracking: files only)" in run.stdout, run.stderr
    assert not (tmp_path / "result" / "_wandb").exists()


@pytest.mark.slow
def test_trackio_has_one_run_that_a_resume_goes_on_with(encoder, tmp_path):
    """Hugging Face's callback begins another at each start, and one more for each split that is predicted."""
    output = tmp_path / "mine"
    flags = [*list_flags("ner", encoder, output), "--report_to", "trackio"]
    for _ in range(2):
        run = run_recipe("ner", *flags, TRACKIO_DIR=str(tmp_path / "kept"))
        assert run.returncode == 0, run.stderr[-3000:]
        for path in (output / "metrics.json", output / "checkpoint-6"):  # as if it had been killed behind step 3
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"Resuming from {output}/checkpoint-3." in run.stdout
    (path,) = (tmp_path / "kept").glob("*.db")
    assert path.stem == "trainer-recipes-ner"
    logged = sqlite3.connect(path).execute("SELECT run_name, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, _ in logged} == {"mine"}
    entries = [json.loads(metrics) for _, metrics in logged]
    assert [entry["train/global_step"] for entry in entries if "train/loss" in entry] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert not any(name.startswith("test/") for entry in entries for name in entry)


@pytest.mark.slow
def test_a_trial_of_a_sweep_trains_in_a_directory_of_its_own(tmp_path):
    """The command of sweep.yaml with its placeholders filled in as the agent does it."""
    sweep = yaml.safe_load((ROOT / "recipes/ner/sweep.yaml").read_text())
    values = {"${env}": ["/usr/bin/env"], "${program}": [str(ROOT / sweep["program"])]}
    values["${args}"] = ["--learning_rate=0.001", "--per_device_train_batch_size=8", "--warmup_steps=0"]
    values["--output_dir=outputs/ner-sweep"] = [f"--output_dir={tmp_path}/sweep", "--max_steps=2"]
    values["--config=recipes/ner/configs/full.yaml"] = [f"--config={ROOT}/recipes/ner/configs/demo.yaml"]
    values["accelerate"] = [str(Path(sys.executable).with_name("accelerate"))]
    assert set(values) <= set(sweep["command"])
    command = [text for word in sweep["command"] for text in values.get(word, [word])]
    names = {"WANDB_SWEEP_ID": "sw1", "WANDB_RUN_ID": "trial1", "WANDB_DIR": str(tmp_path), "WANDB_MODE": "offline"}
    run = launch([*command, "--eval_strategy=no", "--save_strategy=no", "--load_best_model_at_end=false"], **names)
    assert run.returncode == 0, run.stderr[-3000:]
    trial = tmp_path / "sweep" / "trial1"
    assert (trial / "metrics.json").is_file() and not (tmp_path / "wandb").exists()
    assert yaml.safe_load((trial / "config.yaml").read_text())["output_dir"] == str(trial)
    tracked = read_run(find_runs(trial)[0])
    assert tracked.id == "trial1" and sweep["metric"]["name"] in tracked.summary
    assert tracked.config["training"]["learning_rate"] == 0.001
