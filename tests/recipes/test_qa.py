"""recipes/qa/run.py: its functions on hand-made rows, then whole runs on the sample."""

import json
import re
from collections import Counter

from common.errors import UserError
from common.losses import hide_padding
from recipes.qa import run as qa
from tests.conftest import (
    ROOT,
    assert_result_is_complete,
    list_sample_flags,
    read_jsonl,
    run_in_process,
    write_jsonl,
)

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    ByT5Tokenizer,
)

SAMPLE = ROOT / "recipes" / "qa" / "sample"
FLAGS = ["--dtype", "float32", "--report_to", "none", "--max_steps", "2", "--logging_steps", "1"]
FLAGS += ["--save_strategy", "no", "--max_seq_length", "128", "--doc_stride", "32"]


def run_main(*flags: object) -> dict[str, float]:
    """The recipe with these flags, in this process."""
    return run_in_process(qa, qa.QaArguments, *FLAGS, *flags)


@pytest.fixture(scope="module")
def result(encoder, tmp_path_factory):
    """The result directory of a short run on the sample, and the scores it returned."""
    directory = tmp_path_factory.mktemp("qa") / "result"
    scores = run_main(
        "--model_name_or_path", encoder, *list_sample_flags("qa", "train", "validation", "test"), "--do_train",
        "--do_eval", "--do_predict", "--output_dir", directory, "--learning_rate", "3e-3", "--max_steps", "60",
        "--eval_strategy", "steps", "--eval_steps", "30", "--per_device_train_batch_size", "16",
    )  # fmt: skip
    return directory, scores


# Windows


def make_rows(question="Who left?", context="Ada left Paris. Bo stayed.", answers=("Ada",)) -> dict[str, list]:
    starts = [context.find(answer) for answer in answers]
    return {"question": [question], "context": [context], "answers": [[*answers]], "answer_starts": [starts]}


def locate(encoder, rows: dict[str, list], max_length=64, doc_stride=4, is_training=True) -> dict[str, list]:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    return qa.tokenize_and_locate(rows, [7], tokenizer, max_length, doc_stride, is_training)


def read_answer(encoder, windows: dict[str, list], row: int) -> str:
    start, end = windows["labels"][row][:2]
    return AutoTokenizer.from_pretrained(encoder).decode(windows["input_ids"][row][start : end + 1])


def test_labels_are_the_first_and_last_piece_of_the_answer(encoder):
    for answer in ("Ada", "Ada left Paris", "Paris", "Bo stayed.", "."):
        windows = locate(encoder, make_rows(answers=(answer,)))
        assert read_answer(encoder, windows, 0).replace(" .", ".") == answer
    assert windows["row"] == [7]


def test_an_answer_is_in_every_window_that_holds_it_whole_and_in_no_other(encoder):
    words = [f"w{number}" for number in range(40)]
    rows = make_rows(context=" ".join(words), answers=("w20 w21",))
    windows = locate(encoder, rows, max_length=40, doc_stride=10)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    assert len(windows["labels"]) == 3
    holding = 0
    for row, labels in enumerate(windows["labels"]):
        text = tokenizer.decode(windows["input_ids"][row]).split("[SEP]")[1]
        if re.search(r"w20 w21\b", text):
            assert read_answer(encoder, windows, row) == "w20 w21"
            holding += 1
        else:
            assert labels == [0, 0], "the piece that stands for no answer"
    assert holding >= 1


def test_a_row_without_answer_points_at_cls_and_an_unlabelled_one_nowhere(encoder):
    rows = make_rows(answers=())
    assert locate(encoder, rows)["labels"] == [[0, 0]]
    rows["answers"] = rows["answer_starts"] = [None]
    windows = locate(encoder, rows, is_training=False)
    start, end = windows["context_start"][0], windows["context_start"][0] + len(windows["starts"][0])
    assert windows["labels"] == [[-100, -100, start, end - 1, 0]]


