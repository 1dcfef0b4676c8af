import random

from common.data import RowError
from common.errors import UserError
from common.tagging import (
    Entity,
    choose_tag_names,
    convert_splits,
    convert_to_iob2,
    detect_scheme,
    find_entities,
    join_words,
    read_words,
    repair_iob2,
    split_tag,
    split_words,
)

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from seqeval.metrics.sequence_labeling import get_entities

FEATURES = Features(
    {"id": Value("string"), "origin": Value("string"), "tokens": List(Value("string")), "tags": List(Value("string"))}
)


def make_splits(**tags: list[str | None]) -> DatasetDict:
    """Splits of rows with these tags, written as one string a row; every row knows where it is from."""
    splits = {}
    for split, texts in tags.items():
        rows = []
        for number, text in enumerate(texts, start=1):
            row_tags = None if text is None else text.split()
            words = [f"w{position}" for position in range(len(row_tags or "abc"))]
            rows.append({"id": str(number), "origin": f"{split}.jsonl:{number}", "tokens": words, "tags": row_tags})
        splits[split] = Dataset.from_list(rows, features=FEATURES)
    return DatasetDict(splits)


def error_of(function, *args) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args)
    return str(caught.value)


def user_error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


# One tag


def test_a_tag_is_a_letter_and_a_type_that_may_hold_dashes():
    assert split_tag("O") == ("O", "")
    assert split_tag("B-PER") == ("B", "PER")
    assert split_tag("I-creative-work") == ("I", "creative-work")
    assert split_tag("S-地名") == ("S", "地名")


@pytest.mark.parametrize("tag", ["", "B", "B-", "-PER", "PER", "b-PER", "o", "0", "B_PER", "X-PER", "O-PER", " B-PER"])
def test_what_is_no_tag_is_named_and_told_how_to_write_it(tag):
    assert error_of(split_tag, tag) == f"{tag!r} is not a tag; write O, or B/E/I/L/M/S/U and the type, as in B-PER"


# Every scheme to IOB2: scheme, its tags, the same entities in IOB2

CASES = [
    # one entity of one word, of two, of three
    ("IOB2", "O B-PER O", "O B-PER O"),
    ("IOB1", "O I-PER O", "O B-PER O"),
    ("BIOES", "O S-PER O", "O B-PER O"),
    ("BIOES", "O U-PER O", "O B-PER O"),
    ("BMES", "O S-PER O", "O B-PER O"),
    ("IOB2", "B-PER I-PER O", "B-PER I-PER O"),
    ("IOB1", "I-PER I-PER O", "B-PER I-PER O"),
    ("BIOES", "B-PER E-PER O", "B-PER I-PER O"),
    ("BIOES", "B-PER L-PER O", "B-PER I-PER O"),
    ("BMES", "B-PER E-PER O", "B-PER I-PER O"),
    ("IOB2", "O B-PER I-PER I-PER", "O B-PER I-PER I-PER"),
    ("IOB1", "O I-PER I-PER I-PER", "O B-PER I-PER I-PER"),
    ("BIOES", "O B-PER I-PER E-PER", "O B-PER I-PER I-PER"),
    ("BIOES", "O B-PER I-PER L-PER", "O B-PER I-PER I-PER"),
    ("BMES", "O B-PER M-PER E-PER", "O B-PER I-PER I-PER"),
    # two entities of one type that touch
    ("IOB2", "B-PER B-PER I-PER", "B-PER B-PER I-PER"),
    ("IOB1", "I-PER B-PER I-PER", "B-PER B-PER I-PER"),
    ("BIOES", "S-PER B-PER E-PER", "B-PER B-PER I-PER"),
    ("BIOES", "U-PER B-PER L-PER", "B-PER B-PER I-PER"),
    ("BMES", "S-PER B-PER E-PER", "B-PER B-PER I-PER"),
    ("IOB1", "I-PER I-PER B-PER B-PER", "B-PER I-PER B-PER B-PER"),
    ("BIOES", "B-PER E-PER S-PER S-PER", "B-PER I-PER B-PER B-PER"),
    ("BMES", "B-PER M-PER E-PER B-PER E-PER", "B-PER I-PER I-PER B-PER I-PER"),
    # two entities of different types that touch
    ("IOB2", "B-PER I-PER B-LOC", "B-PER I-PER B-LOC"),
    ("IOB1", "I-PER I-PER I-LOC", "B-PER I-PER B-LOC"),
    ("BIOES", "B-PER E-PER S-LOC", "B-PER I-PER B-LOC"),
    ("BIOES", "B-PER L-PER U-LOC", "B-PER I-PER B-LOC"),
    ("BMES", "B-PER E-PER S-LOC", "B-PER I-PER B-LOC"),
    ("IOB1", "I-LOC I-PER B-PER I-LOC", "B-LOC B-PER B-PER B-LOC"),
    # an entity, a gap, and one of the same type
    ("IOB1", "I-PER O I-PER", "B-PER O B-PER"),
    ("BIOES", "S-PER O S-PER", "B-PER O B-PER"),
    # nothing
    ("IOB2", "O O", "O O"),
    ("IOB1", "", ""),
]


