"""What a fault is, how it is tried, and how what the run did about it is judged."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conftest import list_sample_flags
from tests.faults.forked import Run, start_recipe

RECIPES = ("sentiment", "ner", "translation", "summarization", "qa", "dialogue")
NER = ("ner",)  # alone is quick where all six share what is tried, and trying it trains
# The model of each recipe's demo, and what else it cannot do without.
NEEDED_FLAGS = {
    "sentiment": ["--from_scratch", "encoder_tiny"],
    "ner": ["--from_scratch", "encoder_tiny"],
    "translation": ["--from_scratch", "encoder_decoder_tiny", "--source_lang", "en", "--target_lang", "de"],
    "summarization": ["--from_scratch", "encoder_decoder_tiny"],
    "qa": ["--from_scratch", "encoder_tiny"],
    "dialogue": ["--from_scratch", "decoder_tiny"],
}
# From best to worst; a fault with several cases is as bad as its worst one.
VERDICTS = ("survives", "clear", "obscure", "loses", "silently wrong", "hangs", "lets in")


@dataclass(frozen=True)
class Finding:
    """What a run did about a fault: one of VERDICTS, and the words or files that show it."""

    verdict: str
    evidence: str = ""


@dataclass(frozen=True)
class Case:
    """One way to bring a fault about. `attempt` gets an empty folder, and says what came of it."""

    name: str  # unique within its fault: "ner", "ner, one row", ...
    attempt: Callable[[Path], Finding]
    is_slow: bool = False  # tried by `make test-all` only


@dataclass(frozen=True)
class Fault:
    """A row of the table. `plain` is the verdict on Hugging Face's own scripts, `wanted` the one that is promised.

    `untried` says why a fault cannot be brought about here; then there are no cases.
    """

    number: str  # letter of its group and number: "C14"
    what: str
    plain: str
    wanted: str
    cases: tuple[Case, ...] = ()
    untried: str = ""

    def __post_init__(self):
        assert self.plain in (*VERDICTS, "not measured") and self.wanted in ("survives", "clear"), self.number
        assert bool(self.cases) != bool(self.untried), f"{self.number}: either cases, or why there are none"
        assert len({case.name for case in self.cases}) == len(self.cases), f"{self.number}: two cases of one name"


def list_flags(recipe: str, folder: Path, *flags: object) -> list[object]:
    """The flags of four steps on the recipe's sample, with `folder`/result as output_dir; later ones win."""
    few = ["--max_steps", "4", "--max_train_samples", "32", "--max_eval_samples", "8", "--vocab_size", "600"]
    batch = ["--per_device_train_batch_size", "8", "--dtype", "float32", "--report_to", "none"]
    data = list_sample_flags(recipe, "train", "validation")
    wanted = ["--do_train", "--do_eval", "--output_dir", folder / "result"]
    return [*NEEDED_FLAGS[recipe], *few, *batch, *data, *wanted, *flags]


def run_recipe(recipe: str, *flags: object, timeout: float = 120, **environment: str) -> Run:
    """What a recipe said and did with these flags, run to its end in a process of its own."""
    return start_recipe(recipe, *flags, **environment).finish(timeout)


def judge_refusal(run: Run, pattern: str, kept: Iterable[Path] = (), absent: Iterable[Path] = ()) -> Finding:
    """clear where the run ended with one message that `pattern` is found in, and did nothing else.

    `kept` are files that must still be there, `absent` are those that must not have been written.
    """
    if run.timed_out:
        return Finding("hangs", run.tail())
    if run.code == 0:
        return Finding("silently wrong", run.tail())
    lost = [str(path) for path in kept if not path.exists()] + [str(path) for path in absent if path.exists()]
    if lost:
        return Finding("loses", f"{', '.join(lost)}: {run.tail()}")
    message = run.stderr[run.stderr.find("error: ") :]
    if "Traceback" in run.stderr + run.stdout or not re.search(pattern, message):
        return Finding("obscure", run.tail())
    return Finding("clear", message.strip())


def judge_survival(run: Run, is_right: bool, evidence: str = "") -> Finding:
    """survives where the run ended well and its result is right."""
    if run.timed_out:
        return Finding("hangs", run.tail())
    if run.code != 0:
        return Finding("obscure", run.tail())
    return Finding("survives" if is_right else "silently wrong", evidence or run.tail())


def spread(
    name: str,
    attempt: Callable[[str, Path], Finding],
    recipes: tuple[str, ...] = RECIPES,
    quick: tuple[str, ...] = RECIPES,
) -> tuple[Case, ...]:
    """A case for each recipe; `make test` tries those of the `quick` ones, since all six share what is tried."""
    return tuple(
        Case(f"{recipe}{', ' if name else ''}{name}", partial(attempt, recipe), is_slow=recipe not in quick)
        for recipe in recipes
    )
