"""Tag schemes of named-entity data: every scheme is read as IOB2, and entities are taken from IOB2."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from common.console import say
from common.data import RowError
from common.errors import UserError
from common.lines import find_variants, refuse_rows
from common.streaming import for_each_block

from datasets import DatasetDict

SCHEMES = ("auto", "IOB2", "IOB1", "BIOES", "BMES")
# What the letter of a tag means: does an entity begin here, or go on? Single-word and last-word letters are told apart
# only to check the order.
LETTERS = {
    "IOB2": {"B": "begin", "I": "inside"},
    "IOB1": {"B": "begin", "I": "inside"},
    "BIOES": {"B": "begin", "I": "inside", "E": "end", "S": "single", "L": "end", "U": "single"},
    "BMES": {"B": "begin", "M": "inside", "E": "end", "S": "single"},
}
# CJK punctuation and kana; ideographs with extension A; compatibility ideographs; full-width forms
UNSPACED = (("\u3000", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\uff00", "\uffef"))
# A word with its inner signs, and the dot of an abbreviation; or a sign.
_EDGES = re.compile(r"(?:\w\.){2,}|\w(?:\S*\w)?|\S")
ALL_LETTERS = sorted({letter for letters in LETTERS.values() for letter in letters})


class Entity(NamedTuple):
    """A typed span of words: `start` is the first word, `end` the word after the last one."""

    type: str
    start: int
    end: int


def split_tag(tag: str) -> tuple[str, str]:
    """Letter and type of a tag: ("B", "PER") for B-PER, ("O", "") for O; ValueError where it is neither."""
    if tag == "O":
        return "O", ""
    letter, dash, entity_type = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    if not dash or letter not in ALL_LETTERS or not entity_type:
        raise ValueError(f"{tag!r} is not a tag; write O, or {'/'.join(ALL_LETTERS)} and the type, as in B-PER")
    return letter, entity_type


def detect_scheme(tag_lists: Iterable[Sequence[str]]) -> str:
    """The scheme that the tags are written in.

    B and I alone may be IOB1 or IOB2. In IOB1, B is written only between two entities of one type that touch, so one
    other B makes it IOB2.
    """
    letters, outside_b, starting_i = set(), False, False
    for tags in tag_lists:
        previous_type = ""
        for tag in tags:
            letter, entity_type = split_tag(tag)
            letters.add(letter)
            outside_b |= letter == "B" and entity_type != previous_type
            starting_i |= letter == "I" and entity_type != previous_type
            previous_type = entity_type
    if "M" in letters:
        return "BMES"
    if letters & {"E", "S", "L", "U"}:
        return "BIOES"
    return "IOB1" if starting_i and not outside_b else "IOB2"


def convert_to_iob2(tags: Sequence[str], scheme: str) -> list[str]:
    """The same entities as IOB2 tags; ValueError names the word whose tag the scheme does not allow there."""
    meanings = LETTERS[scheme]
    converted, open_type = [], ""  # open_type: the type of the entity that may go on at this word
    for position, tag in enumerate(tags):
        letter, entity_type = split_tag(tag)
        meaning = meanings.get(letter)
        if letter != "O" and meaning is None:
            raise ValueError(f"tag {tag} of word {position + 1} is not {scheme}; set tag_scheme, or correct the tag")
        goes_on = meaning in ("inside", "end")
        if goes_on and entity_type != open_type and scheme != "IOB1":
            before = f"after {tags[position - 1]}" if position else "as the first tag"
            raise ValueError(
                f"tag {tag} of word {position + 1} goes on with no entity {before} (read as {scheme}); correct the "
                "tag, or set tag_scheme"
            )
        begins = meaning in ("begin", "single") or (goes_on and entity_type != open_type)
        converted.append("O" if letter == "O" else f"{'B' if begins else 'I'}-{entity_type}")
        open_type = "" if meaning in ("end", "single") else entity_type
    return converted


def repair_iob2(tags: Sequence[str]) -> list[str]:
    """Predicted tags as valid IOB2: an I that goes on with nothing begins an entity, as in conlleval."""
    repaired, previous_type = [], ""
    for tag in tags:
        letter, entity_type = split_tag(tag)
        repaired.append(f"B-{entity_type}" if letter == "I" and entity_type != previous_type else tag)
        previous_type = entity_type
    return repaired


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of valid IOB2 tags, from left to right."""
    entities = []
    for position, tag in enumerate(tags):
        letter, entity_type = split_tag(tag)
        if letter == "B":
            entities.append(Entity(entity_type, position, position + 1))
        elif letter == "I":
            entities[-1] = entities[-1]._replace(end=position + 1)
    return entities


def convert_splits(splits: DatasetDict, scheme: str) -> DatasetDict:
    """All splits with IOB2 tags; `auto` finds the scheme from all their tags. Rows without tags stay as they are."""
    if scheme not in SCHEMES:
        raise UserError(f"tag_scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}.")
    if scheme == "auto":
        scheme = detect_scheme(tags for rows in splits.values() for tags in rows["tags"] if tags is not None)
        if scheme != "IOB2":
            say(f"The tags are written in {scheme}: they are read as IOB2.")
    return _convert_tags(splits, scheme)


