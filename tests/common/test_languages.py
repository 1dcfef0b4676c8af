from common.arguments import GenerationArguments
from common.errors import UserError
from common.generation import set_generation
from common.languages import (
    choose_languages,
    choose_prefix,
    list_languages,
    name_columns,
    set_languages,
    shorten_code,
    unfold_translation,
)
from tests.conftest import build_tokenizer
from tests.multilingual import LANGUAGES, build_multilingual_model, build_multilingual_tokenizer

import pytest
from transformers import AutoTokenizer, PreTrainedConfig, T5Config


@pytest.fixture(params=list(LANGUAGES))
def name(request) -> str:
    return request.param


@pytest.fixture
def tokenizer(name, tmp_path):
    return build_multilingual_tokenizer(name, tmp_path / "files")


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


def find_pieces(tokenizer, **texts) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(**texts)["input_ids"])


# Codes


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("en", "en"), ("zh_CN", "zh"), ("zh-Hans", "zh"), ("zho_Hans", "zh"), ("EN_us", "en"), ("deu_Latn", "de"),
        ("jpn", "ja"), ("en_XX", "en"), ("ast", "ast"), ("lvs_Latn", "lv"), (None, None),
    ],
)  # fmt: skip
def test_codes_are_shortened_to_those_of_data_sets(code, expected):
    assert shorten_code(code) == expected


def test_given_languages_win_over_those_kept_with_the_model():
    config = PreTrainedConfig(languages=["en", "de"])
    assert choose_languages(config, "fr", "it") == ("fr", "it")
    assert choose_languages(config, None, "it") == ("en", "it")
    assert choose_languages(config, "fr", None) == ("fr", "de")
    assert choose_languages(config, None, None) == ("en", "de")


def test_a_model_from_scratch_has_the_languages_that_are_given():
    assert choose_languages(None, "en", "de") == ("en", "de")
    assert choose_languages(PreTrainedConfig(), "en", "de") == ("en", "de")


@pytest.mark.parametrize(
    ("source_lang", "target_lang", "missing"), [(None, "de", "source_lang"), ("en", None, "target_lang")]
)
def test_a_missing_language_is_told_with_its_flag(source_lang, target_lang, missing):
    expected = f"{missing} is not set: give the code of the language, as in en, zh_CN or deu_Latn."
    assert error_of(choose_languages, PreTrainedConfig(), source_lang, target_lang) == expected
    assert error_of(choose_languages, None, source_lang, target_lang) == expected


def test_a_language_is_not_translated_into_itself():
    expected = "source_lang and target_lang are both de: set target_lang to the other language."
    assert error_of(choose_languages, PreTrainedConfig(languages=["en", "de"]), "de", None) == expected


# Columns


def test_columns_are_named_by_the_code_its_short_form_or_their_side():
    assert name_columns(("eng_Latn", "zh_CN"), None, None) == {
        "source": ("eng_Latn", "en", "source"),
        "target": ("zh_CN", "zh", "target"),
    }


def test_a_column_name_that_is_given_is_the_only_one():
    assert name_columns(("en", "de"), "english", None) == {"source": ("english",), "target": ("de", "target")}
    assert name_columns(("en", "de"), None, "german")["target"] == ("german",)


def test_nested_translations_become_columns_of_their_own():
    row = {"id": 3, "translation": {"en": "yes", "de": "ja"}}
    assert unfold_translation(row) == [{"id": 3, "en": "yes", "de": "ja"}]
    assert row == {"id": 3, "translation": {"en": "yes", "de": "ja"}}  # the row itself is left alone


@pytest.mark.parametrize("row", [{"en": "yes", "de": "ja"}, {"translation": "ja", "en": "yes"}, {"translation": None}])
def test_other_rows_stay_as_they_are(row):
    assert unfold_translation(row) == [row]


# Multilingual tokenizers