def test_a_question_longer_than_the_model_is_cut_and_does_not_end_the_run(encoder):
    """Upstream stops with a truncation error."""
    windows = locate(encoder, make_rows(question="why " * 300), max_length=32)
    assert windows["question_is_cut"][0] and max(map(len, windows["input_ids"])) <= 32
    assert any(labels[0] > 0 for labels in windows["labels"])


def test_a_stride_that_leaves_no_room_is_refused(encoder):
    with pytest.raises(
        UserError, match="doc_stride 30 leaves no room for questions in max_seq_length 32: set it to 20"
    ):
        locate(encoder, make_rows(), max_length=32, doc_stride=30)


def test_characters_of_pieces_lead_back_to_the_context(encoder):
    rows = make_rows(context="  Ada  left\tParis. 北京很大。", answers=("北京",))
    windows = locate(encoder, rows, is_training=False)
    first = windows["labels"][0][0] - windows["context_start"][0]
    last = windows["labels"][0][1] - windows["context_start"][0]
    assert rows["context"][0][windows["starts"][0][first] : windows["ends"][0][last]] == "北京"


# Whole runs


def test_the_result_directory_is_complete(result):
    assert_result_is_complete(
        result[0],
        [
            "learning_curve.png",
            "test_f1_by_length_of_the_question.png",
            "test_f1_by_question_word.png",
            "validation_f1_by_length_of_the_question.png",
            "validation_f1_by_question_word.png",
        ],
    )


def test_every_question_gets_exactly_one_row_in_its_order(result):
    directory, scores = result
    for split in ("validation", "test"):
        rows, predictions = read_jsonl(SAMPLE / f"{split}.jsonl"), read_jsonl(directory / f"predictions_{split}.jsonl")
        assert [row["id"] for row in predictions] == [row["id"] for row in rows]
        for row, predicted in zip(rows, predictions, strict=True):
            assert predicted["question"] == row["question"] and predicted["answers"] == row["answers"]["text"]
            assert 0 <= predicted["score"] <= 1
            if predicted["predicted_answer"]:
                assert row["context"][predicted["start"] : predicted["end"]] == predicted["predicted_answer"]
            else:
                assert predicted["start"] is None and predicted["end"] is None
        exact = sum((row["predicted_answer"] in row["answers"]) or (not row["answers"] and not row["predicted_answer"])
                    for row in predictions)  # fmt: skip
        assert scores[f"{split}_exact_match"] >= exact / len(rows) > 0
    assert scores == json.loads((directory / "metrics.json").read_text())


def test_the_null_threshold_is_tuned_saved_and_used(result, tmp_path):
    directory, _ = result
    threshold = json.loads((directory / "config.json").read_text())["null_threshold"]
    assert threshold == json.loads((directory / "recipe.json").read_text())["null_threshold"]
    rows = read_jsonl(directory / "predictions_validation.jsonl")
    assert all((row["predicted_answer"] == "") == (row["null_score"] > threshold) for row in rows)
    flags = ["--model_name_or_path", directory, "--do_predict", *list_sample_flags("qa", "test")]
    scores = run_main(*flags, "--output_dir", tmp_path / "again")
    assert scores["test_f1"] == result[1]["test_f1"]
    expected = (directory / "predictions_test.jsonl").read_text()
    assert (tmp_path / "again" / "predictions_test.jsonl").read_text() == expected
    run_main(*flags, "--output_dir", tmp_path / "never", "--null_threshold", "-1000")
    assert all(row["predicted_answer"] == "" for row in read_jsonl(tmp_path / "never" / "predictions_test.jsonl"))


