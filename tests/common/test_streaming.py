import itertools
import json
from pathlib import Path
from types import SimpleNamespace

from common import data_cache
from common.arguments import DataArguments
from common.console import say, silence
from common.data import RowError, load_splits, map_rows, map_splits
from common.errors import UserError
from common.labels import number_labels
from common.nonfinite import ROW_NUMBER
from common.overview import describe_run
from common.streaming import (
    BLOCK,
    REMEMBERED,
    StreamedDataset,
    StreamedRows,
    begin_stream,
    check_streaming,
    for_each_block,
)
from common.tagging import convert_splits

import datasets
import pytest
from accelerate.data_loader import IterableDatasetShard
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.packaged_modules.json.json import Json

FEATURES = Features({"text": Value("string"), "labels": List(Value("string"))})


def read_row(row: dict) -> dict:
    if row["text"] == "":
        raise RowError("text: it is empty; write a text")
    return {"text": row["text"], "labels": [row["label"]]}


def write_rows(path: Path, texts: list[str], labels: list[str] | None = None) -> str:
    labels = labels or ["a"] * len(texts)
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def number_texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def load(size: int, *splits: str, **data_args) -> DatasetDict:
    """The splits of a stream whose blocks have `size` rows."""
    arguments = DataArguments(streaming=True, streaming_buffer_size=size, **data_args)
    return load_splits(arguments, {"text": ("text",), "label": ("label",)}, FEATURES, read_row, ("label",), splits)


def load_stream(size: int, *files: str, **data_args) -> StreamedDataset:
    return load(size, "train", train_file=list(files), **data_args)["train"]


def take_blocks(stream: StreamedDataset, count: int, column: str = "text") -> list[list]:
    return [list(block[column]) for block in itertools.islice(stream.iterate_blocks(), count)]


# Blocks


def test_a_stream_gives_the_rows_of_all_files_in_blocks_and_then_the_first_again(tmp_path):
    first = write_rows(tmp_path / "a.jsonl", number_texts(3))
    second = write_rows(tmp_path / "b.jsonl", ["x", "y"])
    stream = load_stream(2, first, second)
    assert list(stream["text"]) == ["text 0", "text 1"]  # what stands for all of them
    assert take_blocks(stream, 5) == [
        ["text 0", "text 1"],
        ["text 2", "x"],
        ["y"],
        ["text 0", "text 1"],
        ["text 2", "x"],
    ]
    assert take_blocks(stream, 3, "origin") == [
        [f"{first}:1", f"{first}:2"],
        [f"{first}:3", f"{second}:1"],
        [f"{second}:2"],
    ]
    assert take_blocks(stream, 3, "id") == [["0", "1"], ["2", "3"], ["4"]]


def test_no_more_is_read_than_the_blocks_that_are_asked_for(tmp_path):
    path = Path(write_rows(tmp_path / "a.jsonl", number_texts(120)))
    path.write_text(path.read_text() + "this is no JSON\n")
    stream = load_stream(60, str(path))
    assert take_blocks(stream, 2)[1][-1] == "text 119"
    with pytest.raises(UserError, match=rf"^{path}:121:1: "):
        take_blocks(stream, 3)


def test_max_train_samples_is_where_the_stream_begins_again(tmp_path, capsys):
    stream = load_stream(2, write_rows(tmp_path / "a.jsonl", number_texts(9)), max_train_samples=3)
    assert take_blocks(stream, 4) == [["text 0", "text 1"], ["text 2"], ["text 0", "text 1"], ["text 2"]]
    assert capsys.readouterr().out == ""


def test_all_faults_of_a_block_are_told_with_their_places(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["one", "two", "", "four", ""])
    stream = load_stream(2, path)
    with pytest.raises(UserError) as caught:
        take_blocks(stream, 2)
    assert str(caught.value) == f"{path}:3: text: it is empty; write a text"
    path = write_rows(tmp_path / "b.jsonl", ["", "two", ""])
    with pytest.raises(UserError) as caught:
        load_stream(2, path)  # before a model is loaded
    assert str(caught.value) == f"{path}:1: text: it is empty; write a text"


