"""Characters that nobody sees, and rows of too many."""

from common.characters import UnseenCharacters, list_texts, refuse_long_row
from common.errors import RowError
from common.lines import find_variants

import pytest


def test_texts_are_found_however_deep_they_stand():
    row = {"a": "x", "b": [{"c": "y", "d": 1}, ["z", None]], "e": 2.5}
    assert list(list_texts(row)) == ["x", "y", "z"]


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1f", "\x7f", "\x85", "\u202e", "\u2066"])
def test_rows_with_unseen_characters_are_counted_and_the_first_is_named(character):
    unseen = UnseenCharacters()
    for line, text in enumerate(["fine", f"a{character}b", f"{character}{character}"], start=1):
        unseen.count({"text": [text]}, f"a.jsonl:{line}")
    assert (unseen.rows, unseen.first) == (2, f"U+{ord(character):04X} in a.jsonl:2")


def test_line_ends_tabs_and_the_marks_of_right_to_left_texts_are_no_such_characters():
    unseen = UnseenCharacters()
    unseen.count({"text": "a\tb\r\nc\f \u200f\u200e \u00a0"}, "a.jsonl:1")
    assert (unseen.rows, unseen.first) == (0, "")


def test_a_row_is_too_long_by_all_texts_of_a_column():
    refuse_long_row({"a": ["xx", "yy"], "b": "zzzz"}, 4)
    with pytest.raises(
        RowError, match="^a: 5 characters, more than the 4 of max_chars .*; divide the row, or set max_"
    ):
        refuse_long_row({"a": ["xx", "yyy"]}, 4)


def test_variants_are_the_rarer_names_that_differ_in_capitals_and_spaces_alone():
    counts = {"very good": 3, "Very  good": 1, "bad": 1, "BAD": 1, "Straße": 2, "STRASSE": 1, "fine": 1}
    assert find_variants(counts) == {"Very  good": "very good", "bad": "BAD", "STRASSE": "Straße"}
