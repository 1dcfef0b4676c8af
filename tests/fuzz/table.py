"""All readers that are fuzzed."""

from tests.fuzz import contents, results, rows, sequences, settings

READERS = [*contents.READERS, *rows.READERS, *sequences.READERS, *settings.READERS, *results.READERS]
