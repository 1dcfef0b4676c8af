"""The characters of the data's texts: rows that are far too long, and characters that nobody sees."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import RowError

# Of the control characters all but tab, line feed, form feed and carriage return; what turns the direction of writing.
_UNSEEN = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def list_texts(value) -> Iterator[str]:
    """Every text in a value of a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from list_texts(list(value.values()))
    elif isinstance(value, list):
        for part in value:
            yield from list_texts(part)


def refuse_long_row(values: dict, most: int) -> None:
    """RowError where a column of a row has more than `most` characters."""
    for name, value in values.items():
        length = sum(map(len, list_texts(value)))
        if length > most:
            raise RowError(
                f"{name}: {length:,} characters, more than the {most:,} of max_chars (has a stray quote joined rows?); "
                "divide the row, or set max_chars higher"
            )


@dataclass
class UnseenCharacters:
    """How many rows hold characters that nobody sees, as those that turn the direction of writing, and the first."""

    rows: int = 0
    first: str = ""

    def count(self, values: dict, place: str) -> None:
        """Count a row, if it holds one."""
        found = next(filter(None, map(_UNSEEN.search, list_texts(values))), None)
        if found:
            self.rows += 1
            self.first = self.first or f"U+{ord(found[0]):04X} in {place}"