def test_a_tokenizer_without_languages_is_left_as_it_is():
    tokenizer = build_tokenizer()
    before = tokenizer.backend_tokenizer.to_str(), dict(tokenizer.init_kwargs)
    assert set_languages(tokenizer, "en", "de") == ("en", "de", None)
    assert set_languages(tokenizer, None, None) == (None, None, None)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs) == before


def test_a_tokenizer_of_many_languages_must_be_told_both(tokenizer, name):
    for given, missing in ((("en", None), "target_lang"), ((None, "de"), "source_lang")):
        message = error_of(set_languages, tokenizer, *given)
        assert message.startswith(f"{name} writes several languages, and {missing} is not set: use one of a")
        assert message.endswith(", ....")


def test_the_flag_of_the_recipe_is_the_one_that_is_named(tmp_path):
    """Summaries have one language, given with `lang`."""
    tokenizer = build_multilingual_tokenizer("MBart50Tokenizer", tmp_path)
    assert " and lang is not set: " in error_of(set_languages, tokenizer, None, None, ("lang", "lang"))
    assert error_of(set_languages, tokenizer, "xq", "xq", ("lang", "lang")).startswith("lang xq is no language of ")


@pytest.mark.parametrize("is_short", [True, False])
def test_sources_and_targets_carry_the_mark_of_their_own_language(tokenizer, name, is_short):
    source_lang, target_lang = LANGUAGES[name]
    codes = set_languages(tokenizer, *(("en", "de") if is_short else LANGUAGES[name]))
    marks = [f"__{code}__" if name == "M2M100Tokenizer" else code for code in (source_lang, target_lang)]
    assert codes == (source_lang, target_lang, tokenizer.convert_tokens_to_ids(marks[1]))
    for _ in range(2):  # reading a target must not change what the next source gets
        source, target = find_pieces(tokenizer, text="the dog"), find_pieces(tokenizer, text_target="der Hund")
        assert source.count(marks[0]) == target.count(marks[1]) == 1
        assert marks[1] not in source and marks[0] not in target
        assert "<unk>" not in source + target


def test_a_batch_of_targets_carries_the_mark_of_the_target_language_too(tokenizer):
    _, _, mark = set_languages(tokenizer, "en", "de")
    both = tokenizer(["the cat", "a dog"], text_target=["die Katze", "ein Hund"])
    assert all(ids.count(mark) == 1 for ids in both["labels"]) and not any(mark in ids for ids in both["input_ids"])


def test_the_codes_of_another_family_find_the_language_where_only_one_fits(tokenizer, name):
    assert set_languages(tokenizer, "eng_Latn", "de_DE")[:2] == LANGUAGES[name]


def test_one_language_can_be_both_sides(tokenizer, name):
    """Summaries are in the language of their documents."""
    code, again, mark = set_languages(tokenizer, "de", "de")
    assert code == again == LANGUAGES[name][1]
    assert mark in tokenizer("der Hund")["input_ids"] and mark in tokenizer(text_target="der Hund")["input_ids"]


def test_a_short_code_of_two_languages_is_refused_with_both(tmp_path):
    message = error_of(set_languages, build_multilingual_tokenizer("NllbTokenizer", tmp_path), "en", "zh")
    assert message.startswith("target_lang zh is no language of NllbTokenizer (zho_Hans or zho_Hant?): use one of ")


@pytest.mark.parametrize(
    ("name", "code", "near"),
    [("M2M100Tokenizer", "dee", "de"), ("MBart50Tokenizer", "d_DE", "de_DE"), ("NllbTokenizer", "dex_Latn", "de")],
)
def test_an_unknown_code_is_refused_with_the_nearest_one(tmp_path, name, code, near):
    message = error_of(set_languages, build_multilingual_tokenizer(name, tmp_path), code, "en")
    assert message.startswith(f'source_lang {code} is no language of {name} (did you mean "{near}')
    assert '"?): use one of a' in message


