"""The whole table: a row for each fault of the five groups."""

from tests.faults import data, services

FAULTS = [*services.FAULTS, *data.FAULTS]
