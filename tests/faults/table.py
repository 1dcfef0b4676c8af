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
