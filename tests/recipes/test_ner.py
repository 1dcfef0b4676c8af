"""recipes/ner/run.py: its functions on hand-made rows, then whole runs on the sample."""

import csv
import json
import math
import re

from common.data import RowError
from common.errors import UserError
from common.tagging import find_entities
from recipes.ner import run as ner
from tests.conftest import (
    SAMPLE,
    assert_refused,
    assert_result_is_complete,
    list_sample_flags,
    read_history,
    read_jsonl,
    run_in_process,
    write_jsonl,
)
from tests.faults.fault import run_recipe

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertForTokenClassification, pipeline

FLAGS = ["--dtype", "float32", "--report_to", "none", "--max_steps", "2", "--logging_steps", "1"]


def run_main(*flags: object) -> dict[str, float]:
    """The recipe with these flags, in this process."""
    return run_in_process(ner, ner.NerArguments, *FLAGS, *flags)


@pytest.fixture(scope="module")
def result(encoder, tmp_path_factory):
    """The result directory of a short run on the sample, and the scores it returned."""
    directory = tmp_path_factory.mktemp("ner") / "result"
    scores = run_main(
        "--model_name_or_path", encoder, *list_sample_flags("ner", "train", "validation", "test"),
        "--do_train", "--do_eval",
        "--do_predict", "--output_dir", directory, "--learning_rate", "5e-3", "--max_steps", "40", "--eval_strategy",
        "steps", "--eval_steps", "20", "--per_device_train_batch_size", "16", "--save_strategy", "no",
    )  # fmt: skip
    return directory, scores


# Rows


def test_a_text_is_split_at_its_spaces():
    row = ner.read_sentence({"tokens": "Ada lives in Paris", "tags": "B-PER O O B-LOC"}, None)
    assert row == {"tokens": ["Ada", "lives", "in", "Paris"], "tags": ["B-PER", "O", "O", "B-LOC"]}


def test_numbered_tags_get_their_names():
    row = ner.read_sentence({"tokens": ["Ada", "left"], "tags": [1, 0]}, ["O", "B-PER"])
    assert row["tags"] == ["B-PER", "O"]


def test_a_row_without_tags_stays_unlabelled():
    assert ner.read_sentence({"tokens": ["Ada"], "tags": None}, None) == {"tokens": ["Ada"], "tags": None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags: 1 tags for 2 words; give every word one tag"),
        ({"tokens": [], "tags": []}, "tokens: it is '[]'; write a list of words, none of them empty"),
        (
            {"tokens": ["a", ""], "tags": ["O", "O"]},
            "tokens: it is \"['a', '']\"; write a list of words, none of them empty",
        ),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "tokens: it is \"['a', None]\"; write a list of words, none of"),
        ({"tokens": 7, "tags": ["O"]}, "tokens: it is '7'; write a list of words, none of them empty"),
        ({"tokens": ["a"], "tags": ["PERSON"]}, "tags: 'PERSON' is not a tag; write O, or B/"),
        ({"tokens": ["a"], "tags": [3]}, "tags: 3 is a number; name the tags in their order with tag_names"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, "tags: None is not a tag"),
        ({"tokens": ["a", "b"], "tags": ["O", 1]}, "tags: 1 is not a tag"),
        ({"tokens": ["a"], "tags": [True]}, "tags: True is not a tag"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row, message):
    with pytest.raises(RowError) as error:
        ner.read_sentence(row, None)
    assert message in str(error.value)


# Windows


def align(sentences: list[tuple[list[str], list[str] | None]], tokenizer, max_length=64, doc_stride=4):
    columns = {
        "tokens": [words for words, _ in sentences],
        "tags": [tags for _, tags in sentences],
        "origin": [f"rows.jsonl:{line}" for line, _ in enumerate(sentences, start=1)],
    }
    return ner.tokenize_and_align(
        columns, [*range(len(sentences))], tokenizer, {"O": 0, "B-PER": 1}, max_length, doc_stride
    )


