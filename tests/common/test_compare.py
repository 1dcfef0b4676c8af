"""python -m common.compare: two result directories, the rows that both predicted, and what is wrong with others."""

import json
import sys
from pathlib import Path

from common.compare import align_rows, list_changes, main, read_command_line
from common.errors import UserError
from common.tallies import tally_predictions
from tests.conftest import launch, read_jsonl, write_jsonl

import pytest

LABELS = ["bad", "good"]


def make_rows(*predicted: str) -> list[dict]:
    """Texts of which the even ones are good."""
    return [
        {"id": f"r{n}", "text": f"文本 text {n}", "label": LABELS[1 - n % 2], "predicted_label": label, "score": 0.9}
        for n, label in enumerate(predicted)
    ]


def save_run(directory: Path, rows: list[dict], seed=42, scores=None, **facts) -> Path:
    """What compare reads of a result directory."""
    directory.mkdir()
    recipe = {"task": "text-classification", "headline": ["accuracy", "loss"], "labels": LABELS, "language": None}
    (directory / "recipe.json").write_text(json.dumps(recipe | {"base_model": "m", "seed": seed} | facts))
    (directory / "metrics.json").write_text(json.dumps(scores or {"test_accuracy": 0.5, "test_loss": 1.5}))
    (directory / "config.yaml").write_text("seed: 42\n")
    write_jsonl(directory / "predictions_test.jsonl", rows)
    return directory


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    """A is right in 12 of 16 rows, B in those and three more, but wrong in one of the 12."""
    right = [LABELS[1 - n % 2] for n in range(16)]
    wrong = [LABELS[n % 2] for n in range(16)]
    first = save_run(tmp_path / "a", make_rows(*wrong[:4], *right[4:]))
    second = make_rows(wrong[0], *right[1:15], wrong[15])
    return first, save_run(tmp_path / "b", second[::-1], seed=7, scores={"test_accuracy": 0.875, "test_loss": 1.0})


def compare(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
    main()


def test_the_difference_its_interval_and_the_changes_are_said(runs, monkeypatch, capsys, tmp_path):
    compare(monkeypatch, *runs, "--examples", 2, "--output", tmp_path / "changed.jsonl")
    said = capsys.readouterr().out
    accuracy = next(line.split() for line in said.splitlines() if line.startswith("accuracy"))
    assert accuracy[1:4] == ["0.7500", "0.8750", "+0.1250"]
    low, high = (float(part.strip("[],")) for part in accuracy[4:6])
    assert low < 0 <= 0.125 < high
    # Of 16 ways to exchange four rows that differ by +1, +1, +1, -1, ten differ by two or more.
    assert float(accuracy[6]) == pytest.approx(10 / 16, abs=0.02)
    assert next(line.split() for line in said.splitlines() if line.startswith("loss")) == [
        "loss", "1.5000", "1.0000", "-0.5000", "-", "-",
    ]  # fmt: skip
    assert f"A  {runs[0]} (m, seed 42)" in said and f"B  {runs[1]} (m, seed 7)" in said
    assert "A has the higher accuracy in 1 row:" in said
    assert "B has the higher accuracy in 3 rows, the first 2:" in said
    assert "row 16, id r15: 1 -> 0\n    text  文本 text 15\n    gold  bad\n    A     bad\n    B     good\n" in said
    written = read_jsonl(tmp_path / "changed.jsonl")
    assert {row["id"] for row in written} == {"r1", "r2", "r3", "r15"}
    assert written[0].keys() == {"row", "id", "score_a", "score_b", "text", "gold", "predicted_a", "predicted_b"}


def test_a_mistake_is_one_line_at_the_terminal(runs):
    run = launch([sys.executable, "-m", "common.compare", str(runs[0]), str(runs[0] / "nothing")])
    assert run.returncode == 1 and run.stderr == (
        f"error: {runs[0]}/nothing: no such directory; give the output_dir of a finished run.\n"
    )


def test_no_examples_are_shown_where_none_are_wanted(runs, monkeypatch, capsys):
    compare(monkeypatch, *runs, "--examples", 0)
    said = capsys.readouterr().out
    assert "B has the higher accuracy in 3 rows\n" in said and "文本" not in said


def test_replies_are_compared_by_dialogue(tmp_path, monkeypatch, capsys):
    replies = ["it is open", "no", "at ten"]
    rows = [
        [
            {"id": "d", "replies": [
                {"turn": 1 + 2 * n, "prompt": "?", "reply": gold, "predicted_reply": said}
                for n, (gold, said) in enumerate(zip(replies, texts, strict=True))
            ]},
            {"id": "e", "replies": [{"turn": 1, "prompt": "??", "predicted_reply": "open"}]},
        ]
        for texts in (replies, ["it is open", "yes", "at ten"])
    ]  # fmt: skip
    facts = {"task": "text-generation", "headline": ["rougeL"], "language": "en"}
    runs = [save_run(tmp_path / name, part, **facts) for name, part in zip("ab", rows, strict=True)]
    compare(monkeypatch, *runs)
    said = capsys.readouterr().out
    assert "test: 2 dialogues, of which 1 have a gold answer" in said
    assert "A has the higher rougeL in 1 reply:" in said and "row 1, id d, turn 3: 100 -> 0" in said
    assert any(line.startswith("rougeL  100.0000  66.6667") for line in said.splitlines())


# Rows


def test_rows_are_aligned_by_id_and_without_ids_by_place():
    first, second = make_rows("bad", "good", "bad"), make_rows("good", "good", "good")
    assert align_rows("text-classification", first, second[::-1]) == second
    for row in (*first, *second):
        del row["id"]
    assert align_rows("text-classification", first, second) == second
    with pytest.raises(UserError, match=r'text of row 1 is "文本 text 0" and "文本 text 2"'):
        align_rows("text-classification", first, second[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "good"}, r'label of row 2 \(id r1\) is "bad" and "good"'),
        ({"text": "another"}, r'text of row 2 \(id r1\) is "文本 text 1" and "another"'),
        ({"text_pair": "more"}, r'text_pair of row 2 \(id r1\) is null and "more"'),
        ({"id": "x"}, r"1 of the first run are not in the second, as id r1\."),
    ],
)
def test_rows_that_are_not_the_same_are_named(change, message):
    first, second = make_rows("bad", "good", "bad"), make_rows("good", "good", "good")
    second[1] |= change
    with pytest.raises(UserError, match=message):
        align_rows("text-classification", first, second)


