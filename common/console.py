"""What a run tells the person at the terminal."""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence

silenced = []  # one item for each `silence` that is entered


def say(text: str = "", end: str = "\n") -> None:
    """Print one line, from the first process only: two processes would say everything twice."""
    if os.environ.get("RANK", "0") == "0" and not silenced:
        print(escape_lines(text), end=end, flush=True)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is said meanwhile: what is done again for other rows has said its part."""
    silenced.append(True)
    try:
        yield
    finally:
        silenced.pop()


def escape_controls(text: str) -> str:
    """The text with control characters and half surrogates as \\x1b: data can neither hide a line nor end one."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


# The C0 and C1 controls, the separators that end a line elsewhere, and surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def escape_lines(text: str) -> str:
    """The same, line by line: a text of ours, which may hold some of the data."""
    return "\n".join(map(escape_controls, text.split("\n")))


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
