"""The tables of what was run with which recipe, in two READMEs: `python -m tests.tables` writes them.

Their cells are what the tests last saw on this machine, kept in outputs/. What they have not seen stays as it is.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- written by python -m tests.tables -->", "<!-- end of the table -->"
RECIPES = ("sentiment", "ner", "qa", "translation", "summarization", "dialogue")
COLUMNS = list(enumerate(RECIPES, 1))


@dataclass
class Table:
    """A table between two marks of a README, with a column for each recipe."""

    name: str  # what its rows are
    readme: Path
    rows: tuple[str, ...]
    ending: str  # of the names of rows, as the README has them
    shown: dict[str, str]  # what a test shows -> what the cell says of it
    unseen: str

    @property
    def outcomes(self) -> Path:
        """A line for each test: row, recipe, what it shows, whether it held."""
        return ROOT / "outputs" / f"{self.name}s.jsonl"

    @contextmanager
    def record(self, row: str, recipe: str, shown: str) -> Iterator[None]:
        """Keep whether what is tested within it held."""
        self._append(row, recipe, shown, False)
        yield
        self._append(row, recipe, shown, True)

    def _append(self, *outcome) -> None:
        self.outcomes.parent.mkdir(exist_ok=True)
        with self.outcomes.open("a") as file:
            file.write(json.dumps(outcome) + "\n")

    def read_outcomes(self) -> dict[tuple[str, str], str]:
        """The cells that were tested: what held when it was last tested."""
        lines = self.outcomes.read_text().splitlines() if self.outcomes.is_file() else []
        last = {(row, recipe, shown): held for row, recipe, shown, held in map(json.loads, lines)}
        cells = {}
        for shown, words in self.shown.items():
            for (row, recipe, tested), held in last.items():
                if tested == shown:
                    cells.setdefault((row, recipe), []).append(words if held else f"{words}: FAILS")
        return {place: ", ".join(cell) for place, cell in cells.items()}

    def read_lines(self) -> list[list[str]]:
        """The cells of the table in the README, its head first."""
        head, _, *lines = re.search(f"{BEGIN}\n(.*){END}", self.readme.read_text(), re.DOTALL).group(1).splitlines()
        return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in (head, *lines)]

    def write(self) -> None:
        """Put what was seen into the table, and leave its other cells as they are."""
        _, *lines = self.read_lines()
        cells = {(line[0].removesuffix(self.ending), name): line[at] for line in lines for at, name in COLUMNS}
        cells |= self.read_outcomes()
        drawn = [BEGIN, f"| {self.name} | {' | '.join(RECIPES)} |", "|---" * (len(RECIPES) + 1) + "|"]
        for row in self.rows:
            shown = [cells.get((row, recipe), self.unseen) for recipe in RECIPES]
            drawn.append(f"| `{row}{self.ending}` | {' | '.join(shown)} |")
        text = re.sub(rf"{BEGIN}.*?{END}", lambda _: "\n".join([*drawn, END]), self.readme.read_text(), flags=re.DOTALL)
        self.readme.write_text(text)

    def check_names(self) -> None:
        """Fail where the README's table has other rows or columns."""
        head, *lines = self.read_lines()
        assert head == [self.name, *RECIPES] and all(len(line) == len(head) for line in lines)
        assert [line[0] for line in lines] == [f"{row}{self.ending}" for row in self.rows]


SHARDED = (
    "multi_gpu", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero2_offload",
    "deepspeed_zero3_offload", "fsdp2",
)  # fmt: skip
LAUNCHERS = Table(
    "launcher",
    ROOT / "accelerate_configs" / "README.md",
    (*SHARDED, "multi_node", "single_gpu"),
    ".yaml",
    {"trains": "same", "accumulates": "accumulates", "resumes": "resumes"},
    "not run",
)
ADAPTERS = Table(
    "adapter",
    ROOT / "README.md",
    (
        "lora", "rslora", "dora", "pissa", "all-linear", "dora, all-linear", "pissa, all-linear", "adalora", "prefix",
        "prompt", "p_tuning", "ia3", "vera", "oft", "boft", "ln_tuning", "lora, 8 bits", "lora, 4 bits",
    ),
    "",
    {"works": "yes", "refused": "refused"},
    "",
)  # fmt: skip


if __name__ == "__main__":
    LAUNCHERS.write()
    ADAPTERS.write()
