"""The whole table: a row for each fault of the five groups."""

from tests.faults import checkpoints, data, process, ranks

FAULTS = [*process.FAULTS, *ranks.PROCESS_FAULTS, *checkpoints.FAULTS, *ranks.CHECKPOINT_FAULTS, *data.FAULTS]
