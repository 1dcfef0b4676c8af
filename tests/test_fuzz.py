"""Every reader makes the right thing of an input, or refuses it by file and line: no other error leaves one."""

from tests.fuzz.reader import Reader, fuzz
from tests.fuzz.table import READERS

import datasets
import pytest

NAMES = [reader.name for reader in READERS]


@pytest.fixture(scope="module", autouse=True)
def no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


# Hypothesis draws other inputs with other modules loaded, and of some readers' a tenth is accepted.
FEWEST = 80


@pytest.mark.parametrize("reader", READERS, ids=NAMES)
def test_an_input_is_read_rightly_or_refused_by_its_line(reader: Reader):
    tally = fuzz(reader, max(8 * reader.share, FEWEST))
    assert tally.accepted, f"nothing was accepted: {tally}"


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=NAMES)
def test_so_are_many_other_inputs(reader: Reader):
    tally = fuzz(reader, 80 * reader.share, number=2)
    assert tally.accepted, f"nothing was accepted: {tally}"


def test_every_format_and_every_recipe_is_among_them():
    assert len(set(NAMES)) == len(NAMES) == 28
    for what in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".conll", "parallel", "config files", "manifest.json"):
        assert any(what in name for name in NAMES), what
    for recipe in ("sentiment", "ner", "translation", "summarization", "qa", "dialogue"):
        assert f"rows of {recipe}" in NAMES
