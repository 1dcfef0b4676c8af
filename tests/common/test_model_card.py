"""common/model_card.py: what the card says of scores, languages and training."""

from common.arguments import ModelArguments, TrainingArguments
from common.model_card import draw_scores, list_languages, list_settings, write_model_card
from common.results import Outcome

import pytest
from huggingface_hub import ModelCard

RECIPE = {"base_model": "org/base", "dataset": "org/rows", "versions": {"torch": "2"}, "command": "accelerate launch x"}
METRICS = {"test_bleu": 20.5, "test_chrf": 50.0, "validation_bleu": 30.25, "test_intervals": {"bleu": [18.0, 22.5]}}


def make_arguments(tmp_path, **settings) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "out"), dtype="float32", **settings)


def test_both_splits_stand_in_the_table_with_their_intervals():
    assert draw_scores(Outcome("translation", ["bleu", "chrf"], metrics=METRICS)).splitlines() == [
        "| metric | test | test interval | validation | validation interval |",
        "| --- | --- | --- | --- | --- |",
        "| bleu | 20.5000 | [18.0000, 22.5000] | 30.2500 | - |",
        "| chrf | 50.0000 | - | - | - |",
    ]
    assert draw_scores(Outcome("translation", ["bleu"])).startswith("It was not scored")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"language": "zh_CN"}, ["zh"]),
        ({"language": None}, []),
        ({"language": None, "source_lang": "eng_Latn", "target_lang": "zho_Hans"}, ["en", "zh"]),
        ({"language": "en", "source_lang": "de", "target_lang": "de_DE"}, ["de"]),
    ],
)
def test_languages_are_those_of_the_texts_or_of_source_and_target(recipe, expected):
    assert list_languages(recipe) == expected


def test_the_card_is_read_by_the_hub_and_loads_what_was_uploaded(tmp_path):
    (tmp_path / "run").mkdir()
    outcome = Outcome("translation", ["bleu", "chrf"], metrics=METRICS)
    recipe = RECIPE | {"source_lang": "en", "target_lang": "de"}
    write_model_card(
        tmp_path / "run", outcome, recipe, ModelArguments("org/base", license="mit"), make_arguments(tmp_path), "me/mt"
    )
    card = ModelCard.load(tmp_path / "run" / "README.md")
    data = card.data
    assert (data.language, data.license, data.pipeline_tag) == (["en", "de"], "mit", "translation")
    assert (data.base_model, data.datasets, data.model_name) == ("org/base", "org/rows", "mt")
    assert [(r.dataset_split, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("validation", "bleu", 30.25), ("test", "bleu", 20.5), ("test", "chrf", 50.0),
    ]  # fmt: skip
    assert "`hf download me/mt --local-dir mt`, `python -m common.predict mt rows.jsonl`" in card.text
    assert 'from_pretrained("me/mt")' in card.text and str(tmp_path) not in card.text
    assert "- languages: en, de\n- licence: mit\n" in card.text and "over the rows" in card.text


def test_what_is_not_known_is_not_stated(tmp_path):
    (tmp_path / "run").mkdir()
    recipe = RECIPE | {"language": None, "dataset": ["/data/train.jsonl"], "base_model": "from scratch (encoder_tiny)"}
    outcome = Outcome("text-generation", ["bleu"])
    model_args = ModelArguments(from_scratch="encoder_tiny")
    write_model_card(tmp_path / "run", outcome, recipe, model_args, make_arguments(tmp_path), None)
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert "- data: local files\n- languages: not stated\n- licence: not stated\n" in card.text
    assert card.data.license is None and card.data.language is None and card.data.base_model is None
    assert f'model="{tmp_path / "run"}"' in card.text and "over the dialogues" in card.text


def test_settings_name_the_effective_batch_the_precision_and_what_was_trained(tmp_path):
    settings = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 8, "max_steps": 50, "seed": 7}
    args = make_arguments(tmp_path, learning_rate=1e-3, layerwise_lr_decay=0.9, **settings)
    recipe = RECIPE | {"parameters": {"trained": 1000, "total": 20000}, "train_seconds": 61.4}
    assert list_settings(recipe, ModelArguments("org/base", freeze="embeddings"), args) == [
        "learning rate 0.001, linear schedule, adamw_torch_fused, 50 steps, seed 7",
        "effective batch 32: 8 rows x 4 accumulation steps x 1 devices",
        "computed in float32, weights in float32",
        "each layer with 0.9 times the learning rate of the one above it",
        "not trained: embeddings",
        "1,000 of 20,000 weights trained in 61 seconds",
        "versions: torch 2",
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "an adapter (lora), merged into the weights; by itself it is in `adapter/`"),
        ({"load_in_4bit": True},
         "an adapter (lora, the frozen weights in 4 bits), merged into the weights; by itself it is in `adapter/`"),
        ({"peft_method": "p_tuning"}, "an adapter (p_tuning); by itself it is in `adapter/`"),
    ],
)  # fmt: skip
def test_an_adapter_is_named(settings, expected, tmp_path):
    model_args = ModelArguments("org/base", use_peft=True, **settings)
    lines = list_settings(RECIPE, model_args, make_arguments(tmp_path))
    assert lines[3] == expected and "3 epochs" in lines[0] and len(lines) == 5