@pytest.mark.parametrize(("scheme", "tags", "expected"), CASES)
def test_every_scheme_is_written_as_iob2(scheme, tags, expected):
    assert convert_to_iob2(tags.split(), scheme) == expected.split()


@pytest.mark.parametrize(
    ("scheme", "tags", "place"),
    [
        ("IOB2", "O I-PER", "tag I-PER of word 2 goes on with no entity after O"),
        ("IOB2", "I-PER O", "tag I-PER of word 1 goes on with no entity as the first tag"),
        ("IOB2", "B-PER I-PER I-LOC", "tag I-LOC of word 3 goes on with no entity after I-PER"),
        ("BIOES", "O E-PER", "tag E-PER of word 2 goes on with no entity after O"),
        ("BIOES", "S-PER E-PER", "tag E-PER of word 2 goes on with no entity after S-PER"),
        ("BIOES", "B-PER E-PER I-PER", "tag I-PER of word 3 goes on with no entity after E-PER"),
        ("BIOES", "B-PER L-LOC", "tag L-LOC of word 2 goes on with no entity after B-PER"),
        ("BMES", "O O M-PER E-PER", "tag M-PER of word 3 goes on with no entity after O"),
    ],
)
def test_a_tag_that_goes_on_with_nothing_is_named_with_its_word_and_the_cure(scheme, tags, place):
    expected = f"{place} (read as {scheme}); correct the tag, or set tag_scheme"
    assert error_of(convert_to_iob2, tags.split(), scheme) == expected


@pytest.mark.parametrize(
    ("scheme", "tags", "tag", "word"),
    [
        ("IOB2", "O S-PER", "S-PER", 2),
        ("IOB1", "I-PER E-PER", "E-PER", 2),
        ("BIOES", "B-PER M-PER E-PER", "M-PER", 2),
        ("BMES", "O O B-PER I-PER", "I-PER", 4),
        ("BMES", "U-PER", "U-PER", 1),
    ],
)
def test_a_letter_of_another_scheme_is_named_with_its_word_and_the_cure(scheme, tags, tag, word):
    expected = f"tag {tag} of word {word} is not {scheme}; set tag_scheme, or correct the tag"
    assert error_of(convert_to_iob2, tags.split(), scheme) == expected


# Detection


@pytest.mark.parametrize(
    ("scheme", "sentences"),
    [
        ("IOB2", ["O B-PER I-PER O", "B-LOC"]),
        ("IOB2", ["B-PER B-PER"]),  # in IOB1 the first of them would be I
        ("IOB2", ["O O", ""]),
        ("IOB2", []),
        ("IOB1", ["O I-PER I-PER", "I-LOC"]),
        ("IOB1", ["I-PER B-PER O"]),  # B between two entities of one type that touch: nothing else in IOB1
        ("IOB1", ["I-PER I-LOC O"]),
        ("IOB2", ["B-PER O", "I-PER O"]),  # one B elsewhere: IOB2, in which the I of the second row is a mistake
        ("IOB2", ["I-PER B-LOC"]),
        ("BIOES", ["O S-PER", "B-LOC I-LOC E-LOC"]),
        ("BIOES", ["B-PER L-PER", "U-LOC"]),
        ("BIOES", ["B-PER E-PER"]),  # without M, BIOES and BMES are the same
        ("BMES", ["B-PER M-PER E-PER", "S-LOC"]),
        ("BMES", ["B-PER E-PER", "O", "B-LOC M-LOC M-LOC E-LOC"]),
    ],
)
def test_the_scheme_is_detected_from_all_tags(scheme, sentences):
    assert detect_scheme(tags.split() for tags in sentences) == scheme


