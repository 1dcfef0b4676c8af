from collections import Counter
from types import SimpleNamespace

from common.data import RowError
from common.errors import UserError
from common.labels import (
    LabelReader,
    choose_label_names,
    choose_problem_type,
    describe_labels,
    number_labels,
    take_samples_per_class,
)

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

FEATURES = Features({"id": Value("string"), "origin": Value("string"), "labels": List(Value("string"))})


def make_rows(labels: list[list[str] | None], split: str = "train") -> Dataset:
    """Rows with the names of these labels; every row knows where it is from."""
    return Dataset.from_list(
        [
            {"id": str(number), "origin": f"{split}.csv:{number}", "labels": names}
            for number, names in enumerate(labels)
        ],
        features=FEATURES,
    )


def make_splits(**labels: list[str | None]) -> DatasetDict:
    """Splits of rows with these labels, those of a row written with spaces between."""
    rows = {split: [None if text is None else text.split() for text in texts] for split, texts in labels.items()}
    return DatasetDict({split: make_rows(names, split) for split, names in rows.items()})


def row_error_of(reader: LabelReader, value) -> str:
    with pytest.raises(RowError) as caught:
        reader.read(value)
    return str(caught.value)


def user_error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


# Reading


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("good", ["good"]),
        (" not so good ", ["not so good"]),
        ("好", ["好"]),
        ("0", ["0"]),
        (0, ["0"]),
        (7, ["7"]),
        (True, ["true"]),
        (False, ["false"]),
        (["good", "cheap"], ["good", "cheap"]),
        ([2, 0], ["2", "0"]),
        ([], []),
        ("a|b", ["a|b"]),
    ],
)
def test_a_label_is_a_text_a_whole_number_true_or_false_or_a_list_of_them(value, names):
    reader = LabelReader()
    assert reader.read(value) == names
    assert reader.is_multi_label == (isinstance(value, list) and value != [])


@pytest.mark.parametrize("separator", [None, "|"])
@pytest.mark.parametrize("value", [None, -1, "-1"])
def test_minus_1_and_nothing_mean_that_a_row_has_no_label(value, separator):
    assert LabelReader(separator).read(value) is None


def test_an_empty_text_is_no_label_or_with_a_separator_no_labels():
    assert LabelReader().read("") is None
    assert LabelReader("|").read("") == []


@pytest.mark.parametrize("value", [" ", "\t", " -1 "])
def test_a_label_of_spaces_is_no_label_either(value):
    assert LabelReader().read(value) is None


@pytest.mark.parametrize(
    ("separator", "value", "names"),
    [
        ("|", "good|cheap", ["good", "cheap"]),
        ("|", " good | cheap |", ["good", "cheap"]),
        ("|", "good", ["good"]),
        (", ", "good, cheap", ["good", "cheap"]),
        (";", "1;0", ["1", "0"]),
        ("|", ["a|b", "c"], ["a|b", "c"]),  # a list is cut already
    ],
)
def test_a_separator_cuts_a_text_into_its_labels(separator, value, names):
    reader = LabelReader(separator)
    assert reader.read(value) == names
    assert reader.is_multi_label


@pytest.mark.parametrize("value", [1.5, 1.0, {"a": 1}, ["good", None], ["good", ""], [-1], [0.5], [["a"]]])
def test_what_is_no_label_is_shown_with_the_cure(value):
    message = row_error_of(LabelReader(), value)
    shown = repr(str(value if not isinstance(value, list) else value[-1]))
    assert message == f"label: {shown} is no label; write a text or a whole number"


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("good", 1, "1 is a number, in earlier rows it was a text"),
        (1, "good", "'good' is a text, in earlier rows it was a number"),
        (1, True, "True is true or false, in earlier rows it was a number"),
        (False, 0, "0 is a number, in earlier rows it was true or false"),
        ("good", ["good"], "'good' is a list of labels, each a text, in earlier rows it was a text"),
        (["good"], "good", "'good' is a text, in earlier rows it was a list of labels, each a text"),
        (["good"], [1], "1 is a list of labels, each a number, in earlier rows it was a list of labels, each a text"),
    ],
)
def test_labels_of_two_kinds_are_refused_with_both_kinds(first, second, shown):
    reader = LabelReader()
    reader.read(None)
    reader.read(first)
    assert row_error_of(reader, second) == f"label: {shown}; write all labels alike"


def test_labels_of_two_kinds_in_one_list_are_refused_too():
    assert "'b' is a list of labels, each a text" in row_error_of(LabelReader(), [1, "b"])