def test_validation_loss_is_the_mean_over_the_windows(result):
    """Against one question at a time, padded nowhere, in a loop of its own."""
    directory, scores = result
    model = AutoModelForQuestionAnswering.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    total = count = 0
    for row in read_jsonl(SAMPLE / "validation.jsonl"):
        encoded = tokenizer(
            row["question"], row["context"], truncation="only_second", max_length=128, stride=32,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        for index, ids in enumerate(encoded["input_ids"]):
            start = end = 0
            if row["answers"]["text"]:
                first = row["answers"]["answer_start"][0]
                last = first + len(row["answers"]["text"][0])
                places = zip(encoded["offset_mapping"][index], encoded.sequence_ids(index), strict=True)
                held = [n for n, ((a, b), part) in enumerate(places) if part == 1 and a < last and b > first]
                offsets = encoded["offset_mapping"][index]
                if held and offsets[held[0]][0] <= first and offsets[held[-1]][1] >= last:
                    start, end = held[0], held[-1]
            inputs = {name: torch.tensor([encoded[name][index]]) for name in ("input_ids", "token_type_ids")}
            with torch.no_grad():
                outputs = model(**inputs, attention_mask=torch.ones(1, len(ids)))
            total -= outputs.start_logits[0].log_softmax(-1)[start].item()
            total -= outputs.end_logits[0].log_softmax(-1)[end].item()
            count += 2
    assert count > 300, "some contexts have several windows"
    assert scores["validation_loss"] == pytest.approx(total / count, rel=1e-4)


def test_the_report_and_the_card_show_the_scores(result):
    directory, scores = result
    report = (directory / "report.html").read_text()
    assert f"{scores['test_f1']:.4f}" in report and "validation: wrong answers" in report
    card = (directory / "README.md").read_text()
    assert f"| exact_match | {scores['test_exact_match']:.4f} |" in card


def test_the_snippet_of_the_card_gives_an_answer_from_the_context(result, capsys):
    card = (result[0] / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    exec(snippet, {})
    assert capsys.readouterr().out.strip() in "Ada Lovelace lives in Paris."


def test_max_eval_samples_counts_questions_and_loses_no_window(result, tmp_path):
    """Upstream keeps as many windows as questions are asked for: the others count as wrong."""
    rows = sorted(read_jsonl(SAMPLE / "validation.jsonl"), key=lambda row: -len(row["context"]))
    path = write_jsonl(tmp_path / "v.jsonl", rows)
    flags = ["--model_name_or_path", result[0], "--do_eval", "--validation_file", path]
    run_main(*flags, "--max_eval_samples", "8", "--output_dir", tmp_path / "some")
    run_main(*flags, "--output_dir", tmp_path / "all")
    some, every = (read_jsonl(tmp_path / name / "predictions_validation.jsonl") for name in ("some", "all"))
    assert len(some) == 8 and some == every[:8]


def test_grouping_by_length_does_not_move_predictions(result, tmp_path):
    """Upstream's evaluation follows the grouped order, and scores the wrong questions."""
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "grouped"]
    run_main(*flags, *list_sample_flags("qa", "test"), "--train_sampling_strategy", "group_by_length")
    expected = (result[0] / "predictions_test.jsonl").read_text()
    assert (tmp_path / "grouped" / "predictions_test.jsonl").read_text() == expected


def nest(rows: list[dict]) -> dict:
    """The rows as SQuAD's own file has them: articles, paragraphs, questions."""
    paragraphs = [
        {"context": row["context"], "qas": [{key: row[key] for key in ("id", "question", "answers")}]} for row in rows
    ]
    for paragraph in paragraphs:
        answers = paragraph["qas"][0]["answers"]
        paragraph["qas"][0]["answers"] = [
            {"text": text, "answer_start": start}
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        ]
        paragraph["qas"][0]["is_impossible"] = not answers["text"]
    return {"version": "v2.0", "data": [{"title": "all", "paragraphs": paragraphs}]}


def test_nested_json_and_csv_give_what_jsonl_gives(result, tmp_path):
    rows = read_jsonl(SAMPLE / "test.jsonl")[:12]
    nested, table = tmp_path / "test.json", tmp_path / "test.csv"
    nested.write_text(json.dumps(nest(rows), ensure_ascii=False))
    quoted = [[row["id"], row["question"], row["context"], json.dumps(row["answers"])] for row in rows]
    lines = [",".join('"' + field.replace('"', '""') + '"' for field in fields) for fields in quoted]
    table.write_text("\n".join(["id,question,context,answers", *lines]) + "\n")
    for name, path in (("nested", nested), ("csv", table)):
        flags = ["--model_name_or_path", result[0], "--do_predict", "--test_file", path]
        run_main(*flags, "--output_dir", tmp_path / name)
        expected = read_jsonl(result[0] / "predictions_test.jsonl")[:12]
        assert read_jsonl(tmp_path / name / "predictions_test.jsonl") == expected


def test_the_best_model_is_found_with_the_default_metric_and_with_f1(encoder, tmp_path):
    """Upstream: KeyError 'eval_loss'."""
    for name, flags in (("loss", []), ("f1", ["--metric_for_best_model", "f1"])):
        scores = run_main(
            "--model_name_or_path", encoder, *list_sample_flags("qa", "train", "validation"), "--do_train", "--do_eval",
            "--max_train_samples", "32", "--max_eval_samples", "20", "--eval_strategy", "epoch", "--save_strategy",
            "epoch", "--load_best_model_at_end", "--max_steps", "8", *flags, "--output_dir", tmp_path / name,
        )  # fmt: skip
        assert scores["validation_loss"] > 0 and "validation_f1" in scores


def test_all_answerable_questions_are_answered(encoder, tmp_path):
    rows = [row for row in read_jsonl(SAMPLE / "train.jsonl") if row["answers"]["text"]][:24]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    scores = run_main(
        "--model_name_or_path", encoder, "--do_train", "--do_eval", "--train_file", path, "--validation_file", path,
        "--output_dir", tmp_path / "out", "--save_n_best", "--n_best_size", "5",
    )  # fmt: skip
    assert "validation_f1_unanswerable" not in scores
    assert json.loads((tmp_path / "out" / "config.json").read_text())["null_threshold"] is None
    for row, predicted in zip(rows, read_jsonl(tmp_path / "out" / "predictions_validation.jsonl"), strict=True):
        assert predicted["predicted_answer"]
        best = predicted["n_best"]
        assert len(best) == 5 and best[0]["text"] == predicted["predicted_answer"]
        assert [entry["score"] for entry in best] == sorted((entry["score"] for entry in best), reverse=True)
        assert all(row["context"][entry["start"] : entry["end"]] == entry["text"] for entry in best)


def test_an_unlabelled_file_is_predicted_without_scores(result, tmp_path):
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "new"]
    assert run_main(*flags, "--test_file", SAMPLE / "unlabelled.jsonl") == {}
    rows, predictions = read_jsonl(SAMPLE / "unlabelled.jsonl"), read_jsonl(tmp_path / "new" / "predictions_test.jsonl")
    assert [row["id"] for row in predictions] == [row["id"] for row in rows]
    assert all("answers" not in row for row in predictions)