def test_rows_that_only_one_has_are_named():
    rows = make_rows("bad", "good", "bad")
    for first, second, named in ((rows, rows[:2], "first run are not in the second, as id r2"),
                                 (rows[:2], rows, "second run are not in the first, as id r2")):  # fmt: skip
        with pytest.raises(UserError, match=f"1 of the {named}"):
            align_rows("text-classification", first, second)
    with pytest.raises(UserError, match="different rows: 2 and 1"):
        align_rows("text-classification", [{"text": "a"}, {"text": "a"}], [{"text": "a"}])


def test_the_greatest_changes_come_first():
    words = [["O", "B-PER", "B-LOC"], ["B-PER", "O", "O"]]
    rows = [[{"tokens": ["a", "b", "c"], "tags": tags, "predicted_tags": tags} for tags in words] for _ in range(2)]
    rows[1][0] = rows[1][0] | {"predicted_tags": ["O", "B-PER", "O"]}  # one of two
    rows[1][1] = rows[1][1] | {"predicted_tags": ["O", "O", "O"]}  # none of one
    changes = list_changes(*(tally_predictions({"task": "token-classification"}, part) for part in rows))
    assert [(row["row"], row["score_a"], row["score_b"]) for row in changes] == [(2, 1.0, 0.0), (1, 1.0, 0.6667)]


# Mistakes


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, monkeypatch):
    first = runs[0]
    rows = make_rows("bad", "good")
    other_task = save_run(tmp_path / "ner", rows, task="token-classification")
    other_labels = save_run(tmp_path / "labels", rows, labels=["bad", "great"])
    foreign = save_run(tmp_path / "foreign", rows, task="image-classification")
    unlabelled = save_run(tmp_path / "unlabelled", [{"id": "a", "text": "t", "predicted_label": "bad"}])
    unfinished = save_run(tmp_path / "unfinished", rows)
    (unfinished / "metrics.json").unlink()
    damaged = save_run(tmp_path / "damaged", rows)
    (damaged / "predictions_test.jsonl").write_text('{"id": ')
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((first, other_task), "is a run of text-classification, .* of token-classification"),
        ((first, other_labels), "only one of them has good, great"),
        ((foreign, foreign), "image-classification is no task of these recipes"),
        ((unlabelled, unlabelled), "No row of test has a gold answer"),
        ((first, unfinished), "the run is not finished"),
        ((first, damaged), "predictions_test.jsonl is damaged"),
        ((first, tmp_path / "empty"), "not a result directory"),
        ((first, first / "recipe.json"), "a file, not a directory"),
        ((*runs, "--split", "validation"), "has no predictions for validation: give --split test"),
        ((*runs, "--output", tmp_path), "is a directory: give a file"),
    ):
        with pytest.raises(UserError, match=message):
            compare(monkeypatch, *arguments)


def test_settings_of_the_first_run_score_both_and_that_is_said(tmp_path, monkeypatch, capsys):
    rows = [{"id": "q", "question": "?", "answers": ["the end"], "predicted_answer": "end"}] * 2
    facts = {"task": "question-answering", "headline": ["exact_match"]}
    runs = [save_run(tmp_path / str(language), rows, language=language, **facts) for language in ("en", "zh")]
    compare(monkeypatch, *runs)
    said = capsys.readouterr().out
    assert "exact_match  1.0000  1.0000  +0.0000" in said
    assert "Both are scored with language en; B was with zh." in said


def test_fewer_examples_than_none_are_refused(capsys):
    with pytest.raises(SystemExit):
        read_command_line(["a", "b", "--examples", "-1"])
    assert "--examples must be 0 or more" in capsys.readouterr().err