def test_iob1_and_iob2_readings_of_the_same_tags_differ_only_where_i_begins():
    tags = "I-PER I-PER O B-PER".split()
    assert convert_to_iob2(tags, "IOB1") == "B-PER I-PER O B-PER".split()
    assert "word 1" in error_of(convert_to_iob2, tags, "IOB2")


# Predicted tags


@pytest.mark.parametrize(
    ("predicted", "repaired"),
    [
        ("I-PER I-PER O", "B-PER I-PER O"),
        ("O I-PER", "O B-PER"),
        ("B-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
        ("B-PER I-PER B-PER", "B-PER I-PER B-PER"),
        ("I-PER I-LOC I-PER", "B-PER B-LOC B-PER"),
        ("I-PER O I-PER", "B-PER O B-PER"),
        ("", ""),
    ],
)
def test_a_predicted_i_that_goes_on_with_nothing_begins_an_entity(predicted, repaired):
    assert repair_iob2(predicted.split()) == repaired.split()


def test_random_predictions_become_valid_iob2_and_valid_ones_stay_as_they_are():
    generator = random.Random(0)
    for _ in range(300):
        drawn = generator.choices(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], k=generator.randrange(12))
        repaired = repair_iob2(drawn)
        assert convert_to_iob2(repaired, "IOB2") == repaired
        assert repair_iob2(repaired) == repaired
        # conlleval, which seqeval's get_entities follows, finds the same entities before and after.
        assert get_entities(drawn) == get_entities(repaired)


# Entities


def test_entities_are_typed_spans_from_left_to_right():
    tags = "B-PER I-PER O B-LOC B-LOC I-LOC B-PER".split()
    assert find_entities(tags) == [
        Entity("PER", 0, 2),
        Entity("LOC", 3, 4),
        Entity("LOC", 4, 6),
        Entity("PER", 6, 7),
    ]
    assert find_entities(["O", "O"]) == find_entities([]) == []


def test_entities_are_those_of_seqeval():
    generator = random.Random(1)
    found = 0
    for _ in range(500):
        tags, types = [], ("PER", "LOC", "creative-work")
        while len(tags) < generator.randrange(20):
            entity_type = generator.choice(types)
            inside = [f"I-{entity_type}"] * generator.randrange(3)
            tags += generator.choice([["O"], [f"B-{entity_type}", *inside]])
        expected = [Entity(entity_type, first, last + 1) for entity_type, first, last in get_entities(tags)]
        assert find_entities(tags) == expected
        found += len(expected)
    assert found > 500


# Words as text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("Ada lives in Paris .", "Ada lives in Paris ."),
        ("我 爱 北 京 。", "我爱北京。"),
        ("我 在 Google 工 作", "我在Google工作"),
        ("IBM 和 New York Times ， 2024 年", "IBM和New York Times，2024年"),
        ("東 京 タ ワ ー", "東京タワー"),
        ("서울 에서 만나요", "서울 에서 만나요"),  # Korean writes spaces
        ("我", "我"),
        ("", ""),
    ],
)
def test_words_are_joined_as_their_language_writes_them(words, text):
    assert join_words(words.split()) == text


def test_words_that_hold_a_space_keep_it():
    assert join_words(["New York", "City"]) == "New York City"


# All splits


def test_all_splits_are_converted_with_the_scheme_that_all_their_tags_show(capsys):
    splits = make_splits(train=["O I-PER I-PER", "I-LOC I-PER"], validation=["I-PER B-PER"], test=[None, "I-LOC"])
    converted = convert_splits(splits, "auto")
    assert converted["train"]["tags"][:] == [["O", "B-PER", "I-PER"], ["B-LOC", "B-PER"]]
    assert converted["validation"]["tags"][:] == [["B-PER", "B-PER"]]
    assert converted["test"]["tags"][:] == [None, ["B-LOC"]]
    assert "IOB1" in capsys.readouterr().out
    assert converted["train"].remove_columns("tags").to_list() == splits["train"].remove_columns("tags").to_list()