def test_only_the_first_piece_of_a_word_carries_its_tag(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    windows = align([(["Zqzqzq", "."], ["B-PER", "O"])], tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(windows["input_ids"][0])
    rest = [piece for piece in pieces if piece.startswith("##")]
    assert rest and pieces == ["[CLS]", "Z", *rest, ".", "[SEP]"]
    assert windows["labels"] == [[-100, 1, *[-100] * len(rest), 0, -100]]
    assert windows["positions"] == [[1, len(rest) + 2]]


def test_every_word_of_a_long_sentence_is_labelled_once(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    words = [f"w{number}" for number in range(40)]
    windows = align([(["."], ["O"]), (words, ["B-PER"] * 40)], tokenizer, max_length=16)
    labels = [
        label for row, sentence in zip(windows["labels"], windows["row"], strict=True) if sentence for label in row
    ]
    assert labels.count(1) == 40
    assert max(len(ids) for ids in windows["input_ids"]) <= 16
    owned = [
        first + offset
        for first, positions, sentence in zip(windows["first_word"], windows["positions"], windows["row"], strict=True)
        for offset in range(len(positions))
        if sentence
    ]
    assert owned == [*range(40)]


def test_an_unlabelled_sentence_has_positions_and_no_labels(encoder):
    windows = align([(["Ada", "left"], None)], AutoTokenizer.from_pretrained(encoder))
    assert set(windows["labels"][0]) == {-100} and len(windows["positions"][0]) == 2


# Whole runs


def test_the_result_directory_is_complete(result):
    assert_result_is_complete(
        result[0],
        [
            "learning_curve.png",
            "test_f1_by_entity_type.png",
            "test_f1_by_length_of_the_sentence.png",
            "validation_f1_by_entity_type.png",
            "validation_f1_by_length_of_the_sentence.png",
        ],
    )


def test_every_gold_entity_is_scored(result):
    directory, scores = result
    for split in ("validation", "test"):
        gold = [entity.type for row in read_jsonl(SAMPLE / f"{split}.jsonl") for entity in find_entities(row["tags"])]
        for entity_type in set(gold):
            assert scores[f"{split}_support_{entity_type}"] == gold.count(entity_type)
    assert scores == json.loads((directory / "metrics.json").read_text())


def test_predictions_are_the_rows_of_the_file_in_their_order(result):
    rows, predictions = read_jsonl(SAMPLE / "test.jsonl"), read_jsonl(result[0] / "predictions_test.jsonl")
    assert [row["id"] for row in predictions] == [row["id"] for row in rows]
    for row, predicted in zip(rows, predictions, strict=True):
        assert predicted["tokens"] == row["tokens"] and predicted["tags"] == row["tags"]
        assert len(predicted["predicted_tags"]) == len(row["tokens"])
        for entity in predicted["entities"]:
            assert 0 < entity["score"] <= 1 and entity["start"] < entity["end"] <= len(row["tokens"])


def test_the_model_loads_with_its_auto_class_and_label_names(result):
    model = AutoModelForTokenClassification.from_pretrained(result[0])
    assert model.config.id2label[0] == "O" and model.config.label2id["I-PER"] == 6
    assert model.dtype == torch.float32


def test_pipeline_finds_the_entities_of_the_predictions_file(result):
    find = pipeline("token-classification", model=str(result[0]), aggregation_strategy="none")
    compared = 0
    for row in read_jsonl(result[0] / "predictions_test.jsonl")[:20]:
        text = " ".join(row["tokens"])
        starts = [len(" ".join(row["tokens"][:index])) + (index > 0) for index in range(len(row["tokens"]))]
        tags = {found["start"]: found["entity"] for found in find(text)}
        for start, tag in zip(starts, row["predicted_tags"], strict=True):
            # repaired tags: an I that begins an entity was predicted as I
            assert tags.get(start, "O").replace("I-", "B-") == tag.replace("I-", "B-")
            compared += tag != "O"
    assert compared > 5


def test_recipe_json_says_what_prediction_needs(result):
    recipe = json.loads((result[0] / "recipe.json").read_text())
    assert recipe["task"] == "token-classification" and recipe["recipe"] == "ner"
    assert recipe["labels"] == ["O", *(f"{letter}-{kind}" for kind in ("LOC", "ORG", "PER", "PROD") for letter in "BI")]
    assert recipe["max_seq_length"] == 128 and recipe["versions"]["transformers"] == "5.23.0"


def test_history_holds_every_logged_step(result):
    with (result[0] / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(losses) == 40 and losses[-1] < losses[0]
    assert [row["step"] for row in rows if row["eval_f1"]] == ["20", "40"]


def test_the_report_and_the_card_show_the_scores(result):
    directory, scores = result
    report = (directory / "report.html").read_text()
    assert f"{scores['test_f1']:.4f}" in report and "data:image/png;base64," in report and "http" not in report[:500]
    card = (directory / "README.md").read_text()
    assert f"| f1 | {scores['test_f1']:.4f} |" in card and 'pipeline("token-classification"' in card


def test_validation_loss_is_the_mean_over_the_words(result):
    """Against one row at a time, padded nowhere, in a loop of its own."""
    directory, scores = result
    model = AutoModelForTokenClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    total = words = 0
    for row in read_jsonl(SAMPLE / "validation.jsonl"):
        encoded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        first = [encoded.word_ids().index(word) for word in range(len(row["tokens"]))]
        with torch.no_grad():
            log_probabilities = model(**encoded).logits[0].log_softmax(-1)
        gold = [model.config.label2id[tag] for tag in row["tags"]]
        total -= log_probabilities[first, gold].sum().item()
        words += len(first)
    assert scores["validation_loss"] == pytest.approx(total / words, rel=1e-4)


def test_a_lora_run_saves_a_merged_model_with_its_labels(encoder, tmp_path):
    scores = run_main(
        "--model_name_or_path", encoder, *list_sample_flags("ner", "train", "validation"), "--do_train", "--do_eval",
        "--use_peft",
        "--output_dir", tmp_path / "lora", "--learning_rate", "5e-3", "--max_steps", "20", "--save_strategy", "no",
    )  # fmt: skip
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    again = run_main(
        "--model_name_or_path", tmp_path / "lora", *list_sample_flags("ner", "validation"), "--do_eval",
        "--output_dir", tmp_path / "again"
    )  # fmt: skip
    assert again["validation_loss"] == pytest.approx(scores["validation_loss"], rel=1e-4)


def test_a_trained_model_predicts_a_test_file_alone(result, tmp_path):
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "again"]
    scores = run_main(*flags, *list_sample_flags("ner", "test"))
    assert scores["test_f1"] == result[1]["test_f1"]
    expected = (result[0] / "predictions_test.jsonl").read_text()
    assert (tmp_path / "again" / "predictions_test.jsonl").read_text() == expected
    assert not (tmp_path / "again" / "model.safetensors").exists()


def test_an_unlabelled_file_is_predicted_without_scores(result, tmp_path):
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "new"]
    assert run_main(*flags, "--test_file", SAMPLE / "unlabelled.jsonl") == {}
    rows, predictions = read_jsonl(SAMPLE / "unlabelled.jsonl"), read_jsonl(tmp_path / "new" / "predictions_test.jsonl")
    assert [row["tokens"] for row in predictions] == [row["tokens"] for row in rows]
    assert all("tags" not in row and len(row["predicted_tags"]) == len(row["tokens"]) for row in predictions)


def test_rows_without_tags_are_predicted_and_the_others_scored(result, tmp_path):
    labelled = read_jsonl(SAMPLE / "test.jsonl")[:10]
    rows = [{"id": "x", "tokens": ["Hello", "there"]}, *labelled]
    path = write_jsonl(tmp_path / "mixed.jsonl", rows)
    scores = run_main(
        "--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "out", "--test_file", path
    )  # fmt: skip
    gold = sum(len(find_entities(row["tags"])) for row in labelled)
    assert sum(value for name, value in scores.items() if "support" in name) == gold
    assert len(read_jsonl(tmp_path / "out" / "predictions_test.jsonl")) == 11


def test_grouping_by_length_does_not_move_predictions(result, tmp_path):
    """Upstream's evaluation follows the grouped order, and scores the wrong rows."""
    flags = ["--model_name_or_path", result[0], "--do_predict", "--output_dir", tmp_path / "grouped"]
    run_main(*flags, *list_sample_flags("ner", "test"), "--train_sampling_strategy", "group_by_length")
    expected = (result[0] / "predictions_test.jsonl").read_text()
    assert (tmp_path / "grouped" / "predictions_test.jsonl").read_text() == expected


def test_windows_lose_no_entity_and_predict_every_word(result, tmp_path):
    flags = [
        "--model_name_or_path",
        result[0],
        "--do_predict",
        "--output_dir",
        tmp_path / "cut",
        *list_sample_flags("ner", "test"),
    ]
    scores = run_main(*flags, "--max_seq_length", "12", "--doc_stride", "4")
    expected = {name: value for name, value in result[1].items() if name.startswith("test_support")}
    assert {name: value for name, value in scores.items() if "support" in name} == expected
    for row in read_jsonl(tmp_path / "cut" / "predictions_test.jsonl"):
        assert "" not in row["predicted_tags"]


def test_the_loss_options_train(encoder, tmp_path):
    for number, flags in enumerate(
        (["--class_weights", "auto", "--focal_gamma", "2"], ["--label_smoothing_factor", "0.1"])
    ):
        scores = run_main(
            "--model_name_or_path", encoder, *list_sample_flags("ner", "train", "validation"),
            "--do_train", "--do_eval", *flags,
            "--output_dir", tmp_path / str(number), "--save_strategy", "no",
        )  # fmt: skip
        assert math.isfinite(scores["validation_loss"])


def test_packed_windows_are_learnt_from_as_padded_ones(encoder, tmp_path, capsys):
    """One step of all rows: the same loss, and the same weights but for rounding."""
    losses, weights = [], []
    for name, flags in {"padded": [], "packed": ["--packing", "--max_seq_length", "120"]}.items():
        run_main(
            "--model_name_or_path", encoder, *list_sample_flags("ner", "train"), "--do_train", *flags,
            "--max_train_samples", "16", "--per_device_train_batch_size", "16", "--max_steps", "1", "--dtype",
            "float32", "--logging_steps", "1", "--save_strategy", "no", "--output_dir", tmp_path / name,
        )  # fmt: skip
        losses.append(read_history(tmp_path / name, "loss")[0]["loss"])
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    rows = int(re.search(r"packing    16 windows in (\d+) rows", capsys.readouterr().out)[1])
    assert 1 < rows < 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, atol=1e-5, rtol=1e-4)


def test_a_tag_only_in_validation_is_refused_unless_it_is_named(encoder, tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", [{"tokens": ["Ada", "left"], "tags": ["B-PER", "O"]}] * 4)
    validation = write_jsonl(
        tmp_path / "validation.jsonl", [{"tokens": ["Oslo", "is", "far"], "tags": ["B-LOC", "O", "O"]}]
    )
    flags = [
        "--model_name_or_path", encoder, "--do_train", "--do_eval", "--train_file", train,
        "--validation_file", validation,
        "--save_strategy", "no", "--output_dir",
    ]  # fmt: skip
    with pytest.raises(UserError) as error:
        run_main(*flags, tmp_path / "refused")
    assert str(error.value).startswith(f"{validation}:1: tag B-LOC does not occur in the training rows; ")
    scores = run_main(*flags, tmp_path / "named", "--tag_names", "O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert scores["validation_support_LOC"] == 1


def test_other_tag_schemes_and_formats_are_read(encoder, tmp_path):
    conll = tmp_path / "train.conll"
    conll.write_text("Ada\tS-PER\nleft\tO\n\nNew\tB-LOC\nYork\tE-LOC\n.\tO\n\n" * 6)
    scores = run_main(
        "--model_name_or_path", encoder, "--do_train", "--do_eval", "--train_file", conll,
        "--output_dir", tmp_path / "out",
        "--validation_split_percentage", "50", "--save_strategy", "no",
    )  # fmt: skip
    rows = read_jsonl(tmp_path / "out" / "predictions_validation.jsonl")
    assert len(rows) == 6
    assert {tag for row in rows for tag in row["tags"]} <= {"O", "B-PER", "B-LOC", "I-LOC"}
    assert sum(value for name, value in scores.items() if "support" in name) == 6


def test_a_dry_run_leaves_nothing_behind(encoder, tmp_path, capsys):
    losses = run_main(
        "--model_name_or_path", encoder, *list_sample_flags("ner", "train", "validation"), "--do_train", "--do_eval",
        "--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end",
        "--metric_for_best_model", "f1",
        "--early_stopping_patience", "2", "--dry_run", "--output_dir", tmp_path / "dry",
    )  # fmt: skip
    assert losses.keys() == {"train_loss", "batch_loss"}
    screen = capsys.readouterr().out
    for name in ("data", "lengths", "labels", "windows", "model", "precision", "device", "batch", "steps", "output"):
        assert f"\n{name:<10} " in screen
    assert "example 1  [CLS] " in screen and "/B-" in screen
    assert list(tmp_path.iterdir()) == []


def test_early_stopping_ends_a_run_that_does_not_get_better(encoder, tmp_path):
    """Without a learning rate no evaluation is better than the first one: two more, and the run stops."""
    run_main(
        "--model_name_or_path", encoder, *list_sample_flags("ner", "train", "validation"), "--do_train", "--do_eval",
        "--learning_rate", "0", "--max_steps", "40", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy",
        "steps", "--save_steps", "2", "--load_best_model_at_end", "--metric_for_best_model", "loss",
        "--early_stopping_patience", "2", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    with (tmp_path / "out" / "history.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["eval_loss"]]
    assert steps == [2, 4, 6]


def test_a_finished_run_is_not_trained_again(result, encoder, tmp_path, capsys):
    flags = [
        "--model_name_or_path", encoder, *list_sample_flags("ner", "train", "validation"), "--do_train", "--do_eval",
        "--save_strategy", "no", "--output_dir", tmp_path / "out",
    ]  # fmt: skip
    run_main(*flags)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run_main(*flags)
    assert exit_.value.code == 0 and "holds this run, finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="finished run with other settings .*learning_rate: 5e-05 -> 0.001"):
        run_main(*flags, "--learning_rate", "1e-3")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    (tmp_path / "out" / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match="recipe.json is not from a run of these recipes"):
        run_main(*flags)


def test_an_untrained_model_is_not_evaluated(tmp_path):
    with pytest.raises(UserError, match="from_scratch makes an untrained model: set do_train"):
        run_main(
            "--from_scratch", "encoder_tiny", *list_sample_flags("ner", "validation"), "--do_eval",
            "--output_dir", tmp_path / "x",
        )  # fmt: skip


def test_files_of_somebody_else_are_never_written_over(encoder, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are not from a run"):
        run_main(
            "--model_name_or_path", encoder, *list_sample_flags("ner", "train"), "--do_train", "--output_dir", tmp_path
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_training_goes_on_from_a_trained_head(tagger, tmp_path):
    """Rows whose types the head knows keep the head and its order of labels; rows with other types get a new one."""
    train = write_jsonl(tmp_path / "train.jsonl", [{"tokens": ["Ada", "left"], "tags": ["B-PER", "O"]}] * 4)
    flags = [
        "--model_name_or_path",
        tagger,
        "--do_train",
        "--train_file",
        train,
        "--max_steps",
        "1",
        "--learning_rate",
        "0",
    ]
    run_main(*flags, "--output_dir", tmp_path / "kept", "--save_strategy", "no")
    kept, before = (load_file(path / "model.safetensors")["classifier.weight"] for path in (tmp_path / "kept", tagger))
    assert torch.equal(kept, before)
    assert BertForTokenClassification.from_pretrained(tmp_path / "kept").config.id2label[1] == "B-LOC"


def test_byte_level_pieces_are_read_with_their_spaces(tmp_path):
    """RoBERTa-like tokenizers: the pieces of a list of words are those of the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForTokenClassification

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = [" ".join(row["tokens"]) for row in read_jsonl(SAMPLE / "train.jsonl")]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    config = RobertaConfig(
        vocab_size=900, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    RobertaForTokenClassification(config).save_pretrained(tmp_path / "model")
    wrapped.save_pretrained(tmp_path / "model")
    run_main(
        "--model_name_or_path", tmp_path / "model", *list_sample_flags("ner", "train", "validation"),
        "--do_train", "--do_eval",
        "--output_dir", tmp_path / "out", "--save_strategy", "no",
    )  # fmt: skip
    assert len(read_jsonl(tmp_path / "out" / "predictions_validation.jsonl")) == len(
        read_jsonl(SAMPLE / "validation.jsonl")
    )
    windows = align([(["Ada", "lives", "here"], None)], wrapped)
    assert wrapped.decode(windows["input_ids"][0][1:-1]) == "Ada lives here"
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["max_seq_length"] == 64


# Bad input: one message, no traceback, exit code 1, nothing written


def train_flags(train, output) -> list[object]:
    return [
        "--from_scratch",
        "encoder_tiny",
        "--do_train",
        "--train_file",
        train,
        "--output_dir",
        output,
        "--max_steps",
        "1",
    ]


GOOD = '{"tokens": ["Ada", "left"], "tags": ["B-PER", "O"]}\n'
FAULTS = {
    "empty file": (b"", "{path}:1: the file is empty"),
    "invalid JSON in the middle": (
        (GOOD * 3 + '{"tokens": ["Ada" "left"]}\n' + GOOD).encode(),
        "{path}:4:19: invalid JSON",
    ),
    "missing column": (
        b'{"words_": ["Ada"], "tags": ["O"]}\n',
        '{path}:1: no column "tokens" or "words", the columns are',
    ),
    "lengths differ": (
        (GOOD + '{"tokens": ["Ada", "left"], "tags": ["O"]}\n').encode(),
        "{path}:2: tags: 1 tags for 2 words",
    ),
    "unknown scheme": (b'{"tokens": ["Ada"], "tags": ["X_PER"]}\n', "{path}:1: tags: 'X_PER' is not a tag"),
    "inside without begin": (
        (GOOD + '{"tokens": ["Ada", "left"], "tags": ["O", "I-PER"]}\n').encode(),
        "{path}:2: tag I-PER of word 2 goes on with no entity after O",
    ),
    "not UTF-8": (
        GOOD.encode() + '{"tokens": ["Zoé"], "tags": ["O"]}\n'.encode("latin-1"),
        "{path}:2:16: byte 0xe9 is not UTF-8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_gets_one_message_that_says_where(fault, tmp_path):
    content, message = FAULTS[fault]
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message.format(path=path))):
        run_main(*train_flags(path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_directory_instead_of_a_file_is_refused(tmp_path):
    (tmp_path / "train.jsonl").mkdir()
    run = run_recipe("ner", *train_flags(tmp_path / "train.jsonl", tmp_path / "out"))
    assert_refused(run, f"{tmp_path / 'train.jsonl'}", tmp_path / "out")
    assert "directory" in run.stderr


def test_a_model_path_that_does_not_exist_is_refused(tmp_path):
    flags = ["--do_train", *list_sample_flags("ner", "train"), "--output_dir", tmp_path / "out", "--model_name_or_path"]
    run = run_recipe("ner", *flags, tmp_path / "nowhere")
    assert_refused(run, f"{tmp_path / 'nowhere'}: no such model directory", tmp_path / "out", code=2)


def test_numbered_encoder_presets_are_the_documented_sizes(tmp_path):
    """A model from scratch has a tokenizer of its own, which loads beside it."""
    run_main(
        "--from_scratch", "encoder_small", *list_sample_flags("ner", "train"),
        "--do_train", "--output_dir", tmp_path / "small",
        "--save_strategy", "no", "--max_steps", "1", "--vocab_size", "2000",
    )  # fmt: skip
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "small")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (256, 4)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "small")) == model.config.vocab_size
