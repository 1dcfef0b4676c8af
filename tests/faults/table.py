"""The whole table: a row for each fault of the five groups."""

from tests.faults import config, data, security

FAULTS = [*data.FAULTS, *config.FAULTS, *security.FAULTS]
