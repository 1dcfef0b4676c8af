"""Labels of classified texts: read in every shape that data have, named, numbered and counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.checked_rows import UNLABELLED
from common.console import say
from common.data import RowError
from common.errors import UserError
from common.lines import find_variants, name_some, refuse_rows, suggest
from common.streaming import for_each_block

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

MANY_LABELS = 100  # more than this are said to be many
SHOWN_LABELS = 12  # at the start of a run


@dataclass
class LabelReader:
    """Reads the label of a row as a list of names; remembers how the first one was written, for all rows alike.

    A label is a text, a whole number or true/false; a list of them makes the task multi-label, and so does `separator`,
    which cuts a text into its labels.
    """

    separator: str | None = None
    kind: str | None = field(default=None, init=False)
    is_multi_label: bool = field(default=False, init=False)  # whether the labels that were read came in lists

    def read(self, value) -> list[str] | None:
        """The names (numbers as texts), None where the row has no label; RowError for what is no label."""
        value = value.strip() if isinstance(value, str) else value
        if value == "" and self.separator is not None:
            return []
        if value is None or value in UNLABELLED:
            return None
        is_list = isinstance(value, list) or self.separator is not None
        if isinstance(value, str) and self.separator is not None:
            value = [part.strip() for part in value.split(self.separator) if part.strip()]
        labels = value if isinstance(value, list) else [value]
        for label in labels:
            if not isinstance(label, str | int) or label in UNLABELLED:
                raise RowError(f"label: {str(label)[:60]!r} is no label; write a text or a whole number")
            kind = {bool: "true or false", int: "a number"}.get(type(label), "a text")
            self._check_kind(f"a list of labels, each {kind}" if is_list else kind, label)
            self.is_multi_label = is_list
        names = [str(label).lower() if isinstance(label, bool) else str(label).strip() for label in labels]
        if len(set(names)) < len(names):
            raise RowError(f"label: {value!r} holds a label twice; write it once")
        return names

    def _check_kind(self, kind: str, label) -> None:
        self.kind = self.kind or kind
        if kind != self.kind:
            raise RowError(f"label: {label!r} is {kind}, in earlier rows it was {self.kind}; write all labels alike")


def choose_label_names(
    splits: DatasetDict,
    named: list[str] | None,
    trained: list[str] | None,
    do_train: bool,
    is_multi_label: bool = False,
) -> list[str]:
    """The labels that the head's outputs stand for, in their order.

    They are the ones `named` by the user, else those the head was `trained` on if they cover the training rows, else
    those of the training rows: numbers in their order, texts by the alphabet. Only test rows may lack a label.
    """
    unlabelled = "the label is empty or -1; give the row a label, or predict it as a test row"
    refuse_rows(
        [
            (origin, unlabelled)
            for split, rows in splits.items()
            for origin, names in zip(rows["origin"], rows["labels"], strict=True)
            if names is None and split != "test"
        ]
    )
    if not do_train and named is None and trained is None:
        raise UserError("The model has no head for labels: train it first, or give the directory of a trained model.")
    if named is not None:
        if len(set(named)) < len(named):
            raise UserError(f"class_names names {Counter(named).most_common(1)[0][0]!r} twice: name each label once.")
        if len(named) < (1 if is_multi_label else 2):
            raise UserError(f"class_names names {len(named)} label: there is nothing to learn.")
        return named
    if not do_train:
        return trained
    counts = Counter(name for names in splits["train"]["labels"] if names is not None for name in names)
    found = set(counts)
    if trained is not None and found <= set(trained):
        return trained
    _refuse_variants(splits["train"], find_variants(counts))
    if len(found) < (1 if is_multi_label else 2):
        rows = splits["train"]
        what = f"only one label ({name_some([*found])})" if found else "no label"
        raise UserError(
            f"{rows['origin'][0]}: the {len(rows):,} training rows have {what}, there is nothing to learn; add rows "
            "with another label, or name all labels in class_names."
        )
    _refuse_texts_as_labels(found, splits["train"])
    return sorted(found, key=lambda name: (0, int(name), name) if _is_number(name) else (1, 0, name))


def _refuse_variants(rows: Dataset, variants: dict[str, str]) -> None:
    faults = []
    for origin, names in zip(rows["origin"], rows["labels"], strict=True):
        found = next((name for name in names or () if name in variants), None)
        if found is not None:
            cure = "write both alike, or name all labels in class_names if they differ"
            faults.append((origin, f"label {found!r} is {variants[found]!r} in other rows; {cure}"))
    refuse_rows(faults)


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and name.isascii()


def _refuse_texts_as_labels(names: set[str], rows: Dataset) -> None:
    if len(names) > max(MANY_LABELS // 5, len(rows) / 2):
        raise UserError(
            f"{rows['origin'][0]}: the {len(rows):,} training rows have {len(names):,} different labels "
            f"({name_some(sorted(names), 3)}), as texts have; set label_column_name to the column of the labels, or "
            "name them all in class_names."
        )
    if len(names) > MANY_LABELS:
        say(f"Note: {len(names):,} labels, {len(rows) / len(names):.1f} training rows for each.")


def choose_problem_type(config, reader: LabelReader, do_train: bool) -> bool:
    """Whether a row may have any number of labels: as the training rows are, else as the model was trained."""
    if do_train:
        kind = "multi_label_classification" if reader.is_multi_label else "single_label_classification"
        config.problem_type = kind
    return config.problem_type == "multi_label_classification"


@for_each_block
def number_labels(splits: DatasetDict, label_names: list[str], is_multi_label: bool) -> DatasetDict:
    """The splits with `label_ids`: the numbers of each row's labels, None where it has none.

    Where no label's name is a number, a number means the label of that number. Rows with other labels are refused, and
    rows with several labels unless the task is multi-label.
    """
    ids = {name: index for index, name in enumerate(label_names)}
    # Where the names are numbers themselves, a number is a name and nothing else.
    has_numbers = any(_is_number(name) for name in label_names)
    by_number = {} if has_numbers else {str(index): index for index in range(len(label_names))}
    found = {name for rows in splits.values() for names in rows["labels"] for name in names or ()}
    if not found.isdisjoint(by_number):
        pairs = [f"{index} = {name}" for index, name in enumerate(label_names)]
        say(f"The labels of the data are numbers: {name_some(pairs)}.")
    known = by_number | ids
    labelled = [
        (origin, names)
        for rows in splits.values()
        for origin, names in zip(rows["origin"], rows["labels"], strict=True)
        if names is not None
    ]
    unknown = [(origin, [name for name in names if name not in known]) for origin, names in labelled]
    refuse_rows([(origin, _explain_unknown(names[0], label_names)) for origin, names in unknown if names])
    if not is_multi_label:
        refuse_rows(
            [
                (origin, f"{len(names)} labels, and the model gives one; write one, or train a multi-label model")
                for origin, names in labelled
                if len(names) != 1
            ]
        )
    _warn_of_single_labels(splits)
    numbers = {"label_ids": List(Value("int64"))}  # named, because the first thousand rows may have no label
    return DatasetDict(
        {
            split: rows.map(_number_row, fn_kwargs={"known": known}, features=Features(rows.features | numbers))
            for split, rows in splits.items()
        }
    )


def _explain_unknown(name: str, label_names: list[str]) -> str:
    known = f"{name_some(label_names)}{suggest(name, label_names)}"
    return f"label {name!r} is not one of {known}; correct it or set class_names"


def _warn_of_single_labels(splits: DatasetDict) -> None:
    """Say where all rows that are scored have one label: whoever always gives it is always right."""
    for split, rows in splits.items():
        labelled = [tuple(names) for names in rows["labels"] if names is not None]
        if split != "train" and len(labelled) > 1 and len(set(labelled)) == 1:
            label = name_some(labelled[0]) or "none"
            say(f"Warning: all {len(labelled):,} labelled {split} rows have one label ({label}): scores say little.")


def _number_row(row: dict, known: dict[str, int]) -> dict:
    return {"label_ids": None if row["labels"] is None else [known[name] for name in row["labels"]]}


def take_samples_per_class(rows: Dataset, most: int, seed: int) -> Dataset:
    """At most `most` rows of each class, drawn with `seed`, in the order of the data (few-shot training).

    A row with several labels counts for each of them, and is taken if one of them still lacks rows; rows without any
    are a class of their own.
    """
    counts: Counter[int | None] = Counter()
    taken = []
    for index in np.random.default_rng(seed).permutation(len(rows)):
        labels = rows[int(index)]["label_ids"] or (None,)
        if any(counts[label] < most for label in labels):
            counts.update(labels)
            taken.append(int(index))
    say(f"train: {len(taken)} of {len(rows)} rows, up to {most} of each class, drawn with seed {seed}.")
    return rows.select(sorted(taken))


def describe_labels(label_names: list[str], rows: Dataset | None, is_multi_label: bool) -> str:
    """How many labels there are and how many training rows each has; the rarest ones first where there are many."""
    kind = "any number a row" if is_multi_label else "one a row"
    if rows is None:
        shown = label_names
    else:
        counts = Counter(label for labels in rows["label_ids"] if labels is not None for label in labels)
        order: Sequence[int] = range(len(label_names))
        if len(label_names) > SHOWN_LABELS:
            order = sorted(order, key=lambda label: counts[label])
        shown = [f"{label_names[label]} {counts[label]:,}" for label in order]
    return f"{len(label_names)}, {kind}: {name_some(shown, SHOWN_LABELS)}"
