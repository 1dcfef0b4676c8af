"""The whole table: a row for each fault of the five groups."""

from tests.faults import conversations, files, questions, texts, values, words

# Each group by number: what is said of a file, of the values in it, and of each task's own.
DATA = [*files.FAULTS, *values.FAULTS, *words.FAULTS, *questions.FAULTS, *texts.FAULTS, *conversations.FAULTS]
FAULTS = sorted(DATA, key=lambda fault: int(fault.number[1:]))
