import json
import platform
import resource
import subprocess
import sys

from common.allocator import OWN_SETTINGS
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


def count_faults(wish: str, **environment: str) -> list:
    env = {name: value for name, value in make_environment().items() if name not in OWN_SETTINGS} | environment
    command = [sys.executable, "-c", SCRIPT, wish]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_memory_is_taken_from_the_system_a_few_times_and_then_kept():
    kept, first, *later = count_faults("keep")
    assert kept and first > PAGES / 2 and max(later[-5:]) < PAGES / 100


def test_by_default_it_is_taken_again_each_time():
    """Else the setting would be of no use, and had better go."""
    assert min(count_faults("leave")[1:]) > PAGES / 2


def test_settings_of_the_users_own_stay():
    assert count_faults("keep", MALLOC_MMAP_THRESHOLD_="131072")[0] is False
