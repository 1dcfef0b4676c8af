"""The whole table: a row for each fault of the five groups."""

from tests.faults import checkpoints, config, data, process, ranks, security

FAULTS = [
    *process.FAULTS,
    *ranks.PROCESS_FAULTS,
    *checkpoints.FAULTS,
    *ranks.CHECKPOINT_FAULTS,
    *data.FAULTS,
    *config.FAULTS,
    *security.FAULTS,
]
