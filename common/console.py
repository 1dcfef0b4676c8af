"""What a run tells the person at the terminal."""

import contextlib
import os
import unicodedata
from collections.abc import Iterator, Sequence

silenced = []  # one item for each `silence` that is entered


def say(text: str = "", end: str = "\n") -> None:
    """Print one line, from the first process only: two processes would say everything twice."""
    if os.environ.get("RANK", "0") == "0" and not silenced:
        print(text, end=end, flush=True)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is said meanwhile: what is done again for other rows has said its part."""
    silenced.append(True)
    try:
        yield
    finally:
        silenced.pop()


def draw_table(rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """The lines of a table whose first row is its head; the first `texts` columns stand left, numbers right.

    A Chinese character is as wide as two letters.
    """
    widths = [max(map(measure_text, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - measure_text(cell))
            cells.append(cell + gap if index < texts else gap + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def measure_text(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )
