"""recipes/sentiment/run.py: its functions on hand-made rows, then whole runs on the sample."""

import csv
import json
import math

from common.data import RowError
from common.errors import UserError
from common.labels import LabelReader
from recipes.sentiment import run as sentiment
from tests.conftest import (
    ROOT,
    assert_result_is_complete,
    list_sample_flags,
    read_jsonl,
    run_in_process,
    save_encoder,
    write_jsonl,
)

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, pipeline

SAMPLE = ROOT / "recipes" / "sentiment" / "sample"
FLAGS = ["--dtype", "float32", "--report_to", "none", "--max_steps", "2", "--logging_steps", "1"]
FLAGS += ["--save_strategy", "no"]
ROWS = [{"text": "good and cheap", "label": "positive"}, {"text": "never again", "label": "negative"}] * 4


def run_main(*flags: object) -> dict[str, float]:
    """The recipe with these flags, in this process."""
    return run_in_process(sentiment, sentiment.SentimentArguments, *FLAGS, *flags)


def train_on(encoder, output, rows: list[dict], *flags: object, validation: list[dict] | None = None) -> dict:
    """The scores of a short run on these rows, which are validation rows too unless others are given."""
    train = write_jsonl(output.with_name(f"{output.name}-train.jsonl"), rows)
    held_out = write_jsonl(output.with_name(f"{output.name}-validation.jsonl"), validation or rows)
    return run_main(
        "--model_name_or_path", encoder, "--do_train", "--do_eval", "--train_file", train, "--validation_file",
        held_out, "--output_dir", output, *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(encoder, tmp_path_factory):
    """The result directory of a short run on the sample, and the scores it returned."""
    directory = tmp_path_factory.mktemp("sentiment") / "result"
    scores = run_main(
        "--model_name_or_path", encoder, *list_sample_flags("sentiment", "train", "validation", "test"), "--do_train",
        "--do_eval", "--do_predict", "--output_dir", directory, "--learning_rate", "5e-3", "--max_steps", "40",
        "--eval_strategy", "steps", "--eval_steps", "20", "--per_device_train_batch_size", "16", "--linear_baseline",
        "--train_sampling_strategy", "random",
    )  # fmt: skip
    return directory, scores


# Rows


def test_a_row_gives_its_texts_and_labels():
    read = LabelReader()
    row = {"text": "Cheap.", "text_pair": "Is it cheap?", "label": "yes"}
    assert sentiment.read_example(row, read) == {"text": "Cheap.", "text_pair": "Is it cheap?", "labels": ["yes"]}
    assert sentiment.read_example({"text": "Cheap.", "label": None}, read)["labels"] is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "", "label": "a"}, "text: it is empty; write a text"),
        ({"text": "  ", "label": "a"}, "text: it is '  '; write a text"),
        ({"text": 7, "label": "a"}, "text: it is 7; write a text"),
        ({"text": "a", "text_pair": "", "label": "a"}, "text_pair: it is empty; write a text"),
        ({"text": "a", "label": 1.5}, "label: '1.5' is no label; write a text or a whole number"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row, message):
    with pytest.raises(RowError) as error:
        sentiment.read_example(row, LabelReader())
    assert message in str(error.value)


def tokenize(encoder, texts: list[str], doc_stride=None, max_length=12, label_ids=None, is_multi_label=False) -> dict:
    rows = {"text": texts, "text_pair": [None] * len(texts), "label_ids": label_ids or [[1]] * len(texts)}
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    indices = [*range(10, 10 + len(texts))]
    return sentiment.tokenize_texts(rows, indices, tokenizer, max_length, doc_stride, 3, is_multi_label)


def test_a_longer_text_is_cut_and_that_is_known(encoder):
    windows = tokenize(encoder, ["A short one.", "on and " * 20])
    assert windows["row"] == [10, 11] and windows["is_cut"] == [False, True] and windows["labels"] == [1, 1]
    assert len(windows["input_ids"][1]) == 12


def test_windows_cover_a_longer_text_with_its_label(encoder):
    text = " ".join(f"{number}" for number in range(30))
    windows = tokenize(encoder, ["A short one.", text], doc_stride=3)
    assert windows["row"][0] == 10 and set(windows["row"][1:]) == {11} and len(windows["row"]) > 3
    assert not any(windows["is_cut"]) and max(map(len, windows["input_ids"])) <= 12
    whole = AutoTokenizer.from_pretrained(encoder)(text, add_special_tokens=False)["input_ids"]
    pieces = [ids[1:-1] for ids in windows["input_ids"][1:]]
    # Neighbours share three pieces: without them, the windows are the text.
    assert pieces[0] + [piece for window in pieces[1:] for piece in window[3:]] == whole


