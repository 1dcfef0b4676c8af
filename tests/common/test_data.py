import json
import os
import subprocess
import sys
from pathlib import Path

from common.arguments import DataArguments
from common.data import RowError, load_splits, require_text
from common.errors import UserError

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

COLUMNS = {"tokens": ("tokens", "words"), "tags": ("tags", "ner_tags", "labels")}
FEATURES = Features({"tokens": List(Value("string")), "tags": List(Value("string"))})


def read_sentence(row: dict) -> dict:
    tokens, tags = row["tokens"], row["tags"]
    if tags is not None and len(tokens) != len(tags):
        raise RowError(f"tags: {len(tags)} tags for {len(tokens)} words; give every word one tag")
    return {"tokens": tokens, "tags": tags}


def load(*splits: str, columns=None, read_row=read_sentence, seed=42, **data_args) -> DatasetDict:
    return load_splits(
        DataArguments(**data_args), columns or COLUMNS, FEATURES, read_row, ("tags",), splits or ("train",), seed
    )


def write_rows(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def make_rows(count: int, first: int = 0) -> list[dict]:
    return [{"tokens": [f"w{number}"], "tags": ["O"]} for number in range(first, first + count)]


def error_of(*splits: str, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load(*splits, **kwargs)
    return str(caught.value)


# Columns


def test_columns_are_found_under_any_of_their_names(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"words": ["EU"], "ner_tags": ["B-ORG"]}])
    assert load(train_file=[path])["train"].to_list() == [
        {"id": "0", "origin": f"{path}:1", "tokens": ["EU"], "tags": ["B-ORG"]}
    ]


def test_the_first_of_several_names_wins_and_the_others_are_said_to_be_unused(tmp_path, capsys):
    row = {"labels": ["X"], "words": ["no"], "tokens": ["yes"], "tags": ["O"], "source": "web", "id": 7}
    data = load(train_file=[write_rows(tmp_path / "a.jsonl", [row])])["train"]
    assert data["tokens"][0] == ["yes"] and data["tags"][0] == ["O"]
    assert capsys.readouterr().out == "Columns that are not used: labels, words, source.\n"


