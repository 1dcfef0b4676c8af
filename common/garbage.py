"""Python's garbage collector: a million objects of imported modules are not searched again and again."""

import gc

WHILE_IMPORTING = 100_000  # new objects before the next search; Python's own number is 700


def search_rarely() -> None:
    """Importing makes objects of which none becomes garbage: until `search_as_usual` they are hardly searched.

    A number that was set before stays.
    """
    if gc.get_threshold()[0] == 700:
        gc.set_threshold(WHILE_IMPORTING, *gc.get_threshold()[1:])


def search_as_usual() -> None:
    """From here on Python searches as often as it does by itself."""
    if gc.get_threshold()[0] == WHILE_IMPORTING:
        gc.set_threshold(700, *gc.get_threshold()[1:])


def settle_imports() -> None:
    """What there is now is taken for good and never searched, the rest from here on as often as Python does.

    Trainer has everything searched at the start of each training, which takes half a second otherwise; a process that
    is forked, as a worker that loads data, would get a copy of its own of all that its search touches. This is for a
    program that has just begun: in a notebook there is what becomes garbage later, as there is after a first training,
    so that a second call does nothing.
    """
    search_as_usual()
    if gc.get_freeze_count() == 0:
        gc.freeze()