def test_several_labels_are_marked_by_their_numbers(encoder):
    windows = tokenize(encoder, ["a", "b", "c"], label_ids=[[0, 2], [], None], is_multi_label=True)
    assert windows["labels"] == [[1, 0, 1], [0, 0, 0], [-100, -100, -100]]


def test_pairs_cannot_be_read_in_windows(encoder):
    rows = {"text": ["a"], "text_pair": ["b"], "label_ids": [[0]]}
    with pytest.raises(UserError, match="long_text windows reads single texts"):
        sentiment.tokenize_texts(rows, [0], AutoTokenizer.from_pretrained(encoder), 12, 3, 2, False)


# Whole runs


def test_the_result_directory_is_complete(result):
    assert_result_is_complete(
        result[0],
        [
            "learning_curve.png",
            "test_accuracy_by_length_of_the_text.png",
            "test_confusion_matrix.png",
            "test_f1_by_class.png",
            "test_reliability.png",
            "validation_accuracy_by_length_of_the_text.png",
            "validation_confusion_matrix.png",
            "validation_f1_by_class.png",
            "validation_reliability.png",
        ],
    )


def test_every_gold_label_is_scored(result):
    directory, scores = result
    for split in ("validation", "test"):
        gold = [row["label"] for row in read_jsonl(SAMPLE / f"{split}.jsonl")]
        for label in ("negative", "neutral", "positive"):
            assert scores[f"{split}_support_{label}"] == gold.count(label)
        assert np.sum(scores[f"{split}_confusion_matrix"], axis=1).tolist() == [
            gold.count(label) for label in ("negative", "neutral", "positive")
        ]
    assert scores == json.loads((directory / "metrics.json").read_text())


def test_predictions_are_the_rows_of_the_file_in_their_order(result):
    rows, predictions = read_jsonl(SAMPLE / "test.jsonl"), read_jsonl(result[0] / "predictions_test.jsonl")
    assert [(row["text"], row["label"]) for row in predictions] == [(row["text"], row["label"]) for row in rows]
    for row in predictions:
        assert row["scores"][row["predicted_label"]] == row["score"] == max(row["scores"].values())
        assert sum(row["scores"].values()) == pytest.approx(1, abs=2e-4)
    right = sum(row["label"] == row["predicted_label"] for row in predictions)
    assert result[1]["test_accuracy"] == pytest.approx(right / len(rows))


def test_pipeline_gives_the_labels_of_the_predictions_file(result):
    classify = pipeline("text-classification", model=str(result[0]))
    rows = read_jsonl(result[0] / "predictions_test.jsonl")[:30]
    assert [found["label"] for found in classify([row["text"] for row in rows])] == [
        row["predicted_label"] for row in rows
    ]
    assert len({row["predicted_label"] for row in rows}) > 1


