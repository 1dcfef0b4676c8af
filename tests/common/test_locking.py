"""common/locking.py: one run at a time in a directory."""

import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.locking import LOCK, hold_directory, release_directory
from tests.conftest import ROOT

import pytest

HOLD = (
    "import sys; from pathlib import Path; from common.locking import hold_directory; hold_directory(Path(sys.argv[1]))"
)


def hold_elsewhere(directory: Path) -> subprocess.Popen:
    """A process that holds the directory until it is killed or its input ends."""
    code = f"{HOLD}; print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_directory_in_use_is_refused_and_its_holder_named(tmp_path):
    holder = hold_elsewhere(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path} is in use by another run \(process {holder.pid} on .*\): wait"):
        hold_directory(tmp_path, patience=0.3)
    holder.kill()
    holder.wait()


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    holder = hold_elsewhere(tmp_path)
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    hold_directory(tmp_path, patience=0)
    release_directory(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_run_waits_for_one_that_is_just_ending(tmp_path):
    holder = hold_elsewhere(tmp_path)
    waiting = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT)
    holder.communicate("")
    assert waiting.wait(60) == 0


def test_the_same_process_may_hold_a_directory_twice(tmp_path):
    hold_directory(tmp_path / "new")
    hold_directory(tmp_path / "new", patience=0)
    release_directory(tmp_path / "new")
    release_directory(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_directory_that_was_released_can_be_held_by_another(tmp_path):
    hold_directory(tmp_path)
    release_directory(tmp_path)
    holder = hold_elsewhere(tmp_path)
    holder.kill()
    holder.wait()