def test_validation_rows_are_read_whole_and_never_taken_from_a_stream(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", number_texts(5))
    validation = write_rows(tmp_path / "validation.jsonl", ["v"] * 5)
    splits = load(2, "train", "validation", train_file=[train], validation_file=[validation])
    assert len(splits["validation"]) == 5 and not isinstance(splits["validation"], StreamedDataset)
    with pytest.raises(UserError, match="^streaming: validation rows are not taken from a stream: give a validation_"):
        load(2, "train", "validation", train_file=[train])


def test_a_stream_from_the_hub_is_read_without_being_loaded(monkeypatch, tmp_path):
    files = [write_rows(tmp_path / f"{number}.jsonl", [f"{number} a", f"{number} b"]) for number in range(2)]
    asked = []

    def load_dataset(path, name, revision, streaming):
        asked.append((path, revision, streaming))
        builder = Json(data_files={"train": files}, cache_dir=str(tmp_path / "cache"))
        return datasets.IterableDatasetDict(train=builder.as_streaming_dataset("train"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    stream = load(3, "train", dataset_name="me/set", dataset_revision="v1")["train"]
    assert take_blocks(stream, 3) == [["0 a", "0 b", "1 a"], ["1 b"], ["0 a", "0 b", "1 a"]]
    assert take_blocks(stream, 2, "origin")[1] == ["me/set[train] row 3"]
    assert set(asked) == {("me/set", "v1", True)} and not list(tmp_path.glob("cache/**/*.arrow"))


# What is made of them


def count_letters(rows: dict[str, list], indices: list[int], plus: int) -> dict[str, list]:
    """Two windows of each text."""
    twice = [index for index in indices for _ in range(2)]
    return {"input_ids": [[1] * (len(rows["text"][row - indices[0]]) + plus) for row in twice], "row": twice}


def test_every_block_is_made_as_the_first_is(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "a.jsonl", ["a", "bbb", "cc", "dddd"], ["yes", "no", "no", "yes"])
    splits = number_labels(load(2, "train", train_file=[path]), ["no", "yes"], is_multi_label=False)
    assert take_blocks(splits["train"], 3, "label_ids") == [[[1], [0]], [[0], [1]], [[1], [0]]]
    kept = []
    monkeypatch.setattr(data_cache, "_keep", lambda key, mapped, overwrite: kept.append(key) or mapped)
    counted = map_splits(splits, count_letters, plus=10)
    blocks = list(itertools.islice(counted["train"].iterate_blocks(), 2))
    assert [len(ids) for ids in blocks[1]["input_ids"]] == [12, 12, 14, 14] and blocks[1]["row"][:] == [0, 0, 1, 1]
    assert len(kept) == 1  # the first block alone: the cache would otherwise grow as large as the stream
    assert not blocks[1].cache_files and datasets.is_caching_enabled()
    alone = map_rows(splits["train"], count_letters, plus=10)
    assert take_blocks(alone, 2, "row")[1] == [0, 0, 1, 1]


def test_what_is_chosen_from_the_first_block_holds_for_the_others(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", number_texts(3), ["yes", "no", "perhaps"])
    stream = number_labels(load(2, "train", train_file=[path]), ["no", "yes"], is_multi_label=False)["train"]
    with pytest.raises(UserError) as caught:
        take_blocks(stream, 2)
    said = f"{path}:3: label 'perhaps' is not one of no, yes; correct it or set class_names"
    assert str(caught.value) == said


def test_the_scheme_of_the_tags_is_that_of_the_first_block():
    # Alone, the second block would be read as IOB1, where its only entity is complete.
    rows = [{"origin": str(number), "tags": tags} for number, tags in enumerate((["B-X", "I-X"], ["O", "I-X"]))]
    blocks = [Dataset.from_list(rows[:1]), Dataset.from_list(rows[1:])]
    stream = datasets.DatasetDict(train=_stream_of(blocks))
    converted = convert_splits(stream, "auto")["train"]
    with pytest.raises(UserError, match="^1: tag I-X of word 2 goes on with no entity after O"):
        take_blocks(converted, 2, "tags")


def _stream_of(blocks: list[Dataset]) -> StreamedDataset:
    return begin_stream(blocks[0], lambda: iter(blocks))


def test_what_was_said_of_the_first_block_is_not_said_again(capsys):
    @for_each_block
    def tell(splits: DatasetDict) -> DatasetDict:
        say(f"{len(splits['train'])} rows")
        return splits

    blocks = [Dataset.from_list([{"origin": "1"}]), Dataset.from_list([{"origin": "2"}] * 2)]
    assert take_blocks(tell(DatasetDict(train=_stream_of(blocks)))["train"], 4, "origin")[3] == ["2", "2"]
    assert capsys.readouterr().out == "1 rows\n"


def test_silence_ends_with_an_error(capsys):
    with pytest.raises(KeyError), silence():
        say("not heard")
        raise KeyError
    say("heard")
    assert capsys.readouterr().out == "heard\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.filter(lambda row: True),
        lambda rows: rows.remove_columns("text"),
        lambda rows: rows.select([0]),
        lambda rows: rows.map(lambda row: {"text": "new"}),
    ],
)
def test_rows_that_lost_their_stream_are_not_trained_on(change, tmp_path):
    splits = load(2, "train", train_file=[write_rows(tmp_path / "a.jsonl", number_texts(5))])
    features = DatasetDict(train=change(splits["train"]))
    assert type(features["train"]) is Dataset
    with pytest.raises(UserError, match="^streaming: the training rows lost their stream on the way to the trainer"):
        describe_run(None, splits, features, {}, str)


# Their order


def draw_backwards(block: Dataset, number: int, before: int) -> range:
    assert before == (0, 2, 3)[number]
    return range(len(block) - 1, -1, -1)


def test_rows_come_in_the_order_that_is_drawn_for_their_block_with_their_numbers(tmp_path):
    stream = load_stream(2, write_rows(tmp_path / "a.jsonl", number_texts(3)))
    rows = list(itertools.islice(StreamedRows(stream, draw_backwards), 5))
    assert [row["text"][5:] for row in rows] == ["1", "0", "2", "1", "0"]
    assert [row[ROW_NUMBER] for row in rows] == [1, 0, BLOCK, 2 * BLOCK + 1, 2 * BLOCK]


def test_processes_share_each_step_of_a_stream(tmp_path):
    stream = load_stream(4, write_rows(tmp_path / "a.jsonl", number_texts(8)))
    taken = []
    for process in range(2):
        shard = IterableDatasetShard(
            StreamedRows(stream, lambda block, number, before: range(4)),
            batch_size=2,
            num_processes=2,
            process_index=process,
        )
        taken.append([int(row["text"][5:]) for row in itertools.islice(shard, 4)])
    assert taken == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_row_is_located_also_where_its_block_is_no_longer_held(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", number_texts(12))
    stream = map_rows(load_stream(2, path), count_letters, plus=0)
    list(itertools.islice(stream.iterate_blocks(), REMEMBERED + 3))
    assert len(stream.remembered) == REMEMBERED
    # The second text of a block has its third and fourth window.
    assert stream.locate(5 * BLOCK + 2) == f"{path}:12"
    assert stream.locate(0 * BLOCK + 3) == f"{path}:2"  # gone, and read again
    assert stream.locate(7 * BLOCK + 1) == f"{path}:3"  # of the second time through the data, which is still to come


# Settings

SOUND = {
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "streaming": True,
    "streaming_buffer_size": 10,
    "train_sampling_strategy": "group_by_length",
    "packing": False,
}


def make_arguments(**changed) -> SimpleNamespace:
    defaults = {"do_train": True, "max_steps": 5, "dataloader_num_workers": 1}
    return SimpleNamespace(**{**defaults, **changed}, accelerator_config=SimpleNamespace(dispatch_batches=None))


def test_a_stream_is_read_by_each_process_itself(capsys):
    arguments = make_arguments()
    check_streaming(SOUND | {"class_weights": ["1", "2"]}, arguments)
    assert capsys.readouterr().out == ""
    assert arguments.accelerator_config.dispatch_batches is False
    untouched = make_arguments(max_steps=-1)
    check_streaming(SOUND | {"streaming": False}, untouched)
    assert untouched.accelerator_config.dispatch_batches is None


def test_what_would_be_done_at_the_end_of_an_epoch_is_said_to_come_at_the_end(capsys):
    check_streaming(SOUND | {"save_strategy": "epoch"}, make_arguments())
    said = "Note: to a stream the end of an epoch is the end of the run: save_strategy steps would come before it.\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        (
            {},
            {"max_steps": -1},
            "streaming: nobody knows how many rows there are: set max_steps in place of num_train_",
        ),
        ({"streaming_buffer_size": 0}, {}, "streaming_buffer_size is 0: it must be at least 1."),
        (
            {"train_sampling_strategy": "balanced"},
            {},
            "train_sampling_strategy balanced needs all training rows at once",
        ),
        ({"max_tokens_per_batch": 512}, {}, "max_tokens_per_batch 512 needs all training rows at once: leave it or"),
        ({"packing": True}, {}, "packing needs all training rows at once: leave it or streaming out."),
        ({"class_weights": ["auto"]}, {}, "class_weights auto counts all training rows: give the numbers, or leave"),
        (
            {},
            {"dataloader_num_workers": 2},
            "dataloader_num_workers 2: a stream is read in its order, by one worker at",
        ),
    ],
)
def test_settings_that_a_stream_contradicts_are_refused(settings, arguments, said):
    with pytest.raises(UserError) as caught:
        check_streaming(SOUND | settings, make_arguments(**arguments))
    assert str(caught.value).startswith(said)