@for_each_block
def _convert_tags(splits: DatasetDict, scheme: str) -> DatasetDict:
    complaints = []

    def convert(row: dict) -> dict:
        try:
            return {"tags": None if row["tags"] is None else convert_to_iob2(row["tags"], scheme)}
        except ValueError as error:
            complaints.append((row["origin"], str(error)))
            return {"tags": None}

    converted = DatasetDict({name: rows.map(convert, load_from_cache_file=False) for name, rows in splits.items()})
    refuse_rows(complaints)
    return converted


def choose_tag_names(
    splits: DatasetDict, named: list[str] | None, trained: list[str] | None, do_train: bool
) -> list[str]:
    """The tags that the head's outputs stand for, in their order.

    They are the ones `named` by the user, else those the head was `trained` on if they cover the training rows, else
    those of the training rows. A row with any other tag is refused.
    """
    if trained is not None and not all(name == "O" or name.startswith(("B-", "I-")) for name in trained):
        if not do_train and named is None:
            raise UserError(
                f"The model's labels are {', '.join(trained[:4])}, ..., not IOB2: say with tag_names what they mean."
            )
        trained = None
    if not do_train and named is None and trained is None:
        raise UserError("The model has no head for tags: train it first, or give the directory of a trained model.")
    if named is not None:
        names, source = _name_iob2(named), "is not in tag_names; add it there"
    elif not do_train or (trained is not None and _list_tags(splits["train"]) <= set(trained)):
        names, source = trained, "is not among the labels that the model was trained on"
    else:
        counts = Counter(split_tag(tag)[1] for tags in splits["train"]["tags"] if tags is not None for tag in tags)
        _refuse_variants(splits["train"], find_variants(counts))
        names = _name_types(sorted(set(counts) - {""}))
        source = "does not occur in the training rows; add such rows, correct the tag, or name all tags in tag_names"
    refuse_unknown_tags(splits.values(), set(names), source)
    _warn_of_missing_entities(splits)
    return names


def refuse_unknown_tags(
    parts: Iterable[Mapping[str, list]], known: Set[str], source: str = "is not in the first rows; name it in tag_names"
) -> None:
    """A UserError lists the rows with a tag that is not `known`: a stream may bring such rows later."""
    complaints = [
        (origin, f"tag {sorted(set(tags) - known)[0]} {source}")
        for rows in parts
        for origin, tags in zip(rows["origin"], rows["tags"], strict=True)
        if tags is not None and not set(tags) <= known
    ]
    refuse_rows(complaints)


def _refuse_variants(rows, variants: dict[str, str]) -> None:
    faults = []
    for origin, tags in zip(rows["origin"], rows["tags"], strict=True):
        for position, tag in enumerate(tags or (), start=1):
            entity_type = split_tag(tag)[1]
            if entity_type in variants:
                known = f"the type {entity_type} of word {position} is {variants[entity_type]} in other rows"
                faults.append(
                    (origin, f"tags: {known}; write both alike, or name all tags in tag_names if they differ")
                )
                break
    refuse_rows(faults)


def _warn_of_missing_entities(splits: DatasetDict) -> None:
    """Say where no row that is scored has an entity: whoever finds none is always right."""
    for split, rows in splits.items():
        tagged = [tags for tags in rows["tags"] if tags is not None]
        if split != "train" and tagged and all(set(tags) == {"O"} for tags in tagged):
            say(f"Warning: no entity in the {len(tagged):,} tagged {split} rows: scores say little.")


def _name_iob2(names: list[str]) -> list[str]:
    """The names themselves if they are IOB2, else O and the IOB2 tags of their types, in order of appearance."""
    try:
        letters, types = zip(*map(split_tag, names), strict=True)
    except ValueError as error:
        raise UserError(f"tag_names: {error}.") from None
    if set(letters) <= {"O", "B", "I"}:
        return names
    return _name_types(dict.fromkeys(entity_type for entity_type in types if entity_type))


def _name_types(types: Iterable[str]) -> list[str]:
    return ["O", *(f"{letter}-{entity_type}" for entity_type in types for letter in "BI")]


def _list_tags(rows) -> set[str]:
    return {tag for tags in rows["tags"] if tags is not None for tag in tags}


def read_words(value) -> list[str]:
    """The words of a row: a list of them, or a text that is split at its spaces; RowError where there are none."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise RowError(f"tokens: it is {str(value)[:60]!r}; write a list of words, none of them empty")
    return words


def split_words(text: str) -> list[str]:
    """The words of a running text as the sample has them: signs at a word's edges, and each Chinese character, alone.

    Signs within a word stay in it, and so does the dot of an abbreviation that has others (U.S.).
    """
    spaced = "".join(f" {character} " if _is_unspaced(character) else character for character in text)
    return [word for chunk in spaced.split() for word in _EDGES.findall(chunk)]


def join_words(words: Sequence[str]) -> str:
    """The words as text: with spaces between them, but none beside Chinese characters, kana and full-width signs."""
    text = ""
    for word in words:
        glued = not text or not word or _is_unspaced(text[-1]) or _is_unspaced(word[0])
        text += word if glued else f" {word}"
    return text


def _is_unspaced(character: str) -> bool:
    return any(first <= character <= last for first, last in UNSPACED)
