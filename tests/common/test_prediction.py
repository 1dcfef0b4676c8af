"""common/prediction.py: a result directory predicts what its run predicted, and what pipeline() says."""

import json
import shutil
from pathlib import Path

from common.errors import UserError
from common.prediction import load_predictor
from recipes.dialogue import run as dialogue
from recipes.ner import run as ner
from recipes.qa import run as qa
from recipes.sentiment import run as sentiment
from recipes.summarization import run as summarization
from recipes.translation import run as translation
from tests.conftest import (
    ROOT,
    list_sample_flags,
    read_jsonl,
    run_generating_recipe,
    run_in_process,
    save_decoder,
    write_jsonl,
)
from tests.multilingual import build_multilingual_model, build_multilingual_tokenizer

import pytest
from transformers import pipeline

FLAGS = ["--dtype", "float32", "--report_to", "none", "--logging_steps", "50", "--save_strategy", "no", "--do_train"]
FLAGS += ["--do_predict", "--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "7"]
GOLD = {"label", "labels", "tags", "answers", "target", "summary", "reply"}
MIXED = "The new 机器人 of Brindlemoor Airlines 在大连 opened on Friday, and everybody was very pleased. 非常满意。 "


def read_unlabelled(recipe: str) -> list[dict]:
    return read_jsonl(ROOT / "recipes" / recipe / "sample" / "unlabelled.jsonl")


def train(recipe, arguments: type, folder: Path, rows: list[dict], *flags: object) -> Path:
    """The result directory of a short run that also predicted these rows."""
    run = run_generating_recipe if recipe in (translation, summarization, dialogue) else run_in_process
    test = write_jsonl(folder / "rows.jsonl", rows)
    run(recipe, arguments, *FLAGS, "--test_file", test, "--output_dir", folder / "result", *flags)
    return folder / "result"


def predict_as_trained(directory: Path, rows: list[dict], **settings) -> list[dict]:
    """What the directory predicts by itself, after it is the same as what its run predicted: rows, keys and order."""
    predicted = load_predictor(directory, **settings).predict(rows)
    expected = read_jsonl(directory / "predictions_test.jsonl")
    assert len(predicted) == len(rows) and json.loads(json.dumps(predicted)) == predicted
    assert_equal(predicted, expected)
    return predicted


def assert_equal(found, expected) -> None:
    if isinstance(expected, dict):
        assert [name for name in expected if name not in GOLD] == list(found)
        for name, value in found.items():
            assert_equal(value, expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == (pytest.approx(expected, abs=5e-4) if isinstance(expected, float) else expected)


# Texts


@pytest.fixture(scope="module")
def classifier(encoder, tmp_path_factory):
    """A model that reads long texts in windows, its temperature tuned; and the rows that its run predicted."""
    rows = [*read_unlabelled("sentiment"), {"text": MIXED * 9}, {"text": "\u200b"}]
    folder = tmp_path_factory.mktemp("classifier")
    directory = train(
        sentiment, sentiment.SentimentArguments, folder, rows, "--model_name_or_path", encoder,
        *list_sample_flags("sentiment", "train", "validation"), "--do_eval", "--max_seq_length", "24", "--long_text",
        "windows", "--doc_stride", "6", "--max_steps", "60", "--learning_rate", "5e-3",
    )  # fmt: skip
    return directory, rows


def test_texts_get_the_labels_of_their_run_through_windows_and_temperature(classifier):
    directory, rows = classifier
    temperature = json.loads((directory / "recipe.json").read_text())["temperature"]
    predicted = predict_as_trained(directory, rows, batch_size=5)
    assert abs(temperature - 1) > 0.01 and len({row["predicted_label"] for row in predicted}) > 1
    assert [row["id"] for row in predicted] == [str(number) for number in range(len(rows))]


def test_texts_get_the_labels_of_pipeline(classifier):
    directory, rows = classifier
    predictor = load_predictor(directory)
    texts = [text for row in rows for text in row["text"].replace("。", ".").split(".")]
    texts = [text for text in texts if text.strip() and len(predictor.task.tokenizer(text)["input_ids"]) <= 24]
    found = pipeline("text-classification", model=str(directory))(texts)
    assert [row["predicted_label"] for row in predictor.predict(texts)] == [row["label"] for row in found]
    assert len(texts) > 20 and len({row["label"] for row in found}) > 1


def test_pairs_get_any_number_of_labels_by_the_thresholds_of_their_run(encoder, tmp_path):
    texts = ["good and cheap", "never again", "cheap, alas", "又好又便宜"]
    labels = [["good", "cheap"], [], ["cheap"], ["good", "cheap"]]
    rows = [
        {"sentence": text, "about": f"Is it {text[:4]}?", "labels": given}
        for text, given in zip(texts * 8, labels * 8, strict=True)
    ]
    held_out = write_jsonl(tmp_path / "train.jsonl", rows)
    unlabelled = [
        {"sentence": text * times, "about": text, "id": f"{text} {times}", "other": 1}
        for text in texts
        for times in (1, 30)
    ]
    directory = train(
        sentiment, sentiment.SentimentArguments, tmp_path, unlabelled, "--model_name_or_path", encoder, "--train_file",
        held_out, "--validation_file", held_out, "--do_eval", "--text_pair_column_name", "about", "--max_steps", "12",
        "--learning_rate", "5e-3", "--max_seq_length", "32",
    )  # fmt: skip
    predicted = predict_as_trained(directory, unlabelled)
    thresholds = json.loads((directory / "recipe.json").read_text())["thresholds"]
    assert len(thresholds) == 2 and thresholds != [0.5, 0.5]
    assert len({tuple(row["predicted_labels"]) for row in predicted}) > 1
    with pytest.raises(
        UserError, match='input 0: the model reads pairs of texts; give an object with "text" and "about"'
    ):
        load_predictor(directory).predict(["good"])


# Words


@pytest.fixture(scope="module")
def tagger_run(encoder, tmp_path_factory):
    """A model that reads long sentences in windows, and the rows that its run predicted."""
    unlabelled = read_unlabelled("ner")
    long = {"id": "long", "tokens": [word for row in unlabelled for word in row["tokens"]]}
    rows = [*unlabelled, long, {"id": "odd", "tokens": ["\u200b", "Priya", "x" * 500, "宋"]}]
    folder = tmp_path_factory.mktemp("tagger_run")
    directory = train(
        ner, ner.NerArguments, folder, rows, "--model_name_or_path", encoder, "--train_file",
        ROOT / "recipes" / "ner" / "sample" / "train.jsonl", "--max_seq_length", "32", "--doc_stride", "8",
        "--max_steps", "60", "--learning_rate", "5e-3",
    )  # fmt: skip
    return directory, rows


def test_words_get_the_tags_and_entities_of_their_run_through_windows(tagger_run):
    directory, rows = tagger_run
    predicted = predict_as_trained(directory, rows)
    assert len({entity["type"] for row in predicted for entity in row["entities"]}) > 2


def test_texts_get_the_entities_of_pipeline(tagger_run):
    directory, rows = tagger_run
    texts = [" ".join(row["tokens"]) if row["language"] == "en" else "".join(row["tokens"]) for row in rows[:10]]
    find_entities = pipeline("token-classification", model=str(directory), aggregation_strategy="first")
    predicted = load_predictor(directory).predict(texts)
    assert [row["tokens"] for row in predicted] == [row["tokens"] for row in rows[:10]]
    for text, row in zip(texts, predicted, strict=True):
        expected = [
            (found["entity_group"], text[found["start"] : found["end"]], found["score"])
            for found in find_entities(text)
        ]
        found = [(entity["type"], entity["text"], entity["score"]) for entity in row["entities"]]
        assert [entity[:2] for entity in found] == [entity[:2] for entity in expected]
        assert [entity[2] for entity in found] == pytest.approx([entity[2] for entity in expected], abs=1e-3)
    assert sum(len(row["entities"]) for row in predicted) > 5


def test_virtual_tokens_that_cannot_be_merged_are_put_before_the_words(encoder, tmp_path):
    rows = read_unlabelled("ner")
    directory = train(
        ner, ner.NerArguments, tmp_path, rows, "--model_name_or_path", encoder, "--train_file",
        ROOT / "recipes" / "ner" / "sample" / "train.jsonl", "--max_steps", "3", "--use_peft", "--peft_method",
        "prefix", "--num_virtual_tokens", "4", "--learning_rate", "1e-2",
    )  # fmt: skip
    assert not list(directory.glob("*.safetensors"))
    predict_as_trained(directory, rows)


# Questions


def test_questions_get_the_answers_and_candidates_of_their_run_or_none(encoder, tmp_path):
    unlabelled = read_unlabelled("qa")
    context = " ".join(row["context"] for row in unlabelled)
    rows = [*unlabelled, {"id": "long", "question": "Where does the Falcon Cinema stand?", "context": context}]
    directory = train(
        qa, qa.QaArguments, tmp_path, rows, "--model_name_or_path", encoder,
        *list_sample_flags("qa", "train", "validation"), "--do_eval",
        "--max_seq_length", "64", "--doc_stride", "16", "--save_n_best", "--n_best_size", "4",
        "--max_answer_length", "8", "--max_steps", "50", "--learning_rate", "3e-3",
    )  # fmt: skip
    predicted = predict_as_trained(directory, rows, batch_size=3)
    assert json.loads((directory / "recipe.json").read_text())["null_threshold"] not in (None, 0.0)
    assert len(predicted[-1]["n_best"]) == 4
    # Nested as in SQuAD, each question is a row.
    article = {"title": "", "paragraphs": [{"context": row["context"], "qas": [row]} for row in rows]}
    assert load_predictor(directory).predict([article]) == predicted
    with pytest.raises(UserError, match="input 0: a question needs the text that it is about; give it with --context"):
        load_predictor(directory).predict(["Who left?"])


# Texts that are written


def test_translations_are_those_of_their_run_with_prefix_and_beams(encoder_decoder, tmp_path):
    rows = [*read_unlabelled("translation"), {"translation": {"en": "The dog sees a tree. " * 30, "de": "Ein Baum."}}]
    directory = train(
        translation, translation.TranslationArguments, tmp_path, rows, "--model_name_or_path", encoder_decoder,
        "--train_file", ROOT / "recipes" / "translation" / "sample" / "train.jsonl", "--source_lang", "en",
        "--target_lang", "de", "--num_beams", "3", "--max_source_length", "40", "--max_target_length", "12",
        "--max_steps", "20", "--learning_rate", "1e-2",
    )  # fmt: skip
    assert json.loads((directory / "recipe.json").read_text())["source_prefix"] == "to German: "
    expected = read_jsonl(directory / "predictions_test.jsonl")
    found = load_predictor(directory).predict(rows)
    assert [row["predicted_target"] for row in found] == [row["predicted_target"] for row in expected]
    assert [list(row) for row in found] == [["id", "source", "predicted_target"]] * 11
    texts = [row["en"] for row in rows[:10]]
    assert [row["predicted_target"] for row in load_predictor(directory, batch_size=3).predict(texts)] == [
        row["predicted_target"] for row in expected[:10]
    ]
    assert len({row["predicted_target"] for row in found}) > 1


@pytest.mark.parametrize("name", ["NllbTokenizer", "MBartTokenizer", "MBart50Tokenizer", "M2M100Tokenizer"])
def test_a_multilingual_model_writes_the_language_that_it_was_trained_for(name, tmp_path):
    tokenizer = build_multilingual_tokenizer(name, tmp_path / "files")
    model = build_multilingual_model(tokenizer)
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "model")
    rows = [{"en": "the cat sat on the mat"}, {"en": "a dog is not a cat"}]
    pairs = write_jsonl(tmp_path / "train.jsonl", [row | {"de": "ein Hund ist keine Katze"} for row in rows * 4])
    directory = train(
        translation, translation.TranslationArguments, tmp_path, rows, "--model_name_or_path", tmp_path / "model",
        "--train_file", pairs, "--source_lang", "en", "--target_lang", "de", "--max_target_length", "8", "--max_steps",
        "3", "--learning_rate", "1e-2",
    )  # fmt: skip
    predict_as_trained(directory, rows)


def test_summaries_are_those_of_their_run_from_head_and_tail(encoder_decoder, tmp_path):
    rows = read_unlabelled("summarization")
    directory = train(
        summarization, summarization.SummarizationArguments, tmp_path, rows, "--model_name_or_path", encoder_decoder,
        "--train_file", ROOT / "recipes" / "summarization" / "sample" / "train.jsonl", "--source_prefix", "summarize: ",
        "--long_text", "head_tail", "--max_source_length", "48", "--max_target_length", "12", "--max_steps", "20",
        "--learning_rate", "1e-2", "--no_repeat_ngram_size", "2",
    )  # fmt: skip
    predicted = predict_as_trained(directory, rows)
    assert len({row["predicted_summary"] for row in predicted}) > 1


# Dialogues


@pytest.fixture(scope="module")
def replier(tmp_path_factory):
    """A chat model with a template of its own, and the dialogues that its run replied to: short, long, answered."""
    folder = tmp_path_factory.mktemp("replier")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    model = save_decoder(folder / "model", template + "{% if add_generation_prompt %}<assistant>{% endif %}")
    rows = read_unlabelled("dialogue")
    rows.append({"id": "merged", "messages": [{"role": "user", "content": text} for text in ("Hello!", "你好！")]})
    rows.append({"id": "long", "messages": [{"role": "user", "content": MIXED * 20}]})
    directory = train(
        dialogue, dialogue.DialogueArguments, folder, rows, "--model_name_or_path", model, "--train_file",
        ROOT / "recipes" / "dialogue" / "sample" / "train.jsonl", "--max_train_samples", "96", "--max_seq_length",
        "128", "--max_new_tokens", "10", "--max_steps", "12", "--learning_rate", "1e-2",
    )  # fmt: skip
    return directory, rows


def test_replies_are_those_of_their_run_also_within_dialogues(replier):
    directory, rows = replier
    expected = read_jsonl(directory / "predictions_test.jsonl")
    for row in expected:
        for reply in row["replies"]:  # what was scored against the replies within the dialogues
            for name in set(reply) - {"turn", "prompt", "predicted_reply"}:
                del reply[name]
    found = load_predictor(directory, batch_size=4).predict(rows)
    assert found == expected
    assert max(len(row["replies"]) for row in found) > 2
    assert len({reply["predicted_reply"] for row in found for reply in row["replies"]}) > 1


def test_replies_are_those_of_pipeline(replier):
    directory, rows = replier
    chat = pipeline("text-generation", model=str(directory))
    dialogues = [row["messages"] for row in rows[:-2]]
    found = load_predictor(directory).predict([{"messages": messages} for messages in dialogues])
    assert [row["replies"][-1]["predicted_reply"] for row in found] == [
        chat(messages)[0]["generated_text"][-1]["content"].strip() for messages in dialogues
    ]
    text = load_predictor(directory).predict(["Hello!", [{"role": "user", "content": "Hello!"}]])
    expected = chat([{"role": "user", "content": "Hello!"}])[0]["generated_text"][-1]["content"].strip()
    assert [row["replies"][0]["predicted_reply"] for row in text] == [expected, expected]


# Directories and inputs that cannot be used


def test_bad_inputs_are_listed_or_kept_in_their_places(classifier):
    predictor = load_predictor(classifier[0])
    inputs = ["good", "", {"text": None, "id": 7}, {"words": "good"}, 3, "half \ud800", {"text": "bad", "id": "x"}]
    with pytest.raises(UserError) as error:
        predictor.predict(inputs)
    assert str(error.value).splitlines() == [
        "input 1: text: it is empty; write a text",
        'input 2: "text" is null; give every row a value',
        'input 3: no column "text" or "sentence", the columns are words; rename it',
        "input 4: it is '3'; give a text, or an object with its columns",
        "input 5: it holds half a character (a lone surrogate); write the whole character",
    ]
    kept = predictor.predict(inputs, on_error="keep")
    assert [row["id"] for row in kept] == ["0", "1", "7", "3", "4", "5", "x"]
    assert ["error" in row for row in kept] == [False, True, True, True, True, True, False]
    assert kept[1] == {"id": "1", "error": "input 1: text: it is empty; write a text"}
    assert kept[6] == predictor.predict([{"text": "bad", "id": "x"}])[0]
    assert predictor.predict([]) == []
    with pytest.raises(UserError, match=r"predict takes a list of inputs, not 'good'; put it in \[ \]"):
        predictor.predict("good")


def test_a_text_of_a_million_characters_is_read(classifier, tagger_run):
    text = f"Greta gave Priya a mixer. 好{'x' * 990} " * 1000
    assert len(text) > 1_000_000
    assert load_predictor(classifier[0], dtype="bfloat16").predict([text])[0]["text"] == text
    row = load_predictor(tagger_run[0]).predict([text])[0]
    assert len(row["predicted_tags"]) == len(row["tokens"]) == 8000 and row["tokens"][-2:] == ["好", "x" * 990]


def test_a_text_is_predicted_alike_alone_and_among_more_than_fit_into_memory(classifier, monkeypatch):
    monkeypatch.setattr("common.prediction.CHUNK", 3)
    directory, rows = classifier
    predictor = load_predictor(directory)
    together = predictor.predict(rows)
    for row, expected in zip(rows[:4], together, strict=False):
        assert_equal(predictor.predict([row])[0] | {"id": expected["id"]}, expected)
    assert [row["id"] for row in together] == [str(number) for number in range(len(rows))]


def test_a_directory_that_cannot_predict_says_why(classifier, tmp_path):
    directory = shutil.copytree(classifier[0], tmp_path / "result")
    recipe = json.loads((directory / "recipe.json").read_text())

    def refuse(path: Path | str) -> str:
        with pytest.raises(UserError) as error:
            load_predictor(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    (directory / "recipe.json").write_text(json.dumps(recipe | {"recipe": "poems"}))
    assert "its recipe 'poems' is none of sentiment, ner, qa, translation, summarization, dialogue" in refuse(directory)
    del recipe["doc_stride"]
    (directory / "recipe.json").write_text(json.dumps(recipe))
    assert "recipe.json: it says nothing of doc_stride: another version or an edited recipe wrote it" in refuse(
        directory
    )
    (directory / "recipe.json").write_text("{")
    assert "recipe.json: it cannot be read" in refuse(directory)
    (directory / "recipe.json").write_text(json.dumps(recipe | {"doc_stride": 6, "base_model": "some/model"}))
    (directory / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert "trained no model" in refuse(directory) and "(some/model)" in refuse(directory)
    (directory / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:5000])
    assert "model.safetensors has 5000 bytes, " in refuse(directory)
    (directory / "manifest.json").unlink()
    assert "it cannot be loaded" in refuse(directory)
    (directory / "metrics.json").unlink()
    assert refuse(directory).endswith("the run is not finished; the same command goes on with it.")
    checkpoint = directory / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").touch()
    assert "a checkpoint of a run; give the output_dir of the run" in refuse(checkpoint)
    adapter = directory / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()
    assert f"an adapter alone, without its run; give the output_dir of the run ({directory})" in refuse(adapter)
    assert "it has no recipe.json and metrics.json" in refuse(tmp_path)
    assert "a file; give the output_dir" in refuse(tmp_path / "model.safetensors")
    assert "no such directory; give the output_dir" in refuse("./nowhere")
    assert "of a model on the hub, download all files first" in refuse("somebody/model")