def test_nothing_is_said_of_tags_that_are_iob2_already(capsys):
    splits = make_splits(train=["O B-PER"])
    assert convert_splits(splits, "auto")["train"].to_list() == splits["train"].to_list()
    assert capsys.readouterr().out == ""


def test_a_split_without_any_tags_keeps_its_features():
    splits = make_splits(train=["O S-PER"], test=[None, None])
    converted = convert_splits(splits, "auto")
    assert converted["test"]["tags"][:] == [None, None]
    assert converted["test"].features == converted["train"].features == FEATURES


def test_a_scheme_that_is_set_is_not_guessed():
    splits = make_splits(train=["O I-PER"])
    assert convert_splits(splits, "IOB1")["train"]["tags"][0] == ["O", "B-PER"]
    message = user_error_of(convert_splits, splits, "IOB2")
    assert message.startswith("train.jsonl:1: tag I-PER of word 2")


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    message = user_error_of(convert_splits, make_splits(train=["O"]), "IOBES")
    assert message == "tag_scheme must be one of auto, IOB2, IOB1, BIOES, BMES, not 'IOBES'."


def test_every_row_with_a_misplaced_tag_is_named_by_its_origin():
    splits = make_splits(train=["O B-PER", "I-PER", "B-LOC I-PER"], validation=["O", "O O I-LOC"])
    lines = user_error_of(convert_splits, splits, "auto").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["train.jsonl:2", "train.jsonl:3", "validation.jsonl:2"]
    assert "word 3" in lines[2]


def test_of_many_misplaced_tags_twenty_are_shown_and_all_are_counted():
    splits = make_splits(train=["B-PER"] + 24 * ["I-PER"])
    lines = user_error_of(convert_splits, splits, "auto").splitlines()
    assert len(lines) == 21 and lines[-1].startswith("and 4 more")


def test_types_that_differ_in_capitals_alone_are_refused_where_the_rarer_ones_stand():
    splits = make_splits(train=["B-PER O", "B-PER I-PER", "O B-per"])
    refused = user_error_of(choose_tag_names, splits, None, None, True)
    cure = "write both alike, or name all tags in tag_names if they differ"
    assert refused == f"train.jsonl:3: tags: the type per of word 2 is PER in other rows; {cure}"
    named = ["O", "B-PER", "I-PER", "B-per"]
    assert choose_tag_names(splits, named, None, True) == named


@pytest.mark.parametrize(("tags", "said"), [(["O O", "O"], "2 tagged"), (["O", "B-PER"], ""), ([None], "")])
def test_a_split_without_entities_is_warned_of(tags, said, capsys):
    choose_tag_names(make_splits(train=["B-PER"], test=tags), None, None, True)
    warned = capsys.readouterr().out
    assert warned == (f"Warning: no entity in the {said} test rows: scores say little.\n" if said else "")


# The head's labels

IOB2_HEAD = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def test_without_a_trained_head_the_labels_are_both_letters_of_the_training_types():
    splits = make_splits(train=["O B-PER B-LOC", "B-ORG I-ORG"], validation=["I-PER"], test=[None])
    expected = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert choose_tag_names(splits, None, None, True) == expected


def test_the_labels_of_a_trained_head_are_kept_where_they_cover_the_training_rows():
    splits = make_splits(train=["O B-LOC I-LOC"], validation=["B-PER"])
    head = ["B-PER", "O", "I-LOC", "B-LOC", "I-PER"]
    assert choose_tag_names(splits, None, head, True) == head


def test_a_trained_head_that_lacks_a_training_type_gives_way():
    splits = make_splits(train=["O B-ORG"])
    assert choose_tag_names(splits, None, IOB2_HEAD, True) == ["O", "B-ORG", "I-ORG"]


@pytest.mark.parametrize(
    "head",
    [
        ["LABEL_0", "LABEL_1"],  # what transformers calls the outputs of a head without names
        ["NOUN", "VERB", "PUNCT"],
        ["O", "I-PER"],  # IOB1 without entities that touch: B-PER has no output
        ["O", "S-PER", "B-PER", "I-PER", "E-PER"],  # nothing reads S and E as IOB2 after predicting
    ],
)
def test_a_head_that_was_not_trained_on_iob2_gives_way_in_training(head):
    splits = make_splits(train=["O B-PER I-PER"])
    assert choose_tag_names(splits, None, head, True) == ["O", "B-PER", "I-PER"]


