"""The whole table: a row for each fault of the five groups."""

from tests.faults import files

FAULTS = [*files.FAULTS]
