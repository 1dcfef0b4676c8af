"""The lines of a text file, strictly UTF-8, and the list of what is wrong with them."""

import codecs
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from common.console import escape_controls
from common.errors import UserError

SHOWN_COMPLAINTS = 20


class Complaints:
    """The faults of one source of rows: every one is counted, the first twenty are kept for the message."""

    def __init__(self, name: str, separator: str = ":"):
        self.name = name
        self.separator = separator
        self.count = 0
        self._shown: list[tuple[int, str]] = []

    def locate(self, line: int, column: int | None = None) -> str:
        """The place of a row as editors write it: path:line or path:line:column."""
        return f"{self.name}{self.separator}{line}" + (f":{column}" if column else "")

    def add(self, text: str, line: int, column: int | None = None) -> None:
        """Count one fault; `text` says what is wrong and, after a semicolon, what to do."""
        self.count += 1
        if self.count <= SHOWN_COMPLAINTS:
            self._shown.append((line, f"{self.locate(line, column)}: {escape_controls(text)}"))

    def list_lines(self) -> list[str]:
        """One line a fault, in the order of the file: the first twenty found, and how many more there are."""
        shown = [text for _, text in sorted(self._shown, key=lambda fault: fault[0])]
        hidden = self.count - len(shown)
        return shown + ([f"{self.name}: and {hidden} more; mend these and run it again"] if hidden else [])


def suggest(name: str, names: Iterable[str]) -> str:
    """' (did you mean "tokens"?)' where one of the names is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def find_variants(counts: Mapping[str, int]) -> dict[str, str]:
    """Names that differ from a more frequent one in capitals and white space alone, with that one."""
    groups: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    return {name: group[0] for group in groups.values() for name in group[1:]}


def name_some(names: Sequence[str], most: int = 6) -> str:
    """The first names, and ", ..." where there are more."""
    return ", ".join(map(escape_controls, names[:most])) + (", ..." if len(names) > most else "")


def shorten(text: str, most: int = 300) -> str:
    """The first `most` characters, and " ..." where there are more."""
    return text if len(text) <= most else f"{text[:most]} ..."


def read_lines(path: Path, complaints: Complaints) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, text with its line end as \\n, whether it is sound); a byte that is not UTF-8 is complained of."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if line == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                complaints.add("the file is UTF-16; save the file as UTF-8", line, column=1)
                return
            if line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw.endswith(b"\r\n"):
                raw = raw[:-2] + b"\n"
            text = raw.decode(errors="replace")
            fault = None
            if "\0" in text:
                fault = "byte 0x00 is not text (is the file UTF-16?); save the file as UTF-8", text.index("\0") + 1
            elif "\ufffd" in text:
                fault = _find_bad_byte(raw)
            if fault:
                complaints.add(fault[0], line, fault[1])
            yield line, text, not fault


def _find_bad_byte(raw: bytes) -> tuple[str, int] | None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        cure = f"(the file looks like {_guess_encoding(raw)}); save the file as UTF-8"
        if error.reason == "unexpected end of data":  # only the end of the file can cut a character
            cure = "(the file ends inside a character); copy the file again"
        return f"byte 0x{raw[error.start]:02x} is not UTF-8 {cure}", len(raw[: error.start].decode()) + 1
    return None  # the text itself holds U+FFFD


def _guess_encoding(raw: bytes) -> str:
    try:
        raw.decode("gb2312")  # two high bytes make a character there, one high byte in latin-1
    except UnicodeDecodeError:
        return "latin-1"
    return "GBK"


def refuse_rows(faults: list[tuple[str, str]]) -> None:
    """Raise a UserError where there are (place, text) faults: the first twenty, and how many more there are."""
    if faults:
        hidden = len(faults) - SHOWN_COMPLAINTS
        lines = [f"{place}: {escape_controls(text)}" for place, text in faults[:SHOWN_COMPLAINTS]]
        raise UserError("\n".join(lines + ([f"and {hidden} more; mend these and run it again"] if hidden > 0 else [])))
