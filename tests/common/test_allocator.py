import json
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace

from common.allocator import OWN_SETTINGS
from common.callbacks import GiveBackGaps, make_callbacks
from tests.conftest import ROOT, make_environment

import pytest

# Page faults of a tensor as large as one that was freed, twenty times.
SCRIPT = """
import json, resource, sys
import common.allocator as allocator
import torch
kept = sys.argv[1] == "keep" and allocator.keep_freed_memory()
def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([kept, *(fill() for _ in range(20))]))
"""
PAGES = 64 * 2**20 // resource.getpagesize()
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which keeps its own way")


def run_script(script: str, *arguments: str, **environment: str) -> list:
    """What the script prints, in a process of its own without settings of the user's."""
    env = {name: value for name, value in make_environment().items() if name not in OWN_SETTINGS} | environment
    command = [sys.executable, "-c", script, *arguments]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_memory_is_taken_from_the_system_a_few_times_and_then_kept():
    kept, first, *later = run_script(SCRIPT, "keep")
    assert kept and first > PAGES / 2 and max(later[-5:]) < PAGES / 100


def test_by_default_it_is_taken_again_each_time():
    """Else the setting would be of no use, and had better go."""
    assert min(run_script(SCRIPT, "leave")[1:]) > PAGES / 2


def test_settings_of_the_users_own_stay():
    assert run_script(SCRIPT, "keep", MALLOC_MMAP_THRESHOLD_="131072")[0] is False


# Steps of 64, 64 and 192 tensors of a megabyte, between which something stays: the megabytes kept at the end of each.
STEPS = """
import json, sys
import common.allocator as allocator
import psutil, torch
measure = lambda: psutil.Process().memory_info().rss
allocator.keep_freed_memory()
gaps, stays, kept, start = allocator.Gaps(*map(int, sys.argv[1:])), [], [], measure()
for number in (64, 64, 192):
    tensors = []
    for _ in range(number):
        tensors.append(torch.ones(2**18))
        stays.append(torch.ones(2**8))
    del tensors
    gaps.give_back()
    kept.append((measure() - start) / 2**20)
print(json.dumps(kept))
"""


@pytest.mark.parametrize(
    ("least_kept", "patience", "is_kept"),
    [
        (0, 1, [False, True, False]),  # the second step shows what one takes; the third takes much more
        (2**30, 1, [False, True, True]),  # less than is kept in any case
        (0, 2, [True, False, True]),  # only in each second step
        (0, 3, [True, True, False]),
    ],
)
def test_what_a_step_needs_is_kept_and_what_has_become_much_more_is_given_back(least_kept, patience, is_kept):
    megabytes = run_script(STEPS, str(least_kept), str(patience))
    assert [size > 32 for size in megabytes] == is_kept and max(megabytes) > 60


@pytest.mark.parametrize("is_kept", [True, False])
def test_gaps_are_looked_for_where_memory_is_kept(is_kept):
    settings = {"save_total_limit": None, "identity": {}, "early_stopping_patience": None}
    callbacks = make_callbacks(SimpleNamespace(keeps_freed_memory=is_kept, **settings))
    assert any(isinstance(callback, GiveBackGaps) for callback in callbacks) == is_kept


@pytest.mark.parametrize("event", ["on_step_end", "on_prediction_step"])
def test_they_are_looked_for_after_each_step(event):
    callback = GiveBackGaps()
    getattr(callback, event)(None, None, None)
    assert callback.gaps.steps == 1