@pytest.mark.parametrize(("separator", "value"), [(None, ["a", "b", "a"]), (None, ["a", " a"]), ("|", "a|b|a")])
def test_a_label_that_a_row_has_twice_is_refused(separator, value):
    assert "holds a label twice; write it once" in row_error_of(LabelReader(separator), value)


# The names of the labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b", "c"], ["a", "b", "c"]),
        (["10", "9", "-2", "0"], ["-2", "0", "9", "10"]),
        (["x", "10", "9", "负"], ["9", "10", "x", "负"]),
        (["b a", "", "c"], ["a", "b", "c"]),
    ],
)
def test_labels_of_the_training_rows_are_in_the_order_of_numbers_and_the_alphabet(labels, names):
    splits = make_splits(train=labels, validation=["z"], test=[None])
    assert choose_label_names(splits, None, None, True) == names


def test_numbers_that_are_equal_are_in_the_order_of_their_texts():
    """A set gives them in another order in each process, and each process would number the labels otherwise."""
    labels = ["1", "0001", "01", "000001", "001", "00001", "2", "0000001"]
    expected = ["0000001", "000001", "00001", "0001", "001", "01", "1", "2"]
    assert choose_label_names(make_splits(train=labels), None, None, True) == expected


def test_named_labels_are_taken_in_their_order():
    splits = make_splits(train=["a", "b"])
    assert choose_label_names(splits, ["c", "b", "a"], None, True) == ["c", "b", "a"]
    assert choose_label_names(splits, ["c", "b", "a"], ["a", "b"], False) == ["c", "b", "a"]


def test_a_label_that_is_named_twice_is_refused():
    message = user_error_of(choose_label_names, make_splits(train=["a", "b"]), ["b", "a", "c", "a"], None, True)
    assert message == "class_names names 'a' twice: name each label once."


def test_labels_of_a_trained_head_are_kept_where_they_cover_the_training_rows():
    splits = make_splits(train=["a", "b"])
    assert choose_label_names(splits, None, ["c", "b", "a"], True) == ["c", "b", "a"]
    assert choose_label_names(splits, None, ["b", "c"], True) == ["a", "b"]


def test_without_training_the_head_decides_and_a_model_without_one_is_refused():
    splits = make_splits(test=["a", "z"])
    assert choose_label_names(splits, None, ["b", "a"], False) == ["b", "a"]
    assert "train it first" in user_error_of(choose_label_names, splits, None, None, False)


def test_a_single_label_is_refused_because_there_is_nothing_to_learn():
    message = user_error_of(choose_label_names, make_splits(train=["a", "a"], validation=["b"]), None, None, True)
    assert message == (
        "train.csv:0: the 2 training rows have only one label (a), there is nothing to learn; add rows with another "
        "label, or name all labels in class_names."
    )


def test_a_label_is_shown_without_its_control_characters():
    message = user_error_of(choose_label_names, make_splits(train=["a\x14"] * 2), None, None, True)
    assert "have only one label (a\\x14), there" in message
    names = [f"{number}\x1b" for number in range(21)]
    message = user_error_of(choose_label_names, make_splits(train=names), None, None, True)
    assert "21 different labels (0\\x1b, 1\\x1b, 10\\x1b, ...), as texts have" in message


def test_labels_that_differ_in_capitals_alone_are_refused_where_the_rarer_ones_stand():
    splits = make_splits(train=["good", "Good", "bad", "good", "BAD", "bad"])
    cure = "write both alike, or name all labels in class_names if they differ"
    assert user_error_of(choose_label_names, splits, None, None, True).splitlines() == [
        f"train.csv:1: label 'Good' is 'good' in other rows; {cure}",
        f"train.csv:4: label 'BAD' is 'bad' in other rows; {cure}",
    ]
    named = ["good", "Good", "bad", "BAD"]
    assert choose_label_names(splits, named, None, True) == named


@pytest.mark.parametrize(
    ("labels", "said"), [(["a", "a", None], "all 2 labelled"), (["a", "b"], ""), (["a", None], "")]
)
def test_a_split_with_one_label_is_warned_of(labels, said, capsys):
    number_labels(make_splits(train=["a", "a"], test=labels), ["a", "b"], False)
    warned = capsys.readouterr().out
    assert warned == (f"Warning: {said} test rows have one label (a): scores say little.\n" if said else "")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(("named", "trained"), [(None, None), (["a", "b"], None), (None, ["a", "b"])])
def test_a_row_without_label_is_refused_outside_the_test_rows(split, named, trained):
    splits = make_splits(train=["a", "b"], test=[None]) | make_splits(**{split: ["a", None, "b"]})
    for do_train in (True, False):
        message = user_error_of(choose_label_names, splits, named, trained, do_train)
        assert message.startswith(f"{split}.csv:1: the label is empty or -1; ") and len(message.splitlines()) == 1