def test_chinese_answers_are_scored_by_characters(result, tmp_path):
    rows = [row for row in read_jsonl(SAMPLE / "test.jsonl") if "？" in row["question"]]
    path = write_jsonl(tmp_path / "zh.jsonl", rows)
    flags = ["--model_name_or_path", result[0], "--do_predict", "--test_file", path]
    words = run_main(*flags, "--output_dir", tmp_path / "en", "--language", "en")
    characters = run_main(*flags, "--output_dir", tmp_path / "zh", "--language", "zh")
    assert words["test_f1"] == pytest.approx(words["test_exact_match"])
    assert characters["test_f1"] > words["test_f1"]


def test_a_lora_run_saves_a_merged_model(encoder, tmp_path):
    scores = run_main(
        "--model_name_or_path", encoder, *list_sample_flags("qa", "train", "validation"), "--do_train", "--do_eval",
        "--use_peft", "--output_dir", tmp_path / "lora", "--learning_rate", "5e-3", "--max_steps", "10",
        "--max_eval_samples", "40",
    )  # fmt: skip
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    again = run_main(
        "--model_name_or_path", tmp_path / "lora", *list_sample_flags("qa", "validation"), "--do_eval",
        "--max_eval_samples", "40", "--output_dir", tmp_path / "again",
    )  # fmt: skip
    assert again["validation_loss"] == pytest.approx(scores["validation_loss"], rel=1e-4)
    assert again["validation_f1"] == scores["validation_f1"]


