"""common/data_cache.py and cache_keys.py: what was prepared is found again, and never what was prepared from else."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from common import data_cache
from common.cache_keys import compute_key
from common.data import map_rows
from tests.conftest import ROOT, build_tokenizer, make_environment

import datasets
import pytest
from datasets import Dataset
from tokenizers import normalizers
from transformers import CTRLTokenizer

ROWS = {"text": ["Ada lives in Paris", "Bob", "Paris is large"], "label": [1, 0, None]}
BONUS = 1
# Recipes are files that are run, so that the function that prepares the rows is one of __main__.
SCRIPT = """
import json
import sys

import my_rows
from common.data import map_rows

import datasets
from transformers import AutoTokenizer


def prepare(rows, indices, tokenizer, names, calls):
    with open(calls, "a") as file:
        file.write("called ")
    ids = tokenizer(rows["text"], truncation=True, max_length=6)["input_ids"]
    return {"ids": [[*row, my_rows.BONUS] for row in ids], "row": indices, "names": [sorted(names)] * len(indices)}


if __name__ == "__main__":
    rows = datasets.Dataset.from_dict(json.loads(sys.argv[1]))
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
    names = {"red", "green", "blue"}
    prepared = map_rows(rows, prepare, tokenizer=tokenizer, names=names, calls=sys.argv[3])
    print(json.dumps([prepared.to_list(), str(prepared.features), len(prepared.cache_files)]))
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """The directory of a cache that no other test uses, in this process too."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "trainer-recipes"


class Script:
    """Runs the script in processes of their own, each with another seed of the hashes."""

    def __init__(self, folder: Path):
        self.file, self.calls, self.tokenizer = folder / "run.py", folder / "calls", folder / "tokenizer"
        self.sibling, self.cache, self.seed = folder / "my_rows.py", folder / "cache", 0
        self.file.write_text(SCRIPT)
        self.sibling.write_text("BONUS = 1\n")
        build_tokenizer().save_pretrained(self.tokenizer)

    def start(self, root: Path = ROOT) -> subprocess.Popen:
        self.seed += 1
        environment = {"HF_DATASETS_CACHE": self.cache, "PYTHONHASHSEED": self.seed, "PYTHONPATH": root}
        environment = make_environment(**{name: str(value) for name, value in environment.items()})
        command = [sys.executable, self.file, json.dumps(ROWS), self.tokenizer, self.calls]
        return subprocess.Popen(
            [*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, root: Path = ROOT) -> tuple[list, bool]:
        """What the script returned, and whether it prepared anything."""
        before = count_calls(self.calls)
        process = self.start(root)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        *self.said, result = out.splitlines()
        return json.loads(result), count_calls(self.calls) > before

    def list_files(self) -> list[Path]:
        return sorted((self.cache / "trainer-recipes").iterdir())


@pytest.fixture
def script(tmp_path) -> Script:
    return Script(tmp_path)


def count_calls(path: Path) -> int:
    return path.read_text().count("called") if path.exists() else 0


def test_another_process_finds_the_same_rows_until_a_source_text_is_another(script, tmp_path):
    first, prepared = script.run()
    assert prepared and [row["row"] for row in first[0]] == [0, 1, 2] and first[2] == 1
    assert all(row["ids"][-1] == 1 and row["names"] == ["blue", "green", "red"] for row in first[0])
    (file,) = script.list_files()
    copy = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "common", copy / "common", ignore=shutil.ignore_patterns("__pycache__"))
    assert script.run(copy) == (first, False) and script.list_files() == [file] and script.said == []
    with (copy / "common" / "windows.py").open("a") as windows:
        windows.write("# changed\n")
    assert script.run(copy) == (first, True)
    script.sibling.write_text("BONUS = 2\n")
    second, prepared = script.run()
    assert prepared and [row["ids"][:-1] + [1] for row in second[0]] == [row["ids"] for row in first[0]]
    script.file.write_text(SCRIPT.replace("my_rows.BONUS]", "my_rows.BONUS + 1]"))
    third, prepared = script.run()
    assert prepared and all(row["ids"][-1] == 3 for row in third[0]) and len(script.list_files()) == 4


def test_two_processes_at_once_leave_one_whole_file(script):
    processes = [script.start() for _ in range(2)]
    results = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and results[0] == results[1]
    assert len(script.list_files()) == 1
    calls = count_calls(script.calls)
    assert script.run() == (json.loads(results[0]), False) and 1 <= calls <= 2


def test_a_full_disk_costs_one_line_and_leaves_no_part_of_a_file(script):
    limit = "from resource import RLIMIT_FSIZE, setrlimit\n    setrlimit(RLIMIT_FSIZE, (700, 700))\n    "
    script.file.write_text(SCRIPT.replace("names = {", f"{limit}names = {{"))
    rows, prepared = script.run()
    assert prepared and len(rows[0]) == 3 and rows[2] == 0
    (line,) = script.said
    assert line.startswith("Note: prepared rows are not kept for the next run: ") and "File too large" in line
    assert script.list_files() == []


def prepare(rows, indices, tokenizer, names, calls):
    with Path(calls).open("a") as file:
        file.write("called ")
    ids = tokenizer(rows["text"], truncation=True, max_length=6)["input_ids"]
    return {"ids": [[*row, BONUS] for row in ids], "row": indices, "names": [sorted(names)] * len(indices)}


def test_what_decides_the_result_makes_it_anew(own_cache, tmp_path, monkeypatch):
    rows, tokenizer, lower, names = Dataset.from_dict(ROWS), build_tokenizer(), build_tokenizer(), {"red", "blue"}
    calls = tmp_path / "calls"
    lower.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not is_lowercase(tokenizer))
    added, template, control = build_tokenizer(), build_tokenizer(), build_tokenizer()
    added.add_tokens(["Ada lives"])
    template.chat_template = "{{ messages }}"
    control.backend_tokenizer.encode_special_tokens = True

    def run(rows=rows, tokenizer=tokenizer, names=names, workers=None, overwrite=False) -> bool:
        before = count_calls(calls)
        prepared = map_rows(rows, prepare, workers, overwrite, tokenizer=tokenizer, names=names, calls=str(calls))
        assert prepared["row"][:] == list(range(len(rows)))
        expected = tokenizer(rows["text"][:], truncation=True, max_length=6)["input_ids"]
        assert prepared["ids"][:] == [[*ids, BONUS] for ids in expected]
        return count_calls(calls) > before

    assert run() and not run()
    # The tokenizer is another object by now, and has truncated; neither that nor the workers make a difference.
    tokenizer("one that was cut", truncation=True, max_length=3)
    assert not run(tokenizer=build_tokenizer()) and not run(workers=2) and not run(names={"blue", "red"})
    assert not run(rows.select([2, 1, 0]).select([2, 1, 0]))
    for changed in (
        rows.select([2, 1, 0]), rows.select([0, 1]), rows.rename_column("label", "class"),
        Dataset.from_dict({**ROWS, "label": [1.0, 0.0, None]}), Dataset.from_dict({**ROWS, "label": [1, 0, 0]}),
        Dataset.from_dict({**ROWS, "text": ["Ada lives in Rome", *ROWS["text"][1:]]}),
    ):  # fmt: skip
        assert run(changed) and not run(changed)
    for changed in (lower, added, template, control):
        assert run(tokenizer=changed) and not run(tokenizer=changed)
    assert run(names={"red"}) and not run(names={"red"})
    monkeypatch.setattr(sys.modules[__name__], "BONUS", 2)
    assert run() and not run()
    assert len(list(own_cache.iterdir())) == 13
    assert run(overwrite=True) and not run() and run(overwrite=True, workers=2) and not run()
    assert len(list(own_cache.iterdir())) == 13


def is_lowercase(tokenizer) -> bool:
    return tokenizer.backend_tokenizer.normalizer.normalize_str("A") == "a"


def test_a_slow_tokenizer_is_known_by_its_vocabulary_and_its_settings(tmp_path):
    rows = Dataset.from_dict(ROWS)
    keys = []
    for words in (["a", "b"], ["a", "b"], ["b", "a"]):
        path = tmp_path / "vocab.json"
        path.write_text(json.dumps({name: number for number, name in enumerate(["<unk>", "</s>", "<pad>", *words])}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = CTRLTokenizer(str(path), str(tmp_path / "merges.txt"))
        keys.append(compute_key(rows, double_values, {"tokenizer": tokenizer}))
        tokenizer.add_tokens(["ab"])
        keys.append(compute_key(rows, double_values, {"tokenizer": tokenizer}))
    assert keys[:2] == keys[2:4] and len(set(keys)) == 4 and None not in keys


@pytest.mark.parametrize("damage", ["truncated", "turned bit", "empty", "foreign", "another's"])
def test_a_damaged_file_is_made_anew(own_cache, tmp_path, damage):
    rows = Dataset.from_dict({"value": [1, 2, 3]})
    expected = [{"double": 2}, {"double": 4}, {"double": 6}]
    assert map_rows(rows, double_values, calls=str(tmp_path / "calls")).to_list() == expected
    (path,) = own_cache.iterdir()
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-40])
    elif damage == "turned bit":
        place = whole.index((4).to_bytes(8, "little"))
        path.write_bytes(whole[:place] + b"\x05" + whole[place + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(b"something else altogether, which is no Arrow file and longer than a digest")
    else:
        path.unlink()
        map_rows(rows.select([0]), double_values, calls=str(tmp_path / "calls"))
        (other,) = own_cache.iterdir()
        other.rename(path)
    before = (tmp_path / "calls").read_text()
    assert map_rows(rows, double_values, calls=str(tmp_path / "calls")).to_list() == expected
    assert (tmp_path / "calls").read_text() == f"{before}called " and path.read_bytes() == whole
    assert map_rows(rows, double_values, calls=str(tmp_path / "calls")).to_list() == expected
    assert (tmp_path / "calls").read_text() == f"{before}called "


def double_values(rows, indices, calls):
    with Path(calls).open("a") as file:
        file.write("called ")
    return {"double": [2 * value for value in rows["value"]]}


def test_a_cache_that_cannot_be_written_costs_one_line(own_cache, tmp_path, capsys):
    own_cache.parent.write_text("a file where the directory would be")
    rows = Dataset.from_dict({"value": [1, 2]})
    for _ in range(2):
        assert map_rows(rows, double_values, calls=str(tmp_path / "calls")).to_list() == [{"double": 2}, {"double": 4}]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Note: prepared rows are not kept for the next run: {own_cache}: ")
    assert count_calls(tmp_path / "calls") == 2


def test_files_that_no_run_has_used_for_a_month_go(own_cache):
    rows = Dataset.from_dict({"value": [1]})
    map_rows(rows, double_values, calls=os.devnull)
    (used,) = own_cache.iterdir()
    ages = {"unused.arrow": 31, "recent.arrow": 29, "killed.unfinished": 2, "written.unfinished": 0.5, "kept.txt": 99}
    for name, days in ages.items():
        (own_cache / name).touch()
        os.utime(own_cache / name, (time.time() - days * 86400,) * 2)
    os.utime(used, (time.time() - 31 * 86400,) * 2)
    map_rows(rows, double_values, calls=os.devnull)  # used, and so it stays
    map_rows(rows.rename_column("value", "other").rename_column("other", "value").select([0, 0]), double_values,
             calls=os.devnull)  # fmt: skip
    left = {path.name for path in own_cache.iterdir()}
    assert used.name in left and len(left) == 5 and left >= {"recent.arrow", "written.unfinished", "kept.txt"}


def test_kept_rows_are_mapped_from_their_file(own_cache):
    rows = Dataset.from_dict({"value": [1, 2]})
    for _ in range(2):
        kept = map_rows(rows, double_values, calls=os.devnull)
        (file,) = own_cache.iterdir()
        assert [entry["filename"] for entry in kept.cache_files] == [str(file)]
    assert kept.split == rows.split and kept.to_list() == [{"double": 2}, {"double": 4}]


def test_caching_that_is_switched_off_in_datasets_is_off_here(own_cache):
    rows = Dataset.from_dict({"value": [1]})
    datasets.disable_caching()
    try:
        assert map_rows(rows, double_values, calls=os.devnull).to_list() == [{"double": 2}]
    finally:
        datasets.enable_caching()
    assert not own_cache.exists()


class Opaque:
    """Something of which nobody can tell what it holds."""


def test_what_cannot_be_told_between_processes_is_prepared_anew_each_time(own_cache):
    rows = Dataset.from_dict({"value": [1]})
    shift = 1
    for function, arguments in (
        (lambda rows, indices: {"double": rows["value"]}, {}),
        (lambda rows, indices: {"double": [value + shift for value in rows["value"]]}, {}),
        (double_values, {"calls": Opaque()}),
        (partial(double_values, extra=[Opaque()]), {}),
        (print, {}),
    ):
        assert compute_key(rows, function, arguments) is None
    assert map_rows(rows, lambda rows, indices: {"double": [shift]}).to_list() == [{"double": 1}]
    assert not own_cache.exists()


def test_a_source_that_was_changed_after_the_process_had_begun_is_not_trusted(tmp_path):
    path = tmp_path / "late_rows.py"
    path.write_text("def prepare(rows, indices):\n    return {'value': indices}\n")
    rows = Dataset.from_dict({"value": [1]})
    sys.path.insert(0, str(tmp_path))
    try:
        import late_rows

        assert compute_key(rows, late_rows.prepare, {}) is None
        os.utime(path, (1, 1))
        assert compute_key(rows, late_rows.prepare, {}) is not None
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("late_rows", None)


def test_equal_values_of_different_kinds_have_different_keys():
    rows = Dataset.from_dict({"value": [1]})
    values = [1, 1.0, True, "1", b"1", [1], (1,), {1}, {1: 1}, {"1": 1}, None, Path("1"), {1, 2}]
    keys = {compute_key(rows, double_values, {"value": value}) for value in values}
    assert len(keys) == len(values) and None not in keys


def test_the_directory_is_that_of_the_settings_of_datasets(own_cache):
    assert data_cache.find_directory() == own_cache