def test_training_rows_without_any_label_are_not_said_to_have_one():
    message = user_error_of(choose_label_names, make_splits(train=[None, None]), None, None, True)
    assert "only one label" not in message


@pytest.mark.parametrize(
    ("rows", "labels", "is_refused"), [(20, 20, False), (30, 21, True), (100, 50, False), (100, 51, True)]
)
def test_as_many_labels_as_texts_are_refused_because_they_are_texts(rows, labels, is_refused):
    splits = make_splits(train=[f"text{number % labels}" for number in range(rows)])
    if not is_refused:
        assert len(choose_label_names(splits, None, None, True)) == labels
        return
    message = user_error_of(choose_label_names, splits, None, None, True)
    assert message.startswith(
        f"train.csv:0: the {rows} training rows have {labels} different labels (text0, text1, text10, ...)"
    )
    assert "label_column_name" in message and "class_names" in message
    named = [f"text{number}" for number in range(labels)]
    assert choose_label_names(splits, named, None, True) == named


@pytest.mark.parametrize(("labels", "is_said"), [(100, False), (101, True)])
def test_more_than_a_hundred_labels_are_said_to_be_many(labels, is_said, capsys):
    splits = make_splits(train=[str(number % labels) for number in range(4 * labels)])
    assert choose_label_names(splits, None, None, True) == [str(number) for number in range(labels)]
    assert capsys.readouterr().out == ("Note: 101 labels, 4.0 training rows for each.\n" if is_said else "")


# One label a row, or several


@pytest.mark.parametrize(("value", "is_multi_label"), [("a", False), (1, False), (["a"], True)])
def test_training_rows_decide_whether_a_row_may_have_several_labels(value, is_multi_label):
    reader, config = LabelReader(), SimpleNamespace(problem_type="regression")
    reader.read(value)
    assert choose_problem_type(config, reader, do_train=True) is is_multi_label
    assert config.problem_type == ("multi_label_classification" if is_multi_label else "single_label_classification")


@pytest.mark.parametrize(("trained", "is_multi_label"), [("multi_label_classification", True), (None, False)])
def test_without_training_it_is_as_the_model_was_trained(trained, is_multi_label):
    config = SimpleNamespace(problem_type=trained)
    assert choose_problem_type(config, LabelReader("|"), do_train=False) is is_multi_label
    assert config.problem_type == trained


# Numbers of labels


def test_labels_are_numbered_in_the_order_of_their_names(capsys):
    splits = make_splits(train=["b", "a", "c"], validation=["c"], test=[None, "b"])
    numbered = number_labels(splits, ["c", "a", "b"], False)
    assert {split: rows["label_ids"][:] for split, rows in numbered.items()} == {
        "train": [[2], [1], [0]],
        "validation": [[0]],
        "test": [None, [2]],
    }
    assert numbered["train"].remove_columns("label_ids").to_list() == splits["train"].to_list()
    assert capsys.readouterr().out == ""


def test_several_labels_a_row_keep_their_order_and_may_be_none():
    numbered = number_labels(make_splits(train=["b a", "", "c"], test=[None, ""]), ["a", "b", "c"], True)
    assert numbered["train"]["label_ids"][:] == [[1, 0], [], [2]]
    assert numbered["test"]["label_ids"][:] == [None, []]


def test_numbers_mean_positions_in_names_that_are_known_and_that_is_said(capsys):
    splits = make_splits(train=["0", "2", "1"], test=["1", None])
    numbered = number_labels(splits, ["negative", "neutral", "positive"], False)
    assert numbered["train"]["label_ids"][:] == [[0], [2], [1]]
    assert numbered["test"]["label_ids"][:] == [[1], None]
    assert capsys.readouterr().out == "The labels of the data are numbers: 0 = negative, 1 = neutral, 2 = positive.\n"


def test_a_number_that_is_a_name_is_that_label_and_no_position(capsys):
    assert number_labels(make_splits(train=["2", "0", "1"]), ["1", "0", "2"], False)["train"]["label_ids"][:] == [
        [2],
        [1],
        [0],
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("good", "bad, fine"),
        ("2", "bad, fine"),
        ("-1", "bad, fine"),
        ("4", "1, 2, 3"),
        ("0", "1, 2, 3"),  # where the names are numbers, a number is a name and no position
    ],
)
def test_a_row_with_an_unknown_label_is_refused_by_its_origin_with_the_known_ones(label, names):
    names_in_order = names.split(", ")
    message = user_error_of(number_labels, make_splits(train=[*names_in_order[:2], label]), names_in_order, False)
    assert message == f"train.csv:2: label {label!r} is not one of {names}; correct it or set class_names"


