"""common/disk.py: what is a failed write, and where nothing can be written."""

import errno

from common.disk import MOST_LOST, LostSaves, check_writable, describe_write_failure
from common.errors import UserError

import pytest
from safetensors import SafetensorError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full (No space left on device)"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "the disk is full (Error while serializing: I/O error: No space left on device (os error 28))",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "a write failed, as on a full disk",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("No space left on device"), None),
    ],
)
def test_a_failed_write_is_told_from_other_errors(error, expected):
    assert describe_write_failure(error) == expected


def test_a_directory_is_tried_without_leaving_anything(tmp_path):
    check_writable(tmp_path / "new" / "deeper")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file: choose another"):
        check_writable(tmp_path / "file")


def test_the_third_checkpoint_lost_in_a_row_ends_the_run(tmp_path, capsys):
    lost = LostSaves()
    for step in range(MOST_LOST - 1):
        (tmp_path / f"checkpoint-{step}").mkdir()
        lost.give_up(tmp_path / f"checkpoint-{step}", "no room", is_first_process=True)
    lost.note_success()
    for step in range(MOST_LOST - 1):
        lost.give_up(tmp_path / f"checkpoint-{step}", "no room", is_first_process=True)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out.count("The run goes on") == 4
    with pytest.raises(UserError, match="third in a row"):
        lost.give_up(tmp_path / "checkpoint-9", "no room", is_first_process=True)