@pytest.mark.parametrize("splits", [("train", "validation"), ("train",), ("test",)], ids="-".join)
def test_a_dry_run_leaves_nothing_behind(splits, result, encoder, tmp_path, capsys):
    names = {"train": "--do_train", "validation": "--do_eval", "test": "--do_predict"}
    model = encoder if "train" in splits else result[0]
    losses = run_main(
        "--model_name_or_path", model, *list_sample_flags("qa", *splits), *(names[split] for split in splits),
        "--dry_run", "--output_dir", tmp_path / "dry",
    )  # fmt: skip
    expected = {"train_loss"} if "train" in splits else set()
    assert losses.keys() == expected | ({"batch_loss"} if splits != ("train",) else set())
    assert list(tmp_path.iterdir()) == []
    screen = capsys.readouterr().out
    assert "windows    up to 128 pieces, " in screen and "]]" in screen


def test_answers_that_no_window_holds_are_counted(encoder, tmp_path, capsys):
    context = " ".join(f"w{number}" for number in range(60))
    answer = " ".join(f"w{number}" for number in range(10, 50))
    rows = [{"question": "Which?", "context": context, "answers": {"text": [answer], "answer_start": [30]}}] * 2
    rows[0] = {"question": "Who?", "context": "Ada left.", "answers": {"text": ["Ada"], "answer_start": [0]}}
    rows[1]["answers"]["answer_start"] = [context.index(answer)]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    run_main(
        "--model_name_or_path", encoder, "--do_train", "--train_file", path, "--output_dir", tmp_path / "out",
        "--max_seq_length", "64", "--doc_stride", "16",
    )  # fmt: skip
    assert re.search(
        r"windows +up to 64 pieces, \d+ more than questions; 1 answers fit into no window", capsys.readouterr().out
    )


def test_answers_without_a_place_are_found_or_scored_only(encoder, tmp_path, capsys):
    rows = [
        {"question": "Who?", "context": "Ada left. Ada came.", "answers": {"text": ["Ada"], "answer_start": [9]}},
        {"question": "Where?", "context": "Ada left.", "answers": {"text": ["Paris"], "answer_start": [0]}},
    ]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    flags = [
        "--model_name_or_path",
        encoder,
        "--do_train",
        "--do_eval",
        "--train_file",
        path,
        "--validation_file",
        path,
    ]
    with pytest.raises(UserError) as error:
        run_main(*flags, "--output_dir", tmp_path / "refused")
    lines = str(error.value).splitlines()
    assert lines[0] == (
        f"{path}:1: answers: 'Ada': at answer_start 9 the context has ' Ad'; it stands at 0, 10, correct it or set "
        "find_answers"
    )
    assert len(lines) == 4 and "'Paris': at answer_start 0 the context has 'Ada l'; it stands nowhere" in lines[1]
    run_main(*flags, "--find_answers", "--output_dir", tmp_path / "found")
    # One in each split.
    assert "0 answers fit into no window, 2 are not in their context" in capsys.readouterr().out
    assert read_jsonl(tmp_path / "found" / "predictions_validation.jsonl")[1]["answers"] == ["Paris"]