def test_a_name_that_the_user_gave_is_the_only_one_looked_for(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tokens": ["a"], "mine": ["b"], "tags": ["O"]}])
    data = load(train_file=[path], columns={"tokens": "mine", "tags": ("tags",)})
    assert data["train"]["tokens"][0] == ["b"]
    assert error_of(train_file=[path], columns={"tokens": "yours", "tags": ("tags",)}).startswith(
        f'{path}:1: no column "yours", the columns are tokens, mine, tags, '
    )


def test_a_missing_column_is_told_with_the_columns_the_first_row_and_a_cure(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["", {"token": ["EU"], "tags": ["O"]}, {"token": ["x"], "tags": ["O"]}])
    assert error_of(train_file=[path]) == (
        f'{path}:2: no column "tokens" or "words", the columns are token, tags (did you mean "token"?), '
        "the first row is {'token': ['EU'], 'tags': ['O']}; rename it in the data or set the recipe's ..._column_name"
    )


def test_a_long_first_row_is_shortened(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x" * 1000}])
    shown = error_of(train_file=[path]).split("the first row is ")[1].split("; rename")[0]
    assert shown == "{'text': '" + "x" * 190 + "..."


def test_a_column_that_only_the_first_row_lacks_is_found(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tags": ["O"]}, {"tokens": ["a"], "tags": ["O"]}])
    assert error_of(train_file=[path]) == f'{path}:1: "tokens" is missing; give every row a value'


def test_each_file_of_a_split_may_name_its_columns_in_its_own_way(tmp_path):
    first = write_rows(tmp_path / "a.jsonl", [{"words": ["a"], "labels": ["O"]}])
    second = write_rows(tmp_path / "b.jsonl", [{"tokens": ["b"], "tags": ["B-X"]}])
    assert load(train_file=[first, second])["train"]["tags"][:] == [["O"], ["B-X"]]


# Labels


def test_labels_may_be_missing_null_or_empty_in_test_rows(tmp_path):
    missing = write_rows(tmp_path / "a.jsonl", [{"tokens": ["a"]}])
    null = write_rows(tmp_path / "b.jsonl", [{"tokens": ["b"], "tags": None}, {"tokens": ["c"], "tags": ["O"]}])
    (tmp_path / "c.csv").write_text("tokens,tags\nd,\n")
    data = load("test", test_file=[missing, null, str(tmp_path / "c.csv")], read_row=split_text)
    assert data["test"]["tags"][:] == [None, None, ["O"], None]


def split_text(row: dict) -> dict:
    return {"tokens": list(row["tokens"]), "tags": row["tags"]}


def test_labels_may_not_be_missing_in_training_rows(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tokens": ["a"]}])
    assert error_of(train_file=[path]).startswith(f'{path}:1: no column "tags" or "ner_tags" or "labels", the columns')
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": None}, {"tokens": ["a"]}]
    path = write_rows(tmp_path / "b.jsonl", rows)
    assert error_of("validation", validation_file=[path]).splitlines() == [
        f'{path}:2: "tags" is null; give every row a value',
        f'{path}:3: "tags" is missing; give every row a value',
    ]


def test_inputs_may_not_be_missing_in_test_rows(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tokens": ["a"]}, {"tokens": None}])
    assert error_of("test", test_file=[path]) == f'{path}:2: "tokens" is null; give every row a value'


# Faults


def test_the_faults_of_all_files_and_of_the_recipe_are_told_together(tmp_path):
    train = write_rows(
        tmp_path / "a.jsonl", [{"tokens": ["a"], "tags": []}, '{"tokens" 1}', {"tokens": ["a"], "tags": ["O"]}]
    )
    validation = write_rows(tmp_path / "b.jsonl", make_rows(2) + [{"tokens": [], "tags": ["O"]}])
    assert error_of("train", "validation", train_file=[train], validation_file=[validation]).splitlines() == [
        f"{train}:1: tags: 0 tags for 1 words; give every word one tag",
        f"{train}:2:11: invalid JSON: Expecting ':' delimiter; write one whole JSON object on each line",
        f"{validation}:3: tags: 1 tags for 0 words; give every word one tag",
    ]


def test_twenty_faults_of_a_file_are_shown_and_the_others_counted(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tokens": [], "tags": ["O"]}] * 250)
    lines = error_of(train_file=[path]).splitlines()
    assert len(lines) == 21
    assert lines[19] == f"{path}:20: tags: 1 tags for 0 words; give every word one tag"
    assert lines[20] == f"{path}: and 230 more; mend these and run it again"


def test_another_error_in_the_recipe_names_the_row_in_its_traceback(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tokens": 3, "tags": ["O"]}])
    with pytest.raises(TypeError) as caught:
        load(train_file=[path])
    assert caught.value.__notes__ == [f"This was row {path}:1."]


# Ids


def test_rows_without_ids_are_numbered_over_all_files_of_the_split(tmp_path):
    files = [write_rows(tmp_path / f"{name}.jsonl", make_rows(2)) for name in "ab"]
    data = load(train_file=files)["train"]
    assert data["id"][:] == ["0", "1", "2", "3"]
    assert data["origin"][:] == [f"{files[0]}:1", f"{files[0]}:2", f"{files[1]}:1", f"{files[1]}:2"]


def test_the_ids_of_the_data_are_kept_as_texts(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"id": 17, **make_rows(1)[0]}, {"id": "q-1", **make_rows(1)[0]}])
    assert load(train_file=[path])["train"]["id"][:] == ["17", "q-1"]


def test_an_id_that_two_rows_share_is_refused_with_both_lines(tmp_path):
    first = write_rows(tmp_path / "a.jsonl", [{"id": number, **make_rows(1)[0]} for number in (1, 2, 1)])
    second = write_rows(tmp_path / "b.jsonl", [{"id": "2", **make_rows(1)[0]}])
    assert error_of(train_file=[first, second]).splitlines() == [
        f'{first}:3: the id "1" is already that of {first}:1; give every row its own',
        f'{second}:1: the id "2" is already that of {first}:2; give every row its own',
    ]
    path = write_rows(tmp_path / "c.jsonl", [{"id": "x", **make_rows(1)[0]}] * 26)
    assert error_of(train_file=[path]).splitlines()[20:] == ["and 5 more repeated ids; mend these too"]


def test_a_row_of_more_characters_than_max_chars_is_refused_and_one_of_as_many_is_read(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"tokens": ["ab", "cd"], "tags": ["O", "O"]}] * 2)
    refused = error_of(train_file=[path], max_chars=3).splitlines()
    cure = "of max_chars (has a stray quote joined rows?); divide the row, or set max_chars higher"
    assert refused == [f"{path}:{line}: tokens: 4 characters, more than the 3 {cure}" for line in (1, 2)]
    assert len(load(train_file=[path], max_chars=4)["train"]) == 2


@pytest.mark.parametrize("row_id", [None, "", True, 1.5, ["x"]])
def test_an_id_that_is_neither_text_nor_number_is_refused(tmp_path, row_id):
    path = write_rows(tmp_path / "a.jsonl", [{"id": row_id, **make_rows(1)[0]}])
    cure = "give every row a text or a whole number, or leave the column out"
    assert error_of(train_file=[path]) == f'{path}:1: "id" is {row_id!r}; {cure}'


# Files, globs, directories


def test_a_glob_gives_its_files_in_the_order_of_their_names(tmp_path, monkeypatch):
    for name in ("part-2", "part-10", "part-1", ".part-0"):
        write_rows(tmp_path / f"{name}.jsonl", [{"tokens": [name], "tags": ["O"]}])
    write_rows(tmp_path / "first.jsonl", [{"tokens": ["first"], "tags": ["O"]}])
    monkeypatch.chdir(tmp_path)
    data = load(train_file=["first.jsonl", "part-*.jsonl"])["train"]
    assert data["tokens"][:] == [["first"], ["part-1"], ["part-10"], ["part-2"]]
    assert data["origin"][1] == "part-1.jsonl:1"


def test_a_glob_without_files_and_a_file_named_twice_are_refused(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(1))
    missing = error_of(train_file=[str(tmp_path / "*.csv")])
    assert missing == f"train_file {tmp_path}/*.csv: no file in {Path.cwd()} matches; check the pattern."
    assert error_of(train_file=[path, str(tmp_path / "*")]) == f"train_file names {path} twice; name it once."


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    path = write_rows(tmp_path / "a[1].jsonl", make_rows(1))
    assert len(load(train_file=[path])["train"]) == 1


def test_a_directory_may_hold_a_file_for_each_split(tmp_path):
    write_rows(tmp_path / "train.jsonl", make_rows(3))
    write_rows(tmp_path / "dev.json", make_rows(2, first=10))
    (tmp_path / "test.conll").write_text("EU\n\nUN\n")
    (tmp_path / "train.txt").write_text("not a format that is read")
    data = load("train", "validation", "test", dataset_name=str(tmp_path))
    assert data.num_rows == {"train": 3, "validation": 2, "test": 2}
    assert data["validation"]["origin"][0] == f"{tmp_path}/dev.json:1"


def test_a_directory_that_lacks_a_split_or_has_it_twice_is_refused(tmp_path):
    write_rows(tmp_path / "validation.jsonl", make_rows(1))
    message = error_of("train", dataset_name=str(tmp_path))
    assert message.startswith("No train rows: put train.jsonl (or another of .jsonl, .json, .csv, ")
    write_rows(tmp_path / "valid.jsonl", make_rows(1))
    assert error_of("validation", dataset_name=str(tmp_path)) == (
        f"{tmp_path}: valid.jsonl and validation.jsonl could all be the validation rows; name one with validation_file."
    )


def test_a_file_as_dataset_name_is_refused(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(1))
    assert error_of(dataset_name=path) == f"dataset_name {path} is a file; give it as train_file."


def test_a_test_file_goes_with_a_directory(tmp_path):
    write_rows(tmp_path / "train.jsonl", make_rows(3))
    write_rows(tmp_path / "test.jsonl", make_rows(3))
    path = write_rows(tmp_path / "new.jsonl", make_rows(1))
    data = load("train", "test", dataset_name=str(tmp_path), test_file=[path])
    assert data.num_rows == {"train": 3, "test": 1}


def test_the_file_of_a_split_that_is_not_wanted_is_not_read(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(3))
    data = load("test", test_file=[path], train_file=["does/not/exist.jsonl"])
    assert list(data) == ["test"]


def test_a_wanted_split_without_data_is_told_with_its_flag(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(3))
    assert error_of("train", "test", train_file=[path]) == "No test rows: set test_file."
    assert error_of("train", test_file=[path]) == "No train rows: set train_file."
    assert error_of("validation", train_file=[path]) == "No validation rows: set validation_file."


# Validation taken from train


def test_validation_is_taken_from_train_where_there_is_none(tmp_path, capsys):
    path = write_rows(tmp_path / "a.jsonl", make_rows(50))
    data = load("train", "validation", train_file=[path])
    drawn = [int(number) for number in data["validation"]["id"]]
    rest = [int(number) for number in data["train"]["id"]]
    assert len(drawn) == 5
    assert drawn == sorted(drawn) and rest == sorted(rest)
    assert sorted(drawn + rest) == list(range(50))
    assert drawn != [0, 1, 2, 3, 4]
    assert data["validation"]["tokens"][0] == [f"w{drawn[0]}"]
    assert capsys.readouterr().out == (
        "validation: 5 of the 50 training rows, drawn with seed 42 (there is no validation split).\n"
    )


def test_the_seed_decides_which_rows_are_taken(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(50))
    first, same, other = (
        load("train", "validation", train_file=[path], seed=seed)["validation"]["id"][:] for seed in (1, 1, 2)
    )
    assert first == same != other


def test_at_least_one_row_is_taken_and_one_is_left(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(2))
    for percentage in (1, 99):
        data = load("train", "validation", train_file=[path], validation_split_percentage=percentage)
        assert data.num_rows == {"train": 1, "validation": 1}
    path = write_rows(tmp_path / "b.jsonl", make_rows(1))
    message = "One training row cannot be divided: give more rows, or a validation_file."
    assert error_of("train", "validation", train_file=[path]) == message


def test_rows_that_max_eval_samples_leaves_out_stay_in_train(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(50))
    data = load("train", "validation", train_file=[path], max_eval_samples=2)
    assert data.num_rows == {"train": 48, "validation": 2}


# Fewer rows


def test_only_the_first_rows_are_read_and_the_rest_is_not_checked(tmp_path, capsys):
    train = write_rows(tmp_path / "a.jsonl", make_rows(2) + ["not JSON"])
    more = write_rows(tmp_path / "b.jsonl", ["not JSON either"])
    dev = write_rows(tmp_path / "c.jsonl", make_rows(5, first=10))
    test = write_rows(tmp_path / "d.jsonl", make_rows(5, first=20))
    data = load(
        "train", "validation", "test",
        train_file=[train, more], validation_file=[dev], test_file=[test],
        max_train_samples=2, max_eval_samples=3, max_predict_samples=1,
    )  # fmt: skip
    assert data.num_rows == {"train": 2, "validation": 3, "test": 1}
    assert data["validation"]["tokens"][:] == [["w10"], ["w11"], ["w12"]]
    assert capsys.readouterr().out.splitlines() == [
        "train: the first 2 rows (max_train_samples); the others are neither read nor checked.",
        "validation: the first 3 rows (max_eval_samples); the others are neither read nor checked.",
        "test: the first 1 rows (max_predict_samples); the others are neither read nor checked.",
    ]


def test_nothing_is_said_where_the_limit_cuts_nothing(tmp_path, capsys):
    files = [write_rows(tmp_path / f"{name}.jsonl", make_rows(150)) for name in "ab"]
    assert len(load(train_file=files, max_train_samples=300)["train"]) == 300
    assert capsys.readouterr().out == ""
    assert len(load(train_file=files, max_train_samples=299)["train"]) == 299
    assert "the first 299 rows" in capsys.readouterr().out


# Rows in two splits


def test_rows_that_are_also_training_rows_are_counted_whatever_their_labels(tmp_path, capsys):
    train = write_rows(tmp_path / "a.jsonl", make_rows(10))
    dev = write_rows(tmp_path / "b.jsonl", make_rows(5, first=8))
    test = write_rows(tmp_path / "c.jsonl", [{"tokens": ["w1"], "tags": ["B-X"]}, {"tokens": ["w1"]}])
    load("train", "validation", "test", train_file=[train], validation_file=[dev], test_file=[test])
    assert capsys.readouterr().out.splitlines() == [
        "test: 1 of 2 rows have no label: predicted, not scored.",
        "Warning: 2 of 5 validation rows are also training rows: they flatter the scores.",
        "Warning: 2 of 2 test rows are also training rows: they flatter the scores.",
    ]


# The Arrow file behind a split


def test_the_rows_are_mapped_from_a_file_and_known_by_their_content(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(2))
    times = (1_000_000_000, 1_000_000_000)
    os.utime(path, times)
    first, same = (load(train_file=[path])["train"] for _ in range(2))
    assert Path(first.cache_files[0]["filename"]).stat().st_size > 0
    assert first.cache_files != same.cache_files
    write_rows(Path(path), make_rows(2, first=1))
    os.utime(path, times)
    changed = load(train_file=[path])["train"]
    assert changed["tokens"][0] == ["w1"]
    assert first._fingerprint == same._fingerprint != changed._fingerprint


def test_the_arrow_file_is_removed_when_the_process_ends(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", make_rows(2))
    code = (
        "import datasets; from common.arguments import DataArguments; from common.data import load_splits\n"
        "features = datasets.Features({'tokens': datasets.List(datasets.Value('string'))})\n"
        f"data_args = DataArguments(train_file=[{path!r}])\n"
        "rows = load_splits(data_args, {'tokens': 'tokens'}, features, dict, splits=['train'])\n"
        "print(rows['train'].cache_files[0]['filename'])\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "RANK": "1"}  # another rank says nothing
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    (written,) = run.stdout.splitlines()
    assert Path(written).is_relative_to(tmp_path) and not Path(written).parent.exists()


# The hub. It cannot be reached from a test: load_dataset is replaced by what it returns or raises.


class Hub:
    """Stands in for datasets.load_dataset: answers by revision and notes what it was asked for."""

    def __init__(self, **answers):
        self.answers = answers
        self.calls = []

    def load_dataset(self, path, name=None, revision=None, streaming=False):
        self.calls.append((path, name, revision))
        answer = self.answers["copy" if revision == "refs/convert/parquet" else "main"]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def set_hub(monkeypatch):
    def set_answers(**answers) -> Hub:
        hub = Hub(**answers)
        monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
        return hub

    return set_answers


def make_hub_split(count: int, tag: int = 1) -> Dataset:
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    rows = {"tokens": [[f"w{number}"] for number in range(count)], "ner_tags": [[tag]] * count}
    return Dataset.from_dict(rows, features=features)


def test_hub_splits_come_with_the_names_of_their_classes(set_hub):
    hub = set_hub(main=DatasetDict(train=make_hub_split(3), validation=make_hub_split(2, tag=0)))
    data = load(
        "train",
        "validation",
        dataset_name="me/set",
        dataset_config_name="small",
        dataset_revision="v1",
        max_eval_samples=1,
    )
    assert hub.calls == [("me/set", "small", "v1")]
    assert data["train"][2] == {"id": "2", "origin": "me/set[train] row 2", "tokens": ["w2"], "tags": ["B-X"]}
    assert data["validation"].to_list() == [
        {"id": "0", "origin": "me/set[validation] row 0", "tokens": ["w0"], "tags": ["O"]}
    ]


def test_a_class_of_minus_one_is_a_missing_label(set_hub):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    set_hub(main=DatasetDict(train=rows, test=rows))
    wishes = {
        "columns": {"text": ("text",), "label": ("label",)},
        "features": Features({"text": Value("string"), "label": Value("string")}),
        "read_row": dict,
        "labels": ("label",),
    }
    data = load_splits(DataArguments(dataset_name="me/set"), **wishes, splits=("test",))
    assert data["test"]["label"][:] == ["positive", None]
    with pytest.raises(UserError) as caught:
        load_splits(DataArguments(dataset_name="me/set"), **wishes, splits=("train",))
    assert str(caught.value) == 'me/set[train] row 1: "label" is null; give every row a value'


def test_faults_in_hub_rows_name_the_split_and_the_row(set_hub):
    rows = make_hub_split(3).map(lambda row, number: {"tokens": row["tokens"] * number}, with_indices=True)
    set_hub(main=DatasetDict(train=rows, empty=rows.select([])))
    assert error_of(dataset_name="me/set").splitlines() == [
        "me/set[train] row 0: tags: 1 tags for 0 words; give every word one tag",
        "me/set[train] row 2: tags: 1 tags for 2 words; give every word one tag",
    ]
    assert "[empty] row 0: the split has no rows; choose another" in error_of(
        dataset_name="me/set", train_split="empty"
    )


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("conll2003", "tomaarsen/conll2003"),
        ("wnut_17", "flaitenberger/wnut_17"),
        ("squad", "rajpurkar/squad"),
        ("squad_v2", "rajpurkar/squad_v2"),
        ("glue", "nyu-mll/glue"),
        ("sst2", "stanfordnlp/sst2"),
        ("imdb", "stanfordnlp/imdb"),
        ("cnn_dailymail", "abisee/cnn_dailymail"),
        ("xsum", "EdinburghNLP/xsum"),
        ("wmt16", "wmt/wmt16"),
        ("opus_books", "Helsinki-NLP/opus_books"),
        ("samsum", "knkarthick/samsum"),
        ("ag_news", "fancyzhx/ag_news"),
        ("emotion", "dair-ai/emotion"),
        ("rotten_tomatoes", "cornell-movie-review-data/rotten_tomatoes"),
    ],
)
def test_a_well_known_bare_name_is_given_its_namespace(set_hub, capsys, name, hub_id):
    hub = set_hub(main=DatasetDict(train=make_hub_split(2)))
    load(dataset_name=name)
    assert hub.calls == [(hub_id, None, None)]
    assert capsys.readouterr().out == f"Dataset {name}: {hub_id} on the hub.\n"


def test_an_unknown_bare_name_and_a_missing_directory_are_refused_before_the_hub_is_asked(set_hub):
    hub = set_hub()
    assert error_of(dataset_name="conl2003") == (
        "dataset_name 'conl2003' has no namespace and is no hub id (did you mean \"conll2003\"?); "
        "give namespace/name, a directory of data files, or use local files (train_file)."
    )
    assert error_of(dataset_name="./data/ner").startswith("dataset_name './data/ner' is not a directory here and is no")
    assert hub.calls == []


SCRIPT = RuntimeError("Dataset scripts are no longer supported, but found wnut_17.py")


def test_a_dataset_that_is_a_script_is_loaded_from_the_parquet_copy(set_hub, capsys):
    hub = set_hub(main=SCRIPT, copy=DatasetDict(train=make_hub_split(2)))
    assert len(load(dataset_name="leondz/wnut_17")["train"]) == 2
    assert [revision for _, _, revision in hub.calls] == [None, "refs/convert/parquet"]
    assert capsys.readouterr().out == (
        "Dataset leondz/wnut_17 is a script, which datasets no longer runs: loading its refs/convert/parquet instead.\n"
    )


def test_a_script_at_the_revision_that_the_user_chose_is_refused(set_hub):
    hub = set_hub(main=SCRIPT)
    assert error_of(dataset_name="leondz/wnut_17", dataset_revision="v1") == (
        "dataset leondz/wnut_17: Dataset scripts are no longer supported, but found wnut_17.py; "
        "set dataset_revision to refs/convert/parquet in place of v1, or use local files (train_file)."
    )
    assert len(hub.calls) == 1


# The texts are those of datasets 5.2, seen by running it.
HUB_ERRORS = [
    (
        ConnectionError("Couldn't reach 'me/set' on the Hub (LocalEntryNotFoundError)"),
        "Couldn't reach 'me/set' on the Hub (LocalEntryNotFoundError); check the network, "
        "set HF_HUB_OFFLINE=1 if it was downloaded before, or use local files (train_file).",
    ),
    (
        ConnectionError("Couldn't reach 'me/set' on the Hub (OfflineModeIsEnabled)"),
        "Couldn't reach 'me/set' on the Hub (OfflineModeIsEnabled); HF_HUB_OFFLINE is set and it was not "
        "downloaded before: unset that or use local files (train_file).",
    ),
    (
        datasets.exceptions.DatasetNotFoundError("Dataset 'me/set' doesn't exist on the Hub or cannot be accessed."),
        "Dataset 'me/set' doesn't exist on the Hub or cannot be accessed; check the name and dataset_revision, "
        "log in with `hf auth login` if it is private, or use local files (train_file).",
    ),
    (
        ValueError("BuilderConfig 'foo' not found. Available: ['default', 'big']"),
        "BuilderConfig 'foo' not found. Available: ['default', 'big']; set dataset_config_name to one of these.",
    ),
    (
        ValueError("Config name is missing.\nPlease pick one among the available configs: ['cola', 'sst2']"),
        "Config name is missing. Please pick one among the available configs: ['cola', 'sst2']; "
        "set dataset_config_name to one of these.",
    ),
    (
        datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset"),
        "An error occurred while generating the dataset; "
        "try another dataset_revision, or use local files (train_file).",
    ),
]


@pytest.mark.parametrize(("raised", "told"), HUB_ERRORS)
def test_each_failure_of_the_hub_is_told_with_what_to_try(set_hub, raised, told):
    set_hub(main=raised)
    with pytest.raises(UserError) as caught:
        load(dataset_name="me/set")
    assert str(caught.value) == f"dataset me/set: {told}"
    assert caught.value.__suppress_context__


def test_an_unknown_hub_split_is_answered_with_those_that_there_are(set_hub):
    set_hub(main=DatasetDict(train_sft=make_hub_split(2), test_sft=make_hub_split(2)))
    known = "one of train_sft, test_sft"
    assert error_of("train", dataset_name="me/set") == f"me/set has no split 'train'; set train_split to {known}."
    assert error_of("train", "validation", dataset_name="me/set", train_split="train_sft", validation_split="dev") == (
        f"me/set has no split 'dev'; set validation_split to {known}."
    )
    assert error_of("test", dataset_name="me/set") == (
        f"me/set has no split 'test'; set test_split to {known} or set test_file."
    )
    assert (
        error_of("validation", dataset_name="me/set")
        == "No validation rows: set validation_split to a split of me/set."
    )
    data = load("train", "test", dataset_name="me/set", train_split="train_sft", test_split="test_sft")
    assert data["test"]["origin"][0] == "me/set[test_sft] row 0"


def test_hub_validation_may_be_called_valid_or_be_taken_from_train(set_hub, capsys):
    set_hub(main=DatasetDict(train=make_hub_split(4), valid=make_hub_split(2, tag=0)))
    assert load("train", "validation", dataset_name="me/set").num_rows == {"train": 4, "validation": 2}
    assert capsys.readouterr().out.startswith("validation: the split valid of me/set.\n")
    set_hub(main=DatasetDict(train=make_hub_split(4)))
    assert load("train", "validation", dataset_name="me/set").num_rows == {"train": 3, "validation": 1}


def test_the_hub_is_not_asked_where_files_give_every_wanted_split(set_hub, tmp_path):
    hub = set_hub()
    path = write_rows(tmp_path / "a.jsonl", make_rows(1))
    assert len(load("test", dataset_name="me/set", test_file=[path])["test"]) == 1
    assert hub.calls == []


# Text files that belong together line by line


PAIR_FEATURES = Features({"source": Value("string"), "target": Value("string")})


def read_pair(row: dict) -> dict:
    target = None if row["target"] is None else require_text(row, "target")
    return {"source": require_text(row, "source"), "target": target}


def load_pairs(*splits: str, **data_args) -> DatasetDict:
    columns = {"source": ("en", "source"), "target": ("de", "target")}
    arguments = DataArguments(**data_args), columns, PAIR_FEATURES, read_pair, ("target",), splits or ("train",)
    return load_splits(*arguments, parallel=("en", "de"))


def pair_error_of(*splits: str, **data_args) -> str:
    with pytest.raises(UserError) as caught:
        load_pairs(*splits, **data_args)
    return str(caught.value)


def write_lines(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_parallel_files_are_rows_with_the_line_that_they_come_from(tmp_path):
    source, target = write_lines(tmp_path / "x.en", "yes", "no"), write_lines(tmp_path / "x.de", "ja", "nein")
    for paths in ([source, target], [target, source], [str(tmp_path / "x.*")]):
        assert load_pairs(train_file=paths)["train"].to_list() == [
            {"id": "0", "origin": f"{source}:1", "source": "yes", "target": "ja"},
            {"id": "1", "origin": f"{source}:2", "source": "no", "target": "nein"},
        ]


def test_parallel_files_go_with_others(tmp_path):
    source, target = write_lines(tmp_path / "x.en", "yes"), write_lines(tmp_path / "x.de", "ja")
    more = write_rows(tmp_path / "y.jsonl", [{"source": "no", "target": "nein"}])
    again = [write_lines(tmp_path / "z.en", "one"), write_lines(tmp_path / "z.de", "eins")]
    data = load_pairs(train_file=[source, *again, more, target])["train"]
    assert data["source"][:] == ["yes", "one", "no"] and data["target"][:] == ["ja", "eins", "nein"]


def test_a_directory_may_hold_two_text_files_for_each_split(tmp_path):
    for name, lines in {"train": ("a", "b"), "dev": ("c",), "test": ("d",)}.items():
        write_lines(tmp_path / f"{name}.en", *lines)
        if name != "test":
            write_lines(tmp_path / f"{name}.de", *(line.upper() for line in lines))
    data = load_pairs("train", "validation", "test", dataset_name=str(tmp_path))
    assert {split: list(zip(rows["source"], rows["target"], strict=True)) for split, rows in data.items()} == {
        "train": [("a", "A"), ("b", "B")], "validation": [("c", "C")], "test": [("d", None)],
    }  # fmt: skip


def test_in_test_rows_the_other_language_may_be_missing_or_empty(tmp_path, capsys):
    source = write_lines(tmp_path / "x.en", "yes", "no")
    assert load_pairs("test", test_file=[source])["test"]["target"][:] == [None, None]
    target = write_lines(tmp_path / "x.de", "", "nein")
    assert load_pairs("test", test_file=[source, target])["test"]["target"][:] == [None, "nein"]
    assert "1 of 2 rows have no label" in capsys.readouterr().out


def test_in_training_rows_the_other_language_may_not_be_missing(tmp_path):
    source = write_lines(tmp_path / "x.en", "yes", "no")
    assert pair_error_of(train_file=[source]).startswith(f'{source}:1: no column "de" or "target", ')


def test_an_empty_line_is_told_with_its_line_and_side(tmp_path):
    source, target = write_lines(tmp_path / "x.en", "yes", "", "c"), write_lines(tmp_path / "x.de", "ja", "b", " ")
    assert pair_error_of(train_file=[source, target]).splitlines() == [
        f"{source}:2: source: it is empty; write a text",
        f"{source}:3: target: it is ' '; write a text",
    ]


def test_parallel_files_of_different_length_are_refused(tmp_path):
    source, target = write_lines(tmp_path / "x.en", "yes", "no"), write_lines(tmp_path / "x.de", "ja")
    message = pair_error_of(train_file=[source, target])
    assert message == f"{source}:2: 2 lines here, 1 in {target}; give each line its translation"


def test_a_translation_without_its_source_is_refused(tmp_path):
    target = write_lines(tmp_path / "x.de", "ja")
    write_lines(tmp_path / "x.en", "yes")
    assert pair_error_of(train_file=[target]) == f"{target}: its other half x.en is not named; name both."


def test_where_no_languages_are_known_text_files_are_of_no_known_format(tmp_path):
    message = error_of(train_file=[write_lines(tmp_path / "x.en", "yes")])
    assert "no known format has the suffix '.en'" in message


# Texts


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is empty"),
        (None, "it is empty"),
        (" \n\u3000", "it is ' \\n\\u3000'"),
        (7, "it is 7"),
        (["a"], "it is ['a']"),
    ],
)
def test_what_is_no_text_is_refused(text, fault):
    with pytest.raises(RowError) as caught:
        require_text({"text": text}, "text")
    assert str(caught.value) == f"text: {fault}; write a text"


def test_a_text_is_kept_as_it_is():
    assert require_text({"text": " a\n"}, "text") == " a\n"


def test_the_nul_character_is_refused_with_its_place(tmp_path):
    rows = [{"en": "fine", "de": "gut"}, {"en": "ab\0c", "de": "x"}, {"en": "x", "de": "\0"}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert pair_error_of(train_file=[path]).splitlines() == [
        f"{path}:2: source: character 3 is NUL (\\u0000), which is no text; take it out",
        f"{path}:3: target: character 1 is NUL (\\u0000), which is no text; take it out",
    ]


def load_parts(path: str) -> DatasetDict:
    """Rows that hold rows, as articles hold questions."""
    args = DataArguments(train_file=[path])
    return load_splits(args, COLUMNS, FEATURES, read_sentence, (), ("train",), unfold=lambda row: row["parts"])


def test_an_id_that_is_repeated_within_a_row_of_rows_is_refused(tmp_path):
    part = {"id": "x", "tokens": ["a"], "tags": ["O"]}
    path = write_rows(tmp_path / "a.jsonl", [{"parts": [part, part]}])
    with pytest.raises(UserError) as caught:
        load_parts(path)
    assert str(caught.value) == f'{path}:1: the id "x" is already that of {path}:1; give every row its own'


def test_a_file_whose_rows_hold_no_rows_is_refused_by_its_last_line(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"parts": []}, {"parts": []}])
    with pytest.raises(UserError) as caught:
        load_parts(path)
    assert str(caught.value) == f"{path}:2: up to here no row holds an example; add rows or leave the file out"


def test_a_column_that_is_called_id_and_is_read_holds_no_ids(tmp_path):
    """The code of Indonesian is id."""
    path = write_rows(tmp_path / "a.jsonl", [{"id": ["ya"], "tags": ["O"]}, {"id": ["ya"], "tags": ["O"]}])
    rows = load(columns=COLUMNS | {"tokens": "id"}, train_file=[path])["train"]
    assert rows["id"][:] == ["0", "1"] and rows["tokens"][:] == [["ya"], ["ya"]]