def test_probabilities_use_the_temperature_that_is_saved_with_the_model(result):
    model = AutoModelForSequenceClassification.from_pretrained(result[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(result[0])
    temperature = model.config.calibration["temperature"]
    assert temperature != 1 and json.loads((result[0] / "recipe.json").read_text())["temperature"] == temperature
    row = read_jsonl(result[0] / "predictions_test.jsonl")[0]
    with torch.no_grad():
        logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
    expected = dict(zip(model.config.id2label.values(), (logits / temperature).softmax(-1).tolist(), strict=True))
    assert row["scores"] == pytest.approx(expected, abs=2e-4)


def test_validation_loss_is_the_mean_over_the_rows(result):
    """Against one row at a time, padded nowhere, in a loop of its own."""
    model = AutoModelForSequenceClassification.from_pretrained(result[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(result[0])
    losses = []
    for row in read_jsonl(SAMPLE / "validation.jsonl"):
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt", truncation=True)).logits[0]
        losses.append(-logits.log_softmax(-1)[model.config.label2id[row["label"]]].item())
    assert result[1]["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_linear_baseline_is_printed_beside_the_result(result, capsys):
    scores = result[1]
    assert 0.9 < scores["validation_baseline_accuracy"] < 1 and 0.9 < scores["test_baseline_accuracy"] < 1
    with pytest.raises(SystemExit):  # the finished run says its scores again
        run_in_process(sentiment, sentiment.SentimentArguments, "--config", result[0] / "config.yaml")
    screen = capsys.readouterr().out
    assert f"  baseline   accuracy {scores['validation_baseline_accuracy']:.4f}" in screen


def test_the_report_and_the_card_show_the_scores(result):
    directory, scores = result
    report = (directory / "report.html").read_text()
    assert f"{scores['test_f1_macro']:.4f}" in report and report.count("data:image/png;base64,") == 9
    card = (directory / "README.md").read_text()
    assert f"| f1_macro | {scores['test_f1_macro']:.4f} |" in card and 'pipeline("text-classification"' in card


def test_a_trained_model_predicts_a_test_file_alone(result, tmp_path):
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "again"]
    scores = run_main(*flags, *list_sample_flags("sentiment", "test"))
    assert scores["test_ece"] == result[1]["test_ece"]
    expected = (result[0] / "predictions_test.jsonl").read_text()
    assert (tmp_path / "again" / "predictions_test.jsonl").read_text() == expected
    assert not (tmp_path / "again" / "model.safetensors").exists()


def test_label_names_come_from_the_model_when_predicting(result, tmp_path):
    """Upstream names them by the labels of the given file, sorted: with other labels in it, silently wrong."""
    expected = {row["text"]: row["predicted_label"] for row in read_jsonl(result[0] / "predictions_test.jsonl")}
    rows = [row for row in read_jsonl(SAMPLE / "test.jsonl") if row["label"] == "positive"]
    flags = ["--model_name_or_path", result[0], "--do_predict"]
    scores = run_main(
        *flags, "--test_file", write_jsonl(tmp_path / "one.jsonl", rows), "--output_dir", tmp_path / "one"
    )
    predicted = read_jsonl(tmp_path / "one" / "predictions_test.jsonl")
    assert {row["text"]: row["predicted_label"] for row in predicted} == {
        row["text"]: expected[row["text"]] for row in rows
    }
    assert scores["test_support_positive"] == len(rows) and scores["test_support_negative"] == 0
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"text": "fine", "label": "good"}])
    with pytest.raises(UserError) as error:
        run_main(*flags, "--test_file", unknown, "--output_dir", tmp_path / "unknown")
    assert str(error.value).startswith(f"{unknown}:1: label 'good' is not one of negative, neutral, positive; ")


def test_numbers_mean_the_labels_of_the_model(result, tmp_path, capsys):
    numbers = {"negative": 0, "neutral": 1, "positive": 2}
    rows = [row | {"label": numbers[row["label"]]} for row in read_jsonl(SAMPLE / "test.jsonl")]
    scores = run_main(
        "--model_name_or_path", result[0], "--do_predict", "--test_file", write_jsonl(tmp_path / "n.jsonl", rows),
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert scores["test_f1_macro"] == result[1]["test_f1_macro"]
    assert "The labels of the data are numbers: 0 = negative, 1 = neutral, 2 = positive." in capsys.readouterr().out


def test_rows_without_label_are_predicted_and_the_others_scored(result, tmp_path):
    flags = ["--model_name_or_path", result[0], "--do_predict"]
    assert run_main(*flags, "--test_file", SAMPLE / "unlabelled.jsonl", "--output_dir", tmp_path / "new") == {}
    predictions = read_jsonl(tmp_path / "new" / "predictions_test.jsonl")
    assert [row["text"] for row in predictions] == [row["text"] for row in read_jsonl(SAMPLE / "unlabelled.jsonl")]
    assert all("label" not in row and row["predicted_label"] for row in predictions)
    rows = [{"text": "a", "label": "-1"}, {"text": "b", "label": ""}, {"text": "c"}, {"text": "d", "label": "neutral"}]
    path = write_jsonl(tmp_path / "mixed.jsonl", rows)
    scores = run_main(*flags, "--test_file", path, "--output_dir", tmp_path / "mixed")
    assert scores["test_support_neutral"] == 1 and scores["test_support_positive"] == 0
    assert len(read_jsonl(tmp_path / "mixed" / "predictions_test.jsonl")) == 4


def test_grouping_by_length_does_not_move_predictions(result, tmp_path):
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "grouped"]
    run_main(*flags, *list_sample_flags("sentiment", "test"), "--train_sampling_strategy", "group_by_length")
    expected = (result[0] / "predictions_test.jsonl").read_text()
    assert (tmp_path / "grouped" / "predictions_test.jsonl").read_text() == expected


def test_the_scores_of_windows_are_pooled(result, tmp_path):
    text = " ".join(row["text"] for row in read_jsonl(SAMPLE / "test.jsonl")[:6])
    path = write_jsonl(
        tmp_path / "long.jsonl", [{"text": text, "label": "positive"}, {"text": "Good.", "label": "neutral"}]
    )
    flags = ["--model_name_or_path", result[0], "--do_predict", "--test_file", path, "--max_seq_length", "20"]
    flags += ["--long_text", "windows", "--doc_stride", "5"]
    scores = run_main(*flags, "--output_dir", tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(result[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(result[0])
    pieces = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = [start for start in range(0, len(pieces), 13) if start == 0 or start + 5 < len(pieces)]
    logits = []
    for start in starts:
        ids = [tokenizer.cls_token_id, *pieces[start : start + 18], tokenizer.sep_token_id]
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor([ids])).logits[0])
    assert len(logits) > 3
    probabilities = (torch.stack(logits).mean(0) / model.config.calibration["temperature"]).softmax(-1)
    predicted = read_jsonl(tmp_path / "out" / "predictions_test.jsonl")
    expected = dict(zip(model.config.id2label.values(), probabilities.tolist(), strict=True))
    assert predicted[0]["scores"] == pytest.approx(expected, abs=2e-4)
    assert len(predicted) == 2 and scores["test_support_positive"] == 1


def test_what_is_cut_off_is_said(result, tmp_path, capsys):
    rows = [{"text": "word " * 100, "label": "neutral"}, {"text": "short", "label": "neutral"}]
    flags = ["--model_name_or_path", result[0], "--do_predict", "--max_seq_length", "16"]
    run_main(*flags, "--test_file", write_jsonl(tmp_path / "t.jsonl", rows), "--output_dir", tmp_path / "out")
    assert (
        "the end of longer texts is cut off (test 1 of 2); long_text: windows reads it too" in capsys.readouterr().out
    )


def test_a_text_of_a_million_characters_is_read(result, tmp_path):
    rows = [{"text": "good bread " * 90_910}, {"text": "short"}]
    path = write_jsonl(tmp_path / "long.jsonl", rows)
    flags = ["--model_name_or_path", result[0], "--do_predict", "--test_file", path]
    run_main(*flags, "--output_dir", tmp_path / "cut")
    predicted = read_jsonl(tmp_path / "cut" / "predictions_test.jsonl")
    assert [len(row["text"]) for row in predicted] == [1_000_010, 5]


# Labels


def test_numbered_labels_are_sorted_by_number(encoder, tmp_path):
    """Upstream sorts them as texts: 10 before 2."""
    rows = [{"text": f"text {number}", "label": number} for number in (10, 2, 1, 10)]
    train_on(encoder, tmp_path / "out", rows)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "1", "1": "2", "2": "10"}


def test_csv_with_text_labels_and_pairs_is_read(encoder, tmp_path):
    """Upstream crashes on text labels in CSV files with pandas 3."""
    path = tmp_path / "train.csv"
    path.write_text(
        "question,sentence,label\nIs it far?,It is near.,no\nIs it near?,It is near.,yes\n" * 1 + "a?,b,no\n"
    )
    scores = run_main(
        "--model_name_or_path", encoder, "--do_train", "--do_eval", "--train_file", path, "--validation_file", path,
        "--text_column_name", "question", "--text_pair_column_name", "sentence", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert scores["validation_support_no"] == 2
    rows = read_jsonl(tmp_path / "out" / "predictions_validation.jsonl")
    assert rows[0]["text"] == "Is it far?" and rows[0]["text_pair"] == "It is near."


def test_the_two_texts_of_a_pair_are_told_apart(encoder):
    """By their segments, for models that have them."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rows = {"text": ["Is it far"], "text_pair": ["It is"], "label_ids": [[0]]}
    windows = sentiment.tokenize_texts(rows, [0], tokenizer, 32, None, 2, False)
    segments, pieces = windows["token_type_ids"][0], tokenizer.convert_ids_to_tokens(windows["input_ids"][0])
    assert segments == [0] * (pieces.index("[SEP]") + 1) + [1] * (len(pieces) - pieces.index("[SEP]") - 1)


def test_names_of_classes_in_parquet_are_kept(encoder, tmp_path):
    names = ["neg", "pos"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    table = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [1, 0, 1, 0]}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "train.parquet")["label"].to_pylist() == [1, 0, 1, 0]
    run_main(
        "--model_name_or_path", encoder, "--do_train", "--train_file", tmp_path / "train.parquet",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "neg", "1": "pos"}


MULTI = [
    {"text": "good bread and cheap", "labels": ["food", "price"]},
    {"text": "good soup", "labels": ["food"]},
    {"text": "very cheap", "labels": ["price"]},
    {"text": "a house", "labels": []},
] * 6


def test_a_multi_label_model_gives_any_number_of_labels(encoder, tmp_path):
    scores = train_on(encoder, tmp_path / "out", MULTI, "--max_steps", "60", "--learning_rate", "5e-3")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert len(config["calibration"]["thresholds"]) == 2
    assert scores["validation_accuracy"] == 1.0 and scores["validation_f1_micro"] == 1.0
    rows = read_jsonl(tmp_path / "out" / "predictions_validation.jsonl")
    assert [sorted(row["predicted_labels"]) for row in rows] == [row["labels"] for row in MULTI]
    # Predicting uses the thresholds that were saved.
    path = write_jsonl(tmp_path / "new.jsonl", [{"text": row["text"]} for row in MULTI[:4]])
    flags = ["--model_name_or_path", tmp_path / "out", "--do_predict", "--test_file", path]
    run_main(*flags, "--output_dir", tmp_path / "new")
    again = read_jsonl(tmp_path / "new" / "predictions_test.jsonl")
    assert [row["predicted_labels"] for row in again] == [row["predicted_labels"] for row in rows[:4]]
    assert [row["scores"] for row in again] == [row["scores"] for row in rows[:4]]


def test_labels_of_one_field_are_cut_at_the_separator(encoder, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\ngood and cheap,food|price\ngood,food\nnothing,\n")
    scores = run_main(
        "--model_name_or_path", encoder, "--do_train", "--do_eval", "--train_file", path, "--validation_file", path,
        "--label_separator", "|", "--output_dir", tmp_path / "out", "--class_weights", "auto", "--focal_gamma", "2",
    )  # fmt: skip
    assert (scores["validation_support_food"], scores["validation_support_price"]) == (2, 1)
    assert math.isfinite(scores["validation_loss"])


def test_a_dry_run_of_a_multi_label_task_reloads_the_same_model(encoder, tmp_path, capsys):
    losses = train_on(encoder, tmp_path / "out", MULTI, "--dry_run")
    assert losses.keys() == {"train_loss", "batch_loss"} and not (tmp_path / "out").exists()
    assert "labels     2, any number a row: food 12, price 12" in capsys.readouterr().out


# Imbalance, few-shot


def test_the_means_against_imbalance_train(encoder, tmp_path):
    rows = [{"text": f"plain {number}", "label": "no"} for number in range(20)] + [{"text": "rare", "label": "yes"}]
    weights = tmp_path / "weights.json"
    weights.write_text('{"yes": 10, "no": 1}')
    for number, flags in enumerate(
        (
            ["--class_weights", "auto"],
            ["--class_weights", "1", "10"],
            ["--class_weights", weights],
            ["--focal_gamma", "2"],
            ["--train_sampling_strategy", "balanced"],
            ["--label_smoothing_factor", "0.1"],
        )
    ):
        scores = train_on(encoder, tmp_path / str(number), rows, *flags)
        assert math.isfinite(scores["validation_loss"]), flags
    with pytest.raises(UserError, match=r"class_weights has 3 numbers for 2 labels \(no, yes\)"):
        train_on(encoder, tmp_path / "refused", rows, "--class_weights", "1", "2", "3")


def test_balanced_sampling_shows_the_rare_class_as_often(encoder, tmp_path):
    """The loss of the rare class falls as fast as that of the other, which plain sampling hardly trains."""
    rows = [{"text": "plain", "label": "no"}] * 38 + [{"text": "rare", "label": "yes"}] * 2
    flags = ["--max_steps", "12", "--learning_rate", "2e-3", "--per_device_train_batch_size", "8"]
    train_on(encoder, tmp_path / "plain", rows, *flags)
    train_on(encoder, tmp_path / "balanced", rows, *flags, "--train_sampling_strategy", "balanced")
    shares = []
    for name in ("plain", "balanced"):
        with (tmp_path / name / "history.csv").open(newline="") as file:
            shares.append([float(row["loss"]) for row in csv.DictReader(file) if row["loss"]])
    # At the first step the untrained head gives both classes the same: what differs is what it sees.
    assert shares[0][0] != shares[1][0]
    rows = read_jsonl(tmp_path / "balanced" / "predictions_validation.jsonl")
    assert rows[-1]["scores"]["yes"] > rows[0]["scores"]["yes"]


def test_few_shot_training_takes_as_many_rows_of_each_class(encoder, tmp_path, capsys):
    train_on(encoder, tmp_path / "out", ROWS, "--max_train_samples_per_class", "3", validation=ROWS[:2])
    screen = capsys.readouterr().out
    assert "train: 6 of 8 rows, up to 3 of each class, drawn with seed 42." in screen
    assert "data       train 6 rows, validation 2 rows" in screen


def test_a_lora_run_saves_a_merged_model_with_its_calibration(encoder, tmp_path):
    scores = train_on(encoder, tmp_path / "lora", ROWS, "--use_peft", "--max_steps", "10", "--learning_rate", "5e-3")
    path = write_jsonl(tmp_path / "v.jsonl", ROWS)
    flags = ["--model_name_or_path", tmp_path / "lora", "--do_eval", "--validation_file", path]
    again = run_main(*flags, "--output_dir", tmp_path / "again")
    assert again["validation_loss"] == pytest.approx(scores["validation_loss"], rel=1e-4)
    assert again["validation_ece"] == pytest.approx(scores["validation_ece"], abs=1e-4)


def test_a_new_head_is_made_for_other_labels(tmp_path, capsys):
    model = save_encoder(tmp_path / "model", BertForSequenceClassification, id2label={0: "cat", 1: "dog"})
    train_on(model, tmp_path / "out", ROWS)
    assert "The checkpoint's head was trained on other labels (cat, dog): it starts anew." in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}


# Bad input: one message, no traceback, exit code 1, nothing written

GOOD = '{"text": "fine", "label": "a"}\n{"text": "bad", "label": "b"}\n'
FAULTS = {
    "mixed types": (GOOD + '{"text": "x", "label": 1}\n', "{path}:3: label: 1 is a number, in earlier"),
    "a list": (GOOD + '{"text": "x", "label": ["a"]}\n', "{path}:3: label: 'a' is a list of labels, each a"),
    "unlabelled": (GOOD + '{"text": "x", "label": ""}\n', "{path}:3: the label is empty or -1"),
    "minus one": ('{"text": "x", "label": 0}\n{"text": "y", "label": -1}\n', "{path}:2: the label is empty or -1"),
    "null": (GOOD + '{"text": "x", "label": null}\n', '{path}:3: "label" is null; give every row a value'),
    "empty text": (GOOD + '{"text": "", "label": "a"}\n', "{path}:3: text: it is empty; write a text"),
    "no label column": ('{"text": "x", "stars": 5}\n', '{path}:1: no column "label" or "labels", the columns are'),
    "repeated id": ('{"id": 1, "text": "x", "label": "a"}\n' * 2, '{path}:2: the id "1" is already that of'),
    "one label": ('{"text": "x", "label": "a"}\n' * 3, "{path}:1: the 3 training rows have only one label (a), there"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_gets_one_message_that_says_where(fault, encoder, tmp_path):
    content, message = FAULTS[fault]
    path = tmp_path / "train.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        run_main(
            "--model_name_or_path", encoder, "--do_train", "--train_file", path, "--output_dir", tmp_path / "out"
        )  # fmt: skip
    assert message.format(path=path) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_texts_as_labels_are_refused_and_many_labels_are_said(encoder, tmp_path, capsys):
    rows = [{"text": "x", "label": f"review number {number}"} for number in range(60)]
    with pytest.raises(
        UserError, match="60 training rows have 60 different labels .* as texts have; set label_column_name"
    ):
        train_on(encoder, tmp_path / "refused", rows)
    rows = [{"text": f"x {number}", "label": number % 150} for number in range(450)]
    train_on(encoder, tmp_path / "many", rows, validation=rows[:4])
    assert "Note: 150 labels, 3.0 training rows for each." in capsys.readouterr().out