def test_the_languages_are_those_of_the_class_and_no_other_special_piece(tokenizer, name):
    known = list_languages(tokenizer)
    assert (
        len(known) == {"NllbTokenizer": 202, "MBartTokenizer": 25, "MBart50Tokenizer": 52, "M2M100Tokenizer": 100}[name]
    )
    assert set(LANGUAGES[name]) < set(known) and len(set(known.values())) == len(known)
    assert tokenizer.unk_token_id not in known.values()


def test_a_saved_tokenizer_knows_its_languages(tokenizer, name, tmp_path):
    _, _, mark = set_languages(tokenizer, "de", "en")  # not the class's own default, which is English to nothing
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(loaded).__name__ == name
    assert (loaded.src_lang, loaded.tgt_lang) == LANGUAGES[name][::-1]
    assert loaded(text_target="a cat")["input_ids"] == tokenizer(text_target="a cat")["input_ids"]
    assert loaded("ein Hund")["input_ids"] == tokenizer("ein Hund")["input_ids"]
    assert loaded(text_target="a cat")["input_ids"].count(mark) == 1 and mark not in loaded("ein Hund")["input_ids"]
    assert set_languages(loaded, "de", "en") == (*LANGUAGES[name][::-1], mark)


def test_a_decoded_text_has_no_mark_of_a_language(tokenizer, tmp_path):
    set_languages(tokenizer, "en", "de")
    tokenizer.save_pretrained(tmp_path / "saved")
    for it in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert it.decode(it(text_target="der Hund")["input_ids"], skip_special_tokens=True) == "der Hund"


# What a model writes


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_decoder_begins_with_the_language_as_it_does_in_training(tokenizer, name, num_beams):
    _, _, mark = set_languages(tokenizer, "en", "de")
    model = build_multilingual_model(tokenizer)
    set_generation(model, GenerationArguments(num_beams=num_beams), 10, mark)
    seen = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    inputs = tokenizer("the dog", text_target="der Hund", return_tensors="pt")
    model(**inputs)
    trained = seen[0][0].tolist()
    begins = trained[: trained.index(mark) + 1]
    # mBART's decoder starts from the language itself, that of the others from </s> with the language behind it.
    assert begins == ([mark] if name == "MBartTokenizer" else [2, mark])
    written = model.generate(**tokenizer(["the cat sat", "a dog"], padding=True, return_tensors="pt")).tolist()
    assert all(ids[: len(begins)] == begins for ids in written), written
    if name == "MBartTokenizer":
        assert model.generation_config.forced_bos_token_id is None


# Prefixes


def test_a_given_prefix_wins_even_if_it_is_empty():
    config = T5Config(source_prefix="kept: ", task_specific_params={"summarization": {"prefix": "summarize: "}})
    assert choose_prefix(config, "mine: ", "summarization") == "mine: "
    assert choose_prefix(config, "", "summarization") == ""


@pytest.mark.parametrize("kept", ["kept: ", ""])
def test_a_prefix_kept_with_the_model_wins_over_that_of_the_task(kept):
    config = T5Config(source_prefix=kept, task_specific_params={"summarization": {"prefix": "summarize: "}})
    assert choose_prefix(config, None, "summarization") == kept


def test_t5_has_a_prefix_for_each_task():
    tasks = {
        "summarization": {"early_stopping": True, "prefix": "summarize: "},
        "translation_en_to_de": {"prefix": "translate English to German: "},
        "translation_en_to_fr": {"max_length": 300},
    }
    config = T5Config(task_specific_params=tasks)
    assert choose_prefix(config, None, "summarization") == "summarize: "
    assert choose_prefix(config, None, "translation_en_to_de") == "translate English to German: "
    assert choose_prefix(config, None, "translation_en_to_fr") == ""
    assert choose_prefix(config, None, "translation_de_to_en") == ""


def test_other_checkpoints_have_no_prefix():
    assert choose_prefix(PreTrainedConfig(), None, "summarization") == ""
    assert choose_prefix(T5Config(task_specific_params=None), None, "summarization") == ""


def test_a_list_that_is_to_be_predicted_is_no_row_of_translations():
    assert unfold_translation(["yes"]) == [["yes"]]
