"""Every reader takes an input and makes the right thing of it, or refuses it by file and line: no other error leaves."""

from tests.fuzz.reader import Reader, fuzz
from tests.fuzz.table import READERS

import pytest

NAMES = [reader.name for reader in READERS]


@pytest.mark.parametrize("reader", READERS, ids=NAMES)
def test_an_input_is_read_rightly_or_refused_by_its_line(reader: Reader):
    tally = fuzz(reader, 40 * reader.share // 4)
    assert tally.accepted and tally.refused, tally