@pytest.mark.parametrize(
    "head",
    [
        ["LABEL_0", "LABEL_1"],
        ["O", "S-PER", "B-PER", "I-PER", "E-PER"],
    ],
)
def test_a_head_that_was_not_trained_on_iob2_cannot_predict(head):
    user_error_of(choose_tag_names, make_splits(test=[None]), None, head, False)


def test_without_training_the_head_decides():
    splits = make_splits(validation=["B-PER"], test=[None])
    assert choose_tag_names(splits, None, IOB2_HEAD, False) == IOB2_HEAD


def test_without_training_a_tag_that_the_head_lacks_is_refused_by_its_origin():
    splits = make_splits(validation=["B-PER", "O B-ORG"])
    expected = "validation.jsonl:2: tag B-ORG is not among the labels that the model was trained on"
    assert user_error_of(choose_tag_names, splits, None, IOB2_HEAD, False) == expected


def test_without_training_and_without_a_head_the_model_is_refused():
    message = user_error_of(choose_tag_names, make_splits(validation=["B-PER"]), None, None, False)
    assert "no head" in message and "train it first" in message


def test_a_tag_of_validation_alone_is_refused_by_its_origin_with_the_cure():
    splits = make_splits(train=["O B-PER"], validation=["B-PER", "B-GPE I-GPE", None])
    message = user_error_of(choose_tag_names, splits, None, None, True)
    assert message.startswith("validation.jsonl:2: tag B-GPE does not occur in the training rows; ")
    assert "tag_names" in message and len(message.splitlines()) == 1


def test_named_tags_are_taken_in_their_order():
    named = ["O", "B-PER", "I-PER", "B-GPE", "I-GPE"]
    splits = make_splits(train=["O B-PER"], validation=["B-GPE I-GPE"])
    assert choose_tag_names(splits, named, None, True) == named
    assert choose_tag_names(splits, named, IOB2_HEAD, True) == named


def test_a_tag_outside_the_named_ones_is_refused_by_its_origin_with_the_cure():
    splits = make_splits(train=["O B-PER", "B-LOC"])
    message = user_error_of(choose_tag_names, splits, ["O", "B-PER", "I-PER"], None, True)
    assert message == "train.jsonl:2: tag B-LOC is not in tag_names; add it there"


@pytest.mark.parametrize(
    "named",
    [
        ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"],
        ["O", "B-PER", "M-PER", "E-PER", "S-PER", "B-LOC", "M-LOC", "E-LOC", "S-LOC"],
        ["O", "B-PER", "I-PER", "L-PER", "U-PER", "B-LOC", "I-LOC", "L-LOC", "U-LOC"],
    ],
)
def test_named_tags_of_another_scheme_give_iob2_labels(named):
    """They name the numbers in the data; the rows are IOB2 by then, and a head must predict nothing else."""
    splits = make_splits(train=["O B-PER I-PER"])
    assert choose_tag_names(splits, named, None, True) == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada lives in Paris.", ["Ada", "lives", "in", "Paris", "."]),
        ("小林2024年住在New York，好。", [*"小林", "2024", *"年住在", "New", "York", *"，好。"]),
        ('(Ada) said: "$9.05, AT&T!"', ["(", "Ada", ")", "said", ":", '"', "$", "9.05", ",", "AT&T", "!", '"']),
        ("It's in the U.S. today", ["It's", "in", "the", "U.S.", "today"]),
        (" \t\n", []),
        ("\u200b", ["\u200b"]),
    ],
)
def test_a_running_text_has_the_words_that_the_sample_would_have(text, words):
    assert split_words(text) == words
    assert "".join(split_words(text)) == "".join(text.split())  # nothing is lost


def test_words_are_a_list_or_a_text_with_spaces():
    assert read_words("Ada left .") == read_words(["Ada", "left", "."]) == ["Ada", "left", "."]
    for value in ("", [], ["a", ""], ["a", None], 7):
        with pytest.raises(RowError, match="tokens: it is .*; write a list of words, none of them empty"):
            read_words(value)
