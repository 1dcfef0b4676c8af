"""python -m common.predict, as people use it: files, texts and lines in, JSON lines out, or one message."""

import io
import json
import subprocess
import sys
from pathlib import Path

from common import predict as program
from common.errors import UserError
from recipes.qa import run as qa
from recipes.sentiment import run as sentiment
from tests.conftest import ROOT, launch, read_jsonl, run_in_process, write_jsonl

import pytest

SAMPLE = ROOT / "recipes" / "sentiment" / "sample"
FLAGS = ["--dtype", "float32", "--report_to", "none", "--save_strategy", "no", "--do_train", "--max_steps", "2"]


@pytest.fixture(scope="module")
def classifier(encoder, tmp_path_factory) -> Path:
    """The result directory of a short run, which also predicted the unlabelled sample."""
    directory = tmp_path_factory.mktemp("predict") / "result"
    run_in_process(
        sentiment, sentiment.SentimentArguments, *FLAGS, "--model_name_or_path", encoder, "--train_file",
        SAMPLE / "train.jsonl", "--do_predict", "--test_file", SAMPLE / "unlabelled.jsonl", "--output_dir", directory,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def answerer(encoder, tmp_path_factory) -> Path:
    """The result directory of a short run on questions."""
    directory = tmp_path_factory.mktemp("predict") / "result"
    run_in_process(
        qa, qa.QaArguments, *FLAGS, "--model_name_or_path", encoder, "--train_file",
        ROOT / "recipes" / "qa" / "sample" / "train.jsonl", "--max_train_samples", "40", "--max_seq_length", "64",
        "--doc_stride", "16", "--output_dir", directory,
    )  # fmt: skip
    return directory


def start(directory: Path, *words: object, input: str | None = None) -> subprocess.CompletedProcess:
    """The program in a process of its own."""
    return launch([sys.executable, "-m", "common.predict", str(directory), *map(str, words)], input=input)


@pytest.fixture
def run(monkeypatch, capsys):
    """What the program writes to standard output, run in this process with these bytes as standard input."""

    def predict(*words: object, input: bytes = b"") -> str:
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
        program.main()
        return capsys.readouterr().out

    return predict


def parse(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_of_rows_becomes_a_file_of_predictions(classifier, run, tmp_path):
    output = tmp_path / "new" / "rows.jsonl"
    assert run(classifier, SAMPLE / "unlabelled.jsonl", "--output", output) == f"predictions  {output}\n"
    rows, expected = read_jsonl(output), read_jsonl(classifier / "predictions_test.jsonl")
    assert [(row["id"], row["text"], row["predicted_label"]) for row in rows] == [
        (row["id"], row["text"], row["predicted_label"]) for row in expected
    ]
    assert [path.name for path in output.parent.iterdir()] == ["rows.jsonl"]


def test_lines_of_standard_input_become_lines_of_standard_output(classifier, run):
    texts = [row["text"] for row in read_jsonl(SAMPLE / "unlabelled.jsonl")]
    lines = "".join(f"{text}\n" for text in texts)
    assert [row["text"] for row in parse(run(classifier, "--batch_size", 5, input=lines.encode()))] == texts
    lines = b'{"text": "good", "id": "x", "label": "bad"}\n\n{"sentence": "never again"}\n'
    rows = parse(run(classifier, "--output", "-", input=lines))
    assert [(row["id"], row["text"], "label" in row) for row in rows] == [
        ("x", "good", False), ("1", "never again", False),
    ]  # fmt: skip


def test_bad_rows_end_the_program_before_anything_is_written(classifier, run, tmp_path, monkeypatch):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "good"}, {"text": ""}])
    monkeypatch.setattr(program, "Predictor", None)  # nor is a model loaded
    with pytest.raises(UserError) as error:
        run(classifier, rows, "--output", tmp_path / "out.jsonl")
    assert str(error.value) == f"{rows}:2: text: it is empty; write a text"
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_rows_are_kept_in_their_places_and_the_exit_code_says_so(classifier):
    found = start(classifier, "--on_error", "keep", input='{"text": "good"}\n{"text": \n{"text": "bad", "id": 9}\n')
    rows = parse(found.stdout)
    assert [row["id"] for row in rows] == ["0", "1", "9"] and list(rows[1]) == ["id", "error"]
    assert rows[1]["error"].startswith("stdin:2:") and "invalid JSON" in rows[1]["error"]
    assert found.returncode == program.SOME_FAILED == 3
    assert found.stderr == f"1 of 3 rows could not be predicted:\n{rows[1]['error']}\n"


