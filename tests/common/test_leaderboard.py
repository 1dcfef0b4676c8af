"""python -m common.leaderboard: which runs are one line, in which order, and what is left out."""

import csv
import io
import json
import statistics
import sys
from pathlib import Path

from common.console import measure_text
from common.leaderboard import group_runs, main
from tests.conftest import ROOT, launch

import pytest
import yaml


def save_run(directory: Path, f1: float, seed=42, task="token-classification", split="validation", **settings) -> Path:
    """What the table reads of a result directory."""
    directory.mkdir(parents=True)
    recipe = {"task": task, "headline": ["f1", "recall"], "seed": seed, "train_seconds": 10.0 + seed}
    recipe["parameters"] = {"trained": 1000, "total": 2000000}
    config = {"seed": seed, "output_dir": str(directory), "learning_rate": 0.001, "lora_r": 16} | settings
    (directory / "recipe.json").write_text(json.dumps(recipe))
    (directory / "metrics.json").write_text(json.dumps({f"{split}_f1": f1, f"{split}_recall": f1 / 2}))
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def show(monkeypatch, capsys, *arguments) -> tuple[list[str], str]:
    """The lines of the table, and what is said of the rest."""
    monkeypatch.setattr(sys, "argv", ["leaderboard", *map(str, arguments)])
    main()
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def test_runs_that_differ_in_their_seed_alone_are_one_line_with_mean_and_spread(tmp_path, monkeypatch, capsys):
    scores = [0.5, 0.75, 0.625]
    runs = [save_run(tmp_path / f"r{seed}", f1, seed, run_name=f"{seed}") for seed, f1 in enumerate(scores)]
    (group,), _ = group_runs(runs)
    assert group.list_seeds() == ["0", "1", "2"] and group.find_seconds() == 11.0
    spread = statistics.stdev(scores)
    assert spread == pytest.approx((2 * 0.125**2 / 2) ** 0.5)  # squares over n - 1
    lines, _ = show(monkeypatch, capsys, *runs)
    assert lines[0] == "token-classification" and len(lines) == 4
    assert lines[3].split("  ")[0] == f"{runs[0]} and 2 more"
    assert "0 1 2" in lines[3] and "0.6250 ±0.1250" in lines[3] and "0.3125 ±0.0625" in lines[3]
    assert lines[3].endswith("  11            1,000  2,000,000")


def test_other_settings_are_other_lines_the_best_first_and_the_difference_is_named(tmp_path, monkeypatch, capsys):
    runs = [
        save_run(tmp_path / "low", 0.25),
        save_run(tmp_path / "最好的", 0.75, learning_rate=0.002),
        save_run(tmp_path / "middle", 0.5, lora_r=None),
    ]
    lines, _ = show(monkeypatch, capsys, *runs)
    assert [line.split()[0].rsplit("/")[-1] for line in lines[3:]] == ["最好的", "middle", "low"]
    assert "learning_rate 0.002, lora_r 16" in lines[3] and "learning_rate 0.001  " in lines[4]
    assert len({measure_text(line) for line in lines[2:]}) == 1
    assert "±" not in "".join(lines)


def test_tasks_have_tables_of_their_own_and_test_counts_where_validation_is_missing(tmp_path, monkeypatch, capsys):
    runs = [
        save_run(tmp_path / "a", 0.25, split="test"),
        save_run(tmp_path / "b", 0.5, learning_rate=1, split="test"),
        save_run(tmp_path / "c", 0.1, task="question-answering"),
    ]
    lines, _ = show(monkeypatch, capsys, *runs)
    assert [line for line in lines if line.endswith("ing") or line.endswith("fication")] == [
        "question-answering", "token-classification",
    ]  # fmt: skip
    assert "validation f1" in lines[2] and "test f1" not in lines[2]
    assert [line.split()[0][-1] for line in lines[-2:]] == ["b", "a"] and "test f1" in lines[-3]


def test_what_is_no_finished_run_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    runs = [save_run(tmp_path / name, 0.5, seed) for name, seed in (("a", 1), ("b", 2), ("again", 1), ("broken", 3))]
    (tmp_path / "broken" / "config.yaml").write_text("{")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "file.log").write_text("x")
    others = [tmp_path / name for name in ("unfinished", "foreign", "file.log", "nothing")]
    lines, said = show(monkeypatch, capsys, *runs, *others)
    assert len(lines) == 4 and "1 2" in lines[3]
    reasons = said.splitlines()
    for name, reason in (
        ("again", f"the run of {tmp_path}/a once more, with the same settings and seed"),
        ("broken", "its config.yaml cannot be read"),
        ("unfinished", "the run is not finished"),
        ("foreign", "not a result directory"),
        ("file.log", "a file, not a directory"),
        ("nothing", "no such directory"),
    ):
        assert any(line.startswith(f"skipped: {tmp_path}/{name}: {reason}") for line in reasons), name
    assert len(reasons) == 6


def test_csv_has_every_number_and_markdown_is_a_table(tmp_path, monkeypatch, capsys):
    runs = [save_run(tmp_path / "a", 0.5, 1), save_run(tmp_path / "b", 0.25, 2)]
    runs.append(save_run(tmp_path / "c|d", 0.1, task="question-answering"))
    lines, _ = show(monkeypatch, capsys, *runs, "--csv")
    first, second = csv.DictReader(io.StringIO("\n".join(lines)))
    assert (first["task"], first["validation_f1"], first["validation_f1_spread"]) == ("question-answering", "0.1", "")
    assert second["runs"] == f"{runs[0]} {runs[1]}" and second["seeds"] == "1 2"
    assert float(second["validation_f1"]) == 0.375
    assert float(second["validation_f1_spread"]) == pytest.approx(0.25 / 2**0.5)
    assert (second["train_seconds"], second["parameters_trained"], second["parameters_total"]) == (
        "11.5", "1000", "2000000",
    )  # fmt: skip
    lines, _ = show(monkeypatch, capsys, *runs, "--markdown")
    assert lines[0] == "**question-answering**" and lines[2].startswith("| run | seeds |")
    assert lines[3] == "|---|---|---|---:|---:|---:|---:|---:|" and "c\\|d" in lines[4]
    assert lines[2].count("|") == lines[3].count("|") == 9


def test_nothing_to_show_is_an_error_at_the_terminal(tmp_path):
    run = launch([sys.executable, "-m", "common.leaderboard", str(tmp_path)])
    assert run.returncode == 1 and run.stderr == (
        f"skipped: {tmp_path}: not a result directory; give the output_dir of a finished run.\n"
        "error: no finished run among these directories: there is nothing to show.\n"
    )


def test_the_table_is_shown_without_importing_what_trains():
    """Torch and transformers take ten seconds to import, and a table of files needs neither."""
    code = "import sys, common.leaderboard; print(sorted({'torch', 'transformers', 'datasets'} & sys.modules.keys()))"
    run = launch([sys.executable, "-c", code], PYTHONPATH=str(ROOT))
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr
