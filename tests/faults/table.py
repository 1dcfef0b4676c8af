"""The whole table: a row for each fault of the five groups."""

from tests.faults import (
    checkpoints,
    config,
    conversations,
    files,
    process,
    questions,
    ranks,
    security,
    services,
    tables,
    texts,
    values,
    words,
)
from tests.faults.fault import Fault

import pytest

GROUPS = (
    process.FAULTS,
    checkpoints.FAULTS,
    ranks.FAULTS,
    files.FAULTS,
    tables.FAULTS,
    values.FAULTS,
    words.FAULTS,
    questions.FAULTS,
    texts.FAULTS,
    conversations.FAULTS,
    config.FAULTS,
    security.FAULTS,
    services.FAULTS,
)
# By letter and number.
FAULTS = sorted(
    (fault for group in GROUPS for fault in group), key=lambda fault: (fault.number[0], int(fault.number[1:]))
)


def list_cases(faults: list[Fault], letters: str) -> list:
    """The cases of the faults of these groups as parameters of a test, the slow ones marked."""
    return [
        pytest.param(fault, case, id=f"{fault.number} {case.name}", marks=[pytest.mark.slow] if case.is_slow else [])
        for fault in faults
        if fault.number[0] in letters
        for case in fault.cases
    ]