def test_a_slow_tokenizer_is_refused(tmp_path):
    tokenizer = ByT5Tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForQuestionAnswering(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(
        UserError, match="ByT5Tokenizer does not say which piece belongs to which word: use a model with"
    ):
        run_main(
            "--model_name_or_path", tmp_path / "model", *list_sample_flags("qa", "test"), "--do_predict",
            "--output_dir", tmp_path / "out",
        )  # fmt: skip


def test_evaluation_keeps_a_fixed_number_of_values_for_each_window(result):
    """Not two for each piece: memory must not grow with rows x length."""
    model = AutoModelForQuestionAnswering.from_pretrained(result[0]).eval()
    hide_padding(model)
    for length in (40, 128):
        batch = {"input_ids": torch.randint(5, 50, (3, length)), "attention_mask": torch.ones(3, length)}
        with torch.no_grad():
            outputs = model(**batch)
        labels = torch.tensor([[4, 5, 3, length - 2, 0]] * 3)
        kept = qa.reduce_span_logits((outputs.start_logits, outputs.end_logits), labels, 20, 30)
        assert sum(part.numel() for part in kept) == 3 * (3 * 20 + 2)


# Bad input: one message, no traceback, exit code 1, nothing written

GOOD = {"id": "1", "question": "Who?", "context": "Ada left.", "answers": {"text": ["Ada"], "answer_start": [0]}}
FAULTS = {
    "wrong start": ({"answers": {"text": ["Ada"], "answer_start": [3]}}, "answers: 'Ada': at answer_start 3 the"),
    "outside": ({"answers": {"text": ["Ada"], "answer_start": [99]}}, "answer_start 99 is outside the context of 9 "),
    "negative start": ({"answers": {"text": ["Ada"], "answer_start": [-1]}}, "answer_start -1 is outside the context"),
    "no start": ({"answers": {"text": ["Ada"]}}, "'Ada': it has no answer_start; it stands at 0, correct it or set"),
    "lengths differ": ({"answers": {"text": ["Ada"], "answer_start": []}}, "must be lists of the same length"),
    "empty answer": ({"answers": {"text": [""], "answer_start": [0]}}, "answers: the text is ''; write a text, or no"),
    "text start": ({"answers": {"text": ["Ada"], "answer_start": ["0"]}}, "answer_start is '0'; give the number of"),
    "number": ({"answers": 5}, "answers: '5' is no answer; write {'text': [...], 'answer_start': [...]}"),
    "empty context": ({"context": ""}, "context: it is empty; write a text"),
    "empty question": ({"question": ""}, "question: it is empty; write a text"),
    "repeated id": ({"id": "1"}, 'the id "1" is already that of'),
    "unlabelled": ({"answers": None}, '"answers" is null; give every row a value'),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_gets_one_message_that_says_where(fault, encoder, tmp_path):
    change, message = FAULTS[fault]
    path = write_jsonl(tmp_path / "train.jsonl", [GOOD, GOOD | {"id": "2"} | change])
    with pytest.raises(UserError) as error:
        run_main("--model_name_or_path", encoder, "--do_train", "--train_file", path, "--output_dir", tmp_path / "out")
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_broken_article_is_named(encoder, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [{"title": "a", "paragraphs": [{"context": "Ada left."}]}]}))
    with pytest.raises(UserError, match=r"train.json:1: paragraphs\[0\]: its qas are 'None'; give a list"):
        run_main("--model_name_or_path", encoder, "--do_train", "--train_file", path, "--output_dir", tmp_path / "out")


def test_a_context_of_a_million_characters_is_read(result, tmp_path):
    row = {"id": "1", "question": "Who left?", "context": "Nobody came. " * 76_924 + "Ada left."}
    path = write_jsonl(tmp_path / "long.jsonl", [row, row | {"id": "2", "context": "Ada left."}])
    flags = [
        "--model_name_or_path",
        result[0],
        "--do_predict",
        "--test_file",
        path,
        "--per_device_eval_batch_size",
        "64",
    ]
    run_main(*flags, "--output_dir", tmp_path / "out")
    assert Counter(row["id"] for row in read_jsonl(tmp_path / "out" / "predictions_test.jsonl")) == {"1": 1, "2": 1}
