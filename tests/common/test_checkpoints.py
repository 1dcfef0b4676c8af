import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

from common.checkpoints import (
    SealCheckpoints,
    find_defect,
    find_newest_checkpoint,
    list_checkpoints,
    seal_checkpoint,
)
from common.provenance import compute_sha256

import pytest

FILES = {
    "model.safetensors": b"weights" * 1000,
    "trainer_state.json": b"{}",
    "empty": b"",
    "deep/er/rng_state.pth": b"1",
}


def write_checkpoint(output_dir: Path, step: int | str, sealed: bool = True) -> Path:
    directory = output_dir / f"checkpoint-{step}"
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if sealed:
        seal_checkpoint(directory)
    return directory


def list_names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


# Sealing


def test_a_sealed_checkpoint_is_whole_and_its_files_are_as_they_were(tmp_path):
    directory = write_checkpoint(tmp_path, 5)
    assert find_defect(directory) is None
    assert list_names(directory) == sorted([*FILES, "manifest.json"])
    assert all((directory / name).read_bytes() == content for name, content in FILES.items())


def test_the_manifest_holds_size_and_sha256_of_every_file(tmp_path):
    manifest = json.loads((write_checkpoint(tmp_path, 5) / "manifest.json").read_text())["files"]
    assert set(manifest) == set(FILES)
    assert manifest["model.safetensors"]["bytes"] == 7000
    # printf '' | sha256sum; printf '{}' | sha256sum
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    braces = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert manifest["empty"] == {"bytes": 0, "sha256": empty}
    assert manifest["trainer_state.json"] == {"bytes": 2, "sha256": braces}
    assert compute_sha256(tmp_path / "checkpoint-5" / "empty") == empty


def test_sealing_again_counts_the_files_of_now(tmp_path):
    directory = write_checkpoint(tmp_path, 5)
    (directory / "model.safetensors").write_bytes(b"other weights")
    assert find_defect(directory) is not None
    seal_checkpoint(directory)
    assert find_defect(directory) is None


def test_a_seal_that_was_broken_off_does_not_spoil_the_next_one(tmp_path):
    """The run is killed while it seals, goes on from the checkpoint before, and saves the same step again."""
    directory = write_checkpoint(tmp_path, 5, sealed=False)
    (directory / "manifest.json.tmp").write_text('{"model.safe')
    seal_checkpoint(directory)
    assert find_defect(directory) is None


def cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip_bit(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[3500] ^= 1
    path.write_bytes(content)


def replace_manifest(text: str):
    return lambda directory: (directory / "manifest.json").write_text(text)


DAMAGES = {
    "no manifest": (lambda d: (d / "manifest.json").unlink(), ["incomplete", "manifest.json"]),
    "cut": (cut, ["model.safetensors", "6999 bytes", "7000"]),
    "grown": (lambda d: (d / "empty").write_bytes(b"1"), ["empty", "1 bytes", "0"]),
    "one bit": (flip_bit, ["model.safetensors", "corrupt"]),
    "missing": (lambda d: (d / "trainer_state.json").unlink(), ["trainer_state.json", "missing"]),
    "missing below": (lambda d: shutil.rmtree(d / "deep"), ["deep/er/rng_state.pth", "missing"]),
    "a directory instead": (lambda d: ((d / "empty").unlink(), (d / "empty").mkdir()), ["empty", "missing"]),
    "empty manifest": (replace_manifest(""), ["manifest.json"]),
    "cut manifest": (replace_manifest('{"model.safetensors": {"byt'), ["manifest.json"]),
    "manifest of nothing": (replace_manifest("{}"), ["manifest.json"]),
    "manifest of no files": (replace_manifest('{"run": {}, "files": {}}'), ["manifest.json", "names no files"]),
    "manifest of something else": (replace_manifest('["model.safetensors"]'), ["manifest.json"]),
    "manifest without run": (replace_manifest('{"files": {"empty": {"bytes": 0, "sha256": ""}}}'), ["manifest.json"]),
    "manifest without hashes": (
        replace_manifest('{"run": {}, "files": {"model.safetensors": 7000}}'),
        ["manifest.json", "without size"],
    ),
    "binary manifest": (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe"), ["manifest.json"]),
    "all gone": (shutil.rmtree, ["no such directory"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_and_named(damage, tmp_path):
    directory = write_checkpoint(tmp_path, 5)
    do_damage, named = DAMAGES[damage]
    do_damage(directory)
    defect = find_defect(directory)
    assert defect is not None
    assert [text for text in named if text not in defect] == []


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-5").write_text("a file")
    assert "no such directory" in find_defect(tmp_path / "checkpoint-5")


# Finding


def test_checkpoints_are_listed_by_step_newest_first_and_nothing_else_is(tmp_path):
    for step in (9, 10, 100, 20):
        write_checkpoint(tmp_path, step)
    for name in ("golden", "30-copy", "", "5.bak", "x40"):
        write_checkpoint(tmp_path, name)
    (tmp_path / "my-checkpoint-50").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-100", "checkpoint-20", "checkpoint-10", "checkpoint-9",
    ]  # fmt: skip


def test_the_newest_whole_checkpoint_is_found_by_step_whatever_the_file_times(tmp_path, capsys):
    for step, time in ((10, 3_000_000), (20, 1_000_000), (9, 2_000_000)):
        os.utime(write_checkpoint(tmp_path, step), (time, time))
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    assert capsys.readouterr().out == ""


def test_newer_checkpoints_that_are_not_whole_are_set_aside_and_named_with_the_reason(tmp_path, capsys):
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, step, sealed=step != 40)
    cut(tmp_path / "checkpoint-10")
    flip_bit(tmp_path / "checkpoint-30")
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"Setting {tmp_path / 'checkpoint-40'} aside as checkpoint-40.corrupt: incomplete")
    assert lines[1].startswith(f"Setting {tmp_path / 'checkpoint-30'} aside as checkpoint-30.corrupt: model.safetens")
    kept = ["checkpoint-10", "checkpoint-20", "checkpoint-30.corrupt", "checkpoint-40.corrupt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert list_names(tmp_path / "checkpoint-40.corrupt") == sorted(FILES)


def test_of_the_checkpoints_set_aside_the_newest_two_are_kept(tmp_path):
    """A job that is killed again and again while it saves must not fill the disk."""
    (tmp_path / "checkpoint-golden.corrupt").mkdir()
    for step in (30, 10, 20, 30):
        write_checkpoint(tmp_path, step, sealed=False)
        assert find_newest_checkpoint(tmp_path) is None
    kept = ["checkpoint-20.corrupt", "checkpoint-30.corrupt", "checkpoint-golden.corrupt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_without_a_whole_checkpoint_there_is_none(tmp_path, capsys):
    assert find_newest_checkpoint(tmp_path) is None
    assert find_newest_checkpoint(tmp_path / "missing") is None
    assert capsys.readouterr().out == ""
    write_checkpoint(tmp_path, 10, sealed=False)
    write_checkpoint(tmp_path, "golden")
    assert find_newest_checkpoint(tmp_path) is None
    assert "checkpoint-10" in capsys.readouterr().out


# Sealing and deleting while training


def save_steps(output_dir: Path, steps, total_limit: int | None, best: str | None = None) -> list[str]:
    """What is in output_dir after a run has saved these steps, one after the other."""
    callback = SealCheckpoints(total_limit)
    for step in steps:
        write_checkpoint(output_dir, step, sealed=False)
        state = SimpleNamespace(global_step=step, best_model_checkpoint=best)
        callback.on_save(SimpleNamespace(output_dir=str(output_dir)), state, SimpleNamespace())
    return sorted(path.name for path in output_dir.iterdir())


def test_each_checkpoint_is_sealed_when_it_is_saved(tmp_path):
    assert save_steps(tmp_path, [10, 20, 30], None) == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    assert [find_defect(path) for path in tmp_path.iterdir()] == [None, None, None]


def test_the_oldest_beyond_the_limit_are_deleted(tmp_path):
    assert save_steps(tmp_path, [8, 9, 10, 11, 100], 3) == ["checkpoint-10", "checkpoint-100", "checkpoint-11"]


@pytest.mark.parametrize("total_limit", [0, 1, 2])
def test_the_last_two_are_always_kept(tmp_path, total_limit):
    """Of one alone nothing would be left where it turns out damaged."""
    assert save_steps(tmp_path, [10, 20, 30, 40], total_limit) == ["checkpoint-30", "checkpoint-40"]


def test_the_best_is_kept_however_old_it_is(tmp_path, monkeypatch):
    best = str(tmp_path / "checkpoint-10")
    assert save_steps(tmp_path, [10, 20, 30, 40], 2, best) == ["checkpoint-10", "checkpoint-30", "checkpoint-40"]


def test_the_best_may_be_written_as_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = save_steps(tmp_path, [10, 20, 30, 40], 2, "./checkpoint-10")
    assert names == ["checkpoint-10", "checkpoint-30", "checkpoint-40"]


def test_the_oldest_is_the_one_of_the_lowest_step_not_of_the_oldest_files(tmp_path):
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step)
    os.utime(tmp_path / "checkpoint-30", (1_000_000, 1_000_000))
    os.utime(tmp_path / "checkpoint-10", (4_000_000_000, 4_000_000_000))
    assert save_steps(tmp_path, [40], 2) == ["checkpoint-30", "checkpoint-40"]


def test_what_is_not_ours_is_left_alone(tmp_path):
    for name in ("golden", "1-copy"):
        write_checkpoint(tmp_path, name)
    (tmp_path / "checkpoint-2").write_text("a file of the user")
    (tmp_path / "plots").mkdir()
    kept = {"checkpoint-golden", "checkpoint-1-copy", "checkpoint-2", "plots"}
    assert set(save_steps(tmp_path, [10, 20, 30, 40], 2)) == kept | {"checkpoint-30", "checkpoint-40"}
    assert (tmp_path / "checkpoint-2").read_text() == "a file of the user"


def test_a_checkpoint_without_seal_neither_counts_nor_is_deleted(tmp_path):
    write_checkpoint(tmp_path, 15, sealed=False)
    assert save_steps(tmp_path, [10, 20, 30], 2) == ["checkpoint-15", "checkpoint-20", "checkpoint-30"]
