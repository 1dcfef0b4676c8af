"""common/garbage.py: what is imported is never searched for garbage, and all that comes after it is."""

import gc
import sys
import weakref

from common.arguments import TrainingArguments
from common.command_line import parse_arguments
from common.errors import UserError
from common.garbage import WHILE_IMPORTING, search_rarely, settle_imports
from common.prediction import load_predictor
from tests.conftest import ROOT, launch

import pytest


class Node:
    """Something that can refer to itself, so that only a search finds that nobody needs it."""


def make_circle() -> weakref.ref:
    node = Node()
    node.itself = node
    return weakref.ref(node)


@pytest.fixture
def as_at_the_start():
    """The collector as Python starts with it; afterwards as the tests have it."""
    threshold = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*threshold)
    gc.freeze()


def test_what_there_is_then_is_not_searched_and_all_that_follows_is(as_at_the_start):
    search_rarely()
    assert gc.get_threshold() == (WHILE_IMPORTING, 10, 10)
    gc.collect()
    kept = make_circle()
    settle_imports()
    later = make_circle()
    assert gc.get_threshold() == (700, 10, 10) and gc.get_freeze_count() > 100_000
    gc.collect()
    assert kept() is not None and later() is None


def test_a_second_training_of_a_process_keeps_nothing_of_the_first(as_at_the_start):
    settle_imports()
    left = make_circle()
    settle_imports()
    gc.collect()
    assert left() is None


def test_a_number_that_was_set_before_stays(as_at_the_start):
    gc.set_threshold(500, 5, 5)
    search_rarely()
    assert gc.get_threshold() == (500, 5, 5)
    settle_imports()
    assert gc.get_threshold() == (500, 5, 5)


def test_a_command_takes_what_is_imported_for_good(as_at_the_start, tmp_path, monkeypatch):
    search_rarely()
    monkeypatch.setattr(sys, "argv", ["run.py", "--output_dir", str(tmp_path)])
    parse_arguments(TrainingArguments)
    assert gc.get_threshold()[0] == 700 and gc.get_freeze_count() > 100_000


def test_a_process_of_the_users_own_is_searched_as_usual(as_at_the_start, tmp_path):
    """A notebook may hold models that it drops later."""
    search_rarely()
    parse_arguments(TrainingArguments, args=["--output_dir", str(tmp_path)])
    assert gc.get_threshold()[0] == 700 and gc.get_freeze_count() == 0
    search_rarely()
    with pytest.raises(UserError):
        load_predictor(tmp_path / "nothing")
    assert gc.get_threshold()[0] == 700 and gc.get_freeze_count() == 0


def test_it_is_so_from_the_first_import_on():
    """Recipes import `common` before the libraries."""
    run = launch([sys.executable, "-c", "import gc, common\nprint(gc.get_threshold()[0])"], PYTHONPATH=str(ROOT))
    assert run.stdout == f"{WHILE_IMPORTING}\n", run.stderr
