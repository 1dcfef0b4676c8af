"""The whole table: a row for each fault of the five groups."""

from tests.faults import checkpoints, data, process

FAULTS = [*process.FAULTS, *checkpoints.FAULTS, *data.FAULTS]
