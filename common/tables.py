"""CSV and TSV files, read without guessing: a value stays the text that it is, 'NA' and 'null' too. CSV, written."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from common.lines import Complaints, read_lines

MOST_LABELS = 1000  # a column with more values than this holds no labels


def read_csv(path: Path, complaints: Complaints) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for the records under a header, by the rules of RFC 4180."""
    yield from _read_table(path, complaints, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def read_tsv(path: Path, complaints: Complaints) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for the lines under a header, cut at the tabs; a quote is a letter as in IANA's TSV.

    GLUE and most corpora write it so. A field that was quoted as in CSV, its quotes doubled, is refused.
    """
    yield from _read_table(path, complaints, delimiter="\t", quoting=csv.QUOTE_NONE)


def draw_csv(names: list[str], rows: list[dict]) -> str:
    """The rows as CSV under a head of these names; what a row lacks stays empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


class _RecordLines:
    """Feeds csv.reader and keeps the lines of the record that it is reading."""

    def __init__(self, lines: Iterator[tuple[int, str, bool]]):
        self.lines = lines
        self.taken: list[str] = []
        self.sound = True

    def __iter__(self):
        return self

    def __next__(self) -> str:
        _, text, sound = next(self.lines)
        self.taken.append(text)
        self.sound = self.sound and sound
        return text

    def start_record(self) -> None:
        self.taken = []
        self.sound = True


def _read_records(path: Path, complaints: Complaints, delimiter: str, quoting: int):
    """Yield (line, fields, the lines that they were written on), without blank and faulty records."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131072 characters
    lines = _RecordLines(read_lines(path, complaints))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        lines.start_record()
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            complaints.add(_explain_csv_error(error, line, reader.line_num), line)
            continue
        if lines.sound and "".join(lines.taken).strip():
            yield line, fields, lines.taken


def _read_table(path: Path, complaints: Complaints, delimiter: str, quoting: int) -> Iterator[tuple[int, dict]]:
    before = complaints.count
    records = _read_records(path, complaints, delimiter, quoting)
    line, header, _ = next(records, (1, None, None))
    if header is None or complaints.count > before:  # a faulty header is not yielded: this one would be a row
        return
    fault = _find_header_fault(header, delimiter)
    if fault:
        complaints.add(fault, line)
        return
    rows = 0
    known_values, suspects = [set() for _ in header], []
    for line, fields, written in records:
        fault = _find_row_fault(fields, header, delimiter)
        if fault:
            complaints.add(fault, line)
            continue
        if len(written) > 1:
            suspects.append((line, written))
        for values, value in zip(known_values, fields, strict=True):
            if len(values) <= MOST_LABELS:
                values.add(value)
        rows += 1
        yield line, dict(zip(header, fields, strict=True))
    if not rows and complaints.count == before:
        complaints.add("0 rows after the header; add rows or leave the file out", line)
    labels = [values - {""} if 2 * len(values) <= min(rows, 2 * MOST_LABELS) else set() for values in known_values]
    for line, written in suspects:  # only now is it known which columns hold labels
        if _is_made_of_rows(written, labels, delimiter):
            last = line + len(written) - 1
            complaints.add(f'a quote (") opened in this row swallows the rows up to line {last}; {_QUOTE_CURE}', line)


_QUOTE_CURE = 'close it or write it twice ("")'


def _explain_csv_error(error: csv.Error, first: int, last: int) -> str:
    if "new-line" in str(error):
        return "a carriage return within the row; save the file with plain line ends or put the text in quotes"
    if "unexpected end" in str(error):
        return f'a quote (") opened in this row is never closed, up to line {last}; {_QUOTE_CURE}'
    if last > first:
        return f'a quote (") opened in this row swallows the text up to line {last}; {_QUOTE_CURE}'
    return 'text follows a closing quote ("); write a quote inside a quoted text twice ("")'


def _find_header_fault(header: list[str], delimiter: str) -> str | None:
    if len(header) == 1:
        for other, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas"), ("|", "bars")):
            if other in header[0] and other != delimiter:
                wanted = "tabs" if delimiter == "\t" else "commas"
                return f"one column {header[0]!r} (separated by {name}?); save the file with {wanted} between columns"
    for column, name in enumerate(header, start=1):
        if not name.strip():
            return f"column {column} has no name; the first line must name every column"
        if name in header[: column - 1]:
            return f"two columns are called {name!r}; rename one of them"
    return None


def _find_row_fault(fields: list[str], header: list[str], delimiter: str) -> str | None:
    if len(fields) != len(header):
        cure = "put a text that holds a comma in quotes" if delimiter == "," else "no text can hold a tab or line end"
        return f"fields here: {len(fields)}, in the header: {len(header)} ({', '.join(header)}); {cure}"
    if delimiter == "\t":
        for name, field in zip(header, fields, strict=True):
            if len(field) > 3 and field[0] == field[-1] == '"' and '""' in field[1:-1]:
                return f"{name} is quoted as in CSV, but a quote is a letter in TSV; save the rows as .csv or .jsonl"
    return None


def _is_made_of_rows(written: list[str], labels: list[set[str]], delimiter: str) -> bool:
    """Whether each line of a record of several lines would be a row: as many fields, and a label among them."""
    for text in written:
        parts = text.rstrip("\n").split(delimiter)
        if len(parts) != len(labels) or not any(map(set.__contains__, labels, parts)):
            return False
    return True
