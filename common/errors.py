"""The one exception for mistakes in what a user gave us, shown as a message instead of a traceback."""

import os
import sys

from common.console import escape_lines


class UserError(ValueError):
    """Something the user gave cannot be used; the text says where, what is wrong and what to do.

    Control characters in it, which came from the data, are escaped.
    """

    def __init__(self, text: str):
        super().__init__(escape_lines(text))


class RowError(ValueError):
    """A row that the recipe cannot use; the text names the column, what is wrong and what to do."""


class LocalError(UserError):
    """One that concerns this process alone: where several train, the others know nothing of it."""


def install_error_hook() -> None:
    """Show an uncaught UserError as one message on stderr (exit code 1); anything else keeps its traceback."""
    sys.excepthook = _print_user_error


def _print_user_error(error_type, error, traceback) -> None:
    if not issubclass(error_type, UserError):
        sys.__excepthook__(error_type, error, traceback)
    # Every rank reads the same files and finds the same mistake.
    elif issubclass(error_type, LocalError) or os.environ.get("RANK", "0") == "0":
        print(f"error: {error}", file=sys.stderr, flush=True)