def test_of_many_known_labels_six_are_shown():
    names = [f"l{number}" for number in range(9)]
    message = user_error_of(number_labels, make_splits(test=["x"]), names, False)
    assert "is not one of l0, l1, l2, l3, l4, l5, ...; correct it" in message


def test_of_many_faulty_rows_twenty_are_shown_and_all_are_counted():
    lines = user_error_of(number_labels, make_splits(train=["a", *["x"] * 23]), ["a", "b"], False).splitlines()
    assert [line.split(":")[1] for line in lines[:20]] == [str(number) for number in range(1, 21)]
    assert len(lines) == 21 and lines[-1].startswith("and 3 more")


@pytest.mark.parametrize(("labels", "count"), [("a b", 2), ("", 0)])
def test_one_label_a_row_is_required_unless_the_model_gives_several(labels, count):
    splits = make_splits(validation=["a", labels], test=[None])
    message = user_error_of(number_labels, splits, ["a", "b"], False)
    assert message.startswith(f"validation.csv:1: {count} labels, and the model gives one; ")
    assert number_labels(splits, ["a", "b"], True)["validation"]["label_ids"][1] == [0, 1][:count]


@pytest.mark.parametrize(("first", "is_multi_label"), [(None, False), ("", True)])
def test_a_thousand_rows_without_label_do_not_hide_that_later_ones_have_some(first, is_multi_label):
    """datasets takes the type of a new column from the first thousand rows."""
    numbered = number_labels(make_splits(test=[first] * 1001 + ["b"]), ["a", "b"], is_multi_label)
    assert numbered["test"]["label_ids"][-2:] == [None if first is None else [], [1]]


# Few-shot


def number_rows(*labels: str) -> Dataset:
    names = sorted({name for text in labels for name in text.split()})
    return number_labels(make_splits(train=list(labels)), names, True)["train"]


def test_of_each_class_as_many_rows_are_taken_as_wanted_in_the_order_of_the_data(capsys):
    rows = number_rows(*["a"] * 20, *["b"] * 10, *["c"] * 2)
    taken = take_samples_per_class(rows, 4, seed=1)
    assert Counter(labels[0] for labels in taken["label_ids"]) == {0: 4, 1: 4, 2: 2}
    ids = [int(row_id) for row_id in taken["id"]]
    assert ids == sorted(ids) and ids[-2:] == [30, 31]
    assert capsys.readouterr().out == "train: 10 of 32 rows, up to 4 of each class, drawn with seed 1.\n"


def test_the_seed_decides_which_rows_are_taken():
    rows = number_rows(*["a", "b"] * 50)
    drawn = [take_samples_per_class(rows, 5, seed)["id"][:] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_row_with_several_labels_counts_for_each_of_them():
    """Two rows of each class: both of `a b`, whose labels no other row then is needed for."""
    taken = take_samples_per_class(number_rows("a b", "a b", "c"), 1, seed=0)
    assert sorted(map(tuple, taken["label_ids"])) == [(0, 1), (2,)]
    rows = number_rows(*["a b"] * 3, *["a"] * 5)
    for seed in range(5):
        counts = Counter(label for labels in take_samples_per_class(rows, 2, seed)["label_ids"] for label in labels)
        assert counts[1] == 2 and counts[0] >= 2


# What is said of them


def test_labels_are_counted_in_their_order():
    rows = number_labels(make_splits(train=["b", *["a"] * 1200]), ["b", "a", "c"], False)["train"]
    assert describe_labels(["b", "a", "c"], rows, False) == "3, one a row: b 1, a 1,200, c 0"
    rows = number_labels(make_splits(train=["b a", "a", ""]), ["a", "b"], True)["train"]
    assert describe_labels(["a", "b"], rows, True) == "2, any number a row: a 2, b 1"


def test_of_many_labels_the_rarest_are_shown():
    names = [f"l{number:02}" for number in range(14)]
    rows = number_labels(make_splits(train=[name for n, name in enumerate(names) for _ in range(n + 1)]), names, False)
    shown = [f"l{number:02} {number + 1}" for number in range(12)]
    assert describe_labels(names, rows["train"], False) == f"14, one a row: {', '.join(shown)}, ..."
    rows = number_labels(make_splits(train=[name for n, name in enumerate(names) for _ in range(14 - n)]), names, False)
    assert describe_labels(names, rows["train"], False).startswith("14, one a row: l13 1, l12 2, l11 3")


def test_without_training_rows_labels_are_named_only():
    assert describe_labels(["b", "a"], None, False) == "2, one a row: b, a"
