"""A reader that is fuzzed, and what is asked of its refusals."""

import contextlib
import io
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Reader:
    """What reads inputs of one kind.

    `attempt` gets an input and an empty folder. It returns True where the input was accepted and what was made of it is
    right, and False where it was refused as a refusal has to be; it lets every other error through.
    """

    name: str
    inputs: SearchStrategy
    attempt: Callable[[Any, Path], bool]
    share: int  # of the inputs of benchmarks/fuzz.py, out of the sum of all shares: less where an attempt takes long


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    accepted: int = 0
    refused: int = 0
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)  # what went wrong: how often, the shortest input

    @property
    def tried(self) -> int:
        """How many inputs there were."""
        return self.accepted + self.refused + self.failed

    @property
    def failed(self) -> int:
        """How many inputs led to another error than a refusal, or to something wrong."""
        return sum(count for count, _ in self.errors.values())

    def add_error(self, error: Exception, shown: str) -> None:
        """Count an error, with its input if that is the shortest that led to it."""
        trace = error.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        name = f"{type(error).__name__} at {place}"
        count, shortest = self.errors.get(name, (0, shown))
        self.errors[name] = count + 1, min(shortest, shown, key=len)


def fuzz(reader: Reader, examples: int, number: int = 0, keep_going: bool = False) -> Tally:
    """Try so many inputs; `number` is the seed, the same inputs for the same one.

    The first error is raised, with the smallest input that leads to it, or counted where it is to `keep_going`.
    """
    tally = Tally()
    how = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate] if keep_going else [Phase.generate, Phase.shrink],
    )
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:

        def attempt(value) -> None:
            try:
                accepted = try_input(reader, value, Path(folder))
                tally.accepted += accepted
                tally.refused += not accepted
            except Exception as error:
                if not keep_going:
                    raise
                tally.add_error(error, repr(value))

        how(seed(number)(given(reader.inputs)(attempt)))()
    return tally


def try_input(reader: Reader, value, folder: Path) -> bool:
    """One attempt in an empty folder, which is emptied again; nothing is shown, nothing stays in the environment."""
    own, given_files = folder / "own", folder / "files"
    for part in (own, given_files):
        part.mkdir(exist_ok=True)
    before = tempfile.tempdir, os.environ.copy()
    tempfile.tempdir = str(own)  # rows that were read are kept until a process ends, which is too long for so many
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return reader.attempt(value, given_files)
    finally:
        tempfile.tempdir = before[0]
        if os.environ != before[1]:
            os.environ.clear()
            os.environ.update(before[1])
        # Emptied rather than removed: to remove a directory takes milliseconds.
        for path in (*own.iterdir(), *given_files.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def check_refusal(error: Exception, paths: Iterable[Path], lines: int | None = None, others: str = "(?!)") -> None:
    """Assert that each line of the message is `path:line[:column]: what is wrong; what to do`, and can be shown.

    `lines` is how many lines the files have at most; `others` matches what may be said of a file as a whole.
    """
    text = str(error)
    names = "|".join(re.escape(str(path)) for path in paths)
    assert text, "a refusal without a word"
    for said in text.split("\n"):
        if re.fullmatch(rf"(({names}): )?and \d+ more( repeated ids)?; .*", said) or re.match(others, said):
            continue
        found = re.match(rf"(?:{names}):(\d+)(?::(\d+))?: \S.*; \S", said)
        assert found, f"no line `path:line: what is wrong; what to do`: {said!r} of {text!r}"
        assert lines is None or 1 <= int(found[1]) <= max(lines, 1), f"no such line: {said!r}"
        assert found[2] is None or int(found[2]) >= 1, f"no such column: {said!r}"
    check_text(text.replace("\n", ""))


def check_text(text: str) -> None:
    """Assert that a terminal can show a text: no control character in it moves the cursor or ends the line."""
    hidden = [character for character in text if unicodedata.category(character) in ("Cc", "Cs")]
    assert not hidden, f"{hidden} in {text!r}"
