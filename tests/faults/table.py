"""The whole table: a row for each fault of the five groups."""

from tests.faults import checkpoints, conversations, files, process, questions, tables, texts, values, words

# By number: what is wrong with a file, with the values in it, and with what one task alone reads.
TASKS = [*words.FAULTS, *questions.FAULTS, *texts.FAULTS, *conversations.FAULTS]
DATA = [*files.FAULTS, *tables.FAULTS, *values.FAULTS, *TASKS]
FAULTS = [*process.FAULTS, *checkpoints.FAULTS, *sorted(DATA, key=lambda fault: int(fault.number[1:]))]
