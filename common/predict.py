"""Predict new rows with a trained model: `python -m common.predict outputs/ner-demo rows.jsonl --output new.jsonl`.

What is to be predicted is a file of rows, or of texts, one a line (.txt), or a text, or the lines of standard input:
JSON objects or texts. A row comes out for each that goes in, in their order, as JSON lines.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from common.atomic_files import write_lines
from common.console import say
from common.errors import UserError, install_error_hook
from common.files import READERS
from common.garbage import settle_imports
from common.inputs import TEXT_SUFFIX, Fault, InputFile, check_inputs, open_file, read_inputs
from common.json_rows import parse_line
from common.lines import SHOWN_COMPLAINTS
from common.prediction import BATCH_SIZE, Predictor, load_task

import datasets
import transformers
from tqdm import tqdm

SOME_FAILED = 3  # the exit code where --on_error keep kept rows that could not be predicted


def main() -> None:
    """Predict what the command line names with the model that it names."""
    install_error_hook()
    settle_imports()
    args = parse_command_line()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    output = None if args.output in (None, "-") else Path(args.output).expanduser()
    if output is not None:
        check_output(output, args.overwrite)
    task = load_task(args.directory)
    if args.context is not None:
        set_context(task, args.context)
    is_text = args.input is not None and not names_file(args.input)
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        items = [("input", parse_text(args.input))] if is_text else open_input(args.input, Path(folder))
        if output is not None and not is_text and output.resolve() == items.path.resolve():
            raise UserError(f"{output}: it is the file that is read; give another --output.")
        number = check_inputs(items, task, args.on_error)
        predictor = Predictor(task, args.directory, args.batch_size, args.dtype)
        failed: list[str] = []
        with tqdm(total=number, unit="row", disable=None if number > 1 else True) as bar:
            rows = note_failures(predictor.predict_inputs(read_inputs(items, task), make_report(bar)), failed)
            indent = 2 if is_text and output is None else None
            lines = (json.dumps(row, ensure_ascii=False, indent=indent) + "\n" for row in rows)
            if output is None:
                print_lines(lines)
            else:
                write_lines(output, lines)
    if output is not None:
        say(f"predictions  {output}")
    if failed:
        hidden = len(failed) - SHOWN_COMPLAINTS
        shown = "\n".join([*failed[:SHOWN_COMPLAINTS], *([f"and {hidden} more"] if hidden > 0 else [])])
        print(f"{len(failed)} of {number} rows could not be predicted:\n{shown}", file=sys.stderr, flush=True)
        raise SystemExit(SOME_FAILED)


def parse_command_line() -> argparse.Namespace:
    """The arguments; a mistake in them ends the process with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m common.predict",
        description="Predict new rows with the model of a result directory, for all six tasks.",
        epilog="Labels in the rows are not looked at: to score a labelled file, run the recipe with --do_predict. To "
        "talk with a model, turn by turn: python -m common.chat.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", help="the output_dir of a finished run")
    parser.add_argument(
        "input",
        nargs="?",
        help=f"a file ({', '.join([*READERS, TEXT_SUFFIX])}) or a text: what is to be tagged, classified, translated "
        "or summarized, a question (with --context), what the user says, a JSON list of messages, or a row as a JSON "
        "object. Default: the lines of standard input, each a JSON object or a text.",
    )
    parser.add_argument("--context", help="question answering: the text, or the file with it, that questions are about")
    parser.add_argument("--output", help="the file to write, as JSON lines; - is standard output (default)")
    parser.add_argument("--overwrite", action="store_true", help="write over a file that is there")
    parser.add_argument(
        "--batch_size", type=int, default=BATCH_SIZE, help="rows computed at once (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the weights: bfloat16 takes half the memory, and rounds (default: %(default)s)",
    )
    parser.add_argument(
        "--on_error",
        choices=["stop", "keep"],
        default="stop",
        help="what rows that cannot be predicted do: stop the run before it starts (exit code 1), or become rows with "
        f'"error" in their places (exit code {SOME_FAILED}); default: %(default)s',
    )
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error("--batch_size must be 1 or more")
    return args


def names_file(text: str) -> bool:
    """Whether the argument is a file or looks like the name of one, rather than a text."""
    try:
        if Path(text).expanduser().exists():
            return True
    except (OSError, ValueError, RuntimeError):  # too long for a name, for one
        return False
    return len(text.split()) == 1 and Path(text).suffix.lower() in (*READERS, TEXT_SUFFIX)


def parse_text(text: str) -> dict | str | Fault:
    """The text or, where it is a JSON object, the row that it stands for."""
    if not text.lstrip().startswith("{"):
        return text
    row, fault = parse_line(text)
    return row if fault is None else Fault("input", fault.text)


def open_input(name: str | None, folder: Path) -> InputFile:
    """The file of that name or, without one, standard input, which is kept in `folder` to be read more than once."""
    if name is not None:
        return open_file(Path(name).expanduser())
    if sys.stdin.isatty():
        print("Write a text or a JSON object a line; Ctrl-D ends.", file=sys.stderr, flush=True)
    content = sys.stdin.buffer.read()
    suffix = ".jsonl" if content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else TEXT_SUFFIX
    path = folder / f"stdin{suffix}"
    path.write_bytes(content)
    return InputFile(path, "stdin")


def set_context(task, context: str) -> None:
    """Give the task the text, or the text of the file, that questions without a context of their own are about."""
    if not hasattr(task, "context"):
        raise UserError("--context is for question answering, and this model does not answer questions; leave it out.")
    if names_file(context):
        try:
            context = Path(context).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--context {context}: cannot be read ({error}); give a text, or a file in UTF-8."
            ) from None
    if not context.strip():
        raise UserError("--context is empty; write the text that the questions are about.")
    task.context = context


def check_output(path: Path, overwrite: bool) -> None:
    """UserError where the file may not be written."""
    if path.is_dir():
        raise UserError(f"{path}: a directory; give --output the name of a file.")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: the file is already there; give another --output, or --overwrite.")


def note_failures(rows: Iterable[dict], failed: list[str]) -> Iterator[dict]:
    """The rows; what is wrong with those that could not be predicted is added to `failed`."""
    for row in rows:
        if "error" in row:
            failed.append(row["error"])
        yield row


def make_report(bar: tqdm) -> Callable[[float], None]:
    """A function that moves the bar by so many rows, which may be parts of rows."""
    done = 0.0

    def report(rows: float) -> None:
        nonlocal done
        done += rows
        bar.update(round(done) - bar.n)

    return report


def print_lines(lines: Iterable[str]) -> None:
    """Write to standard output, as far as somebody reads it."""
    try:
        for line in lines:
            sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:  # as `head` does: what follows is not wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