def test_a_text_is_answered_so_that_people_can_read_it(classifier, run, tmp_path):
    shown = run(classifier, "又好又便宜, good.")
    assert json.loads(shown)["text"] == "又好又便宜, good." and '\n  "predicted_label": ' in shown
    assert run(classifier, "good", "--output", tmp_path / "one.jsonl") == f"predictions  {tmp_path / 'one.jsonl'}\n"
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 1
    (tmp_path / "texts.txt").write_text("good\nbad\n")
    assert [row["text"] for row in parse(run(classifier, tmp_path / "texts.txt"))] == ["good", "bad"]


def test_questions_are_answered_from_the_context_that_is_named(answerer, run, tmp_path):
    (tmp_path / "about.txt").write_text("Ada left Paris.\nBo stayed.", encoding="utf-8")
    for context in ("Ada left Paris.\nBo stayed.", tmp_path / "about.txt"):
        row = json.loads(run(answerer, "Who left?", "--context", context))
        assert row["question"] == "Who left?" and row["predicted_answer"] in "Ada left Paris.\nBo stayed."
    row = json.loads(run(answerer, '{"id": 3, "question": "Who left?", "context": "Ada left."}'))
    assert row["id"] == "3" and row["predicted_answer"] in "Ada left."
    own = write_jsonl(tmp_path / "rows.jsonl", [{"question": "Who?", "context": "Cy."}, {"question": "Who?"}])
    first, second = parse(run(answerer, own, "--context", "Bo stayed."))
    assert first["predicted_answer"] in "Cy." and second["predicted_answer"] in "Bo stayed."


def test_what_cannot_be_meant_is_refused(classifier, run, tmp_path):
    there = tmp_path / "there.jsonl"
    write_jsonl(there, [{"text": "good"}])
    refused = {
        (classifier, "good", "--context", "Ada left."): "--context is for question answering",
        (classifier, "good", "--output", there): "there.jsonl: the file is already there; give another --output, or",
        (classifier, there, "--output", there, "--overwrite"): "it is the file that is read; give another --output",
        (classifier, "good", "--output", tmp_path): "a directory; give --output the name of a file",
        (classifier, tmp_path / "thers.jsonl"): "thers.jsonl: no such file, looked for",
        (classifier, tmp_path): "a directory, not a file; name the files in it",
        (classifier, " "): "input: text: it is ' '; write a text",
        (classifier, "half \udc80"): "input: it holds half a character",
        (classifier, '{"text": '): "input: invalid JSON",
        (tmp_path, "good"): "it has no recipe.json and metrics.json",
    }
    for words, message in refused.items():
        with pytest.raises(UserError) as error:
            run(*words)
        assert message in str(error.value), words
    assert read_jsonl(there) == [{"text": "good"}]
    assert run(classifier, "good", "--output", there, "--overwrite") == f"predictions  {there}\n"
    assert read_jsonl(there)[0]["text"] == "good" and "predicted_label" in read_jsonl(there)[0]
    with pytest.raises(SystemExit):
        run(classifier, "good", "--batch_size", "0")


def test_a_long_text_with_a_slash_is_a_text_and_a_name_with_a_suffix_is_a_file():
    assert not program.names_file("either/or, and so on. " * 500)
    assert not program.names_file("See rows.jsonl")
    assert program.names_file("rows.jsonl") and program.names_file("data/texts.TXT")
    assert not program.names_file("a\0b")


def test_nothing_is_left_where_a_row_cannot_be_written(tmp_path):
    def fail():
        yield "one\n"
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        program.write_lines(tmp_path / "out.jsonl", fail())
    assert list(tmp_path.iterdir()) == []
