"""What is to be predicted, and the files that a run leaves behind: damaged, cut or made up."""

import json
import random
from functools import cache
from pathlib import Path

from common.checkpoints import MANIFEST, find_defect, find_newest_checkpoint, seal_checkpoint
from common.errors import UserError
from common.inputs import check_inputs, open_file, read_inputs
from common.predict import names_file, parse_text
from common.predictors import TASKS
from common.result_files import METRICS_FILE, RECIPE_FILE, read_result
from tests.fuzz.contents import DAMAGES, PIECES, SIDES, damage, list_contents, write_csv, write_jsonl
from tests.fuzz.drawn import DRAWN, SPOKEN, VALUES
from tests.fuzz.reader import Reader, check_refusal, check_text
from tests.fuzz.rows import write_lines
from tests.fuzz.sequences import build_chat, build_tokenizer

from hypothesis import strategies as st

FACTS = {
    "sentiment": {"labels": ["a", "b"], "text_column_name": None, "text_pair_column_name": None, "temperature": 1.0,
                  "thresholds": None, "max_seq_length": 64, "doc_stride": 8, "long_text": "truncate"},
    "ner": {"labels": ["O"], "text_column_name": None, "max_seq_length": 64, "doc_stride": 8},
    "qa": {"question_column_name": "question", "context_column_name": "context", "max_seq_length": 64, "doc_stride": 8,
           "n_best_size": 2, "max_answer_length": 9, "save_n_best": False, "null_threshold": None},
    "translation": {"source_prefix": "", "max_source_length": 64, "source_lang": "en", "target_lang": "de",
                    "source_column_name": None},
    "summarization": {"source_prefix": "", "max_source_length": 64, "long_text": "head", "lang": None,
                      "document_column_name": None},
    "dialogue": {"messages_column_name": None, "assistant_turns": "all", "repeated_roles": "merge",
                 "max_seq_length": 64, "max_new_tokens": 8},
}  # fmt: skip


@cache
def build_task(recipe: str):
    """The task as prediction has it, without a model."""
    facts = FACTS[recipe]
    if recipe != "dialogue":
        return TASKS[recipe](facts, build_tokenizer("words"))
    tokenizer, end_of_turn = build_chat("chatml")
    return TASKS[recipe](facts | {"end_of_turn": end_of_turn}, tokenizer)


@st.composite
def draw_input(draw) -> tuple[str, str, bytes, str]:
    """A recipe, the suffix of a file, its content, and what is to become of faulty rows."""
    recipe = draw(st.sampled_from(sorted(TASKS)))
    kind = draw(st.integers(0, 5))
    if kind <= 2:
        suffix, content = ".jsonl", write_lines(draw(DRAWN[recipe]), draw(st.booleans()))
    else:
        suffix = draw(
            st.sampled_from([".txt", ".txt", ".csv", ".json", ".tsv", ".conll", ".jsonl", ".parquet", ".xml"])
        )
        content = draw(st.one_of(SIDES, CSV, LINES))
    content = damage(content, draw(st.lists(DAMAGES, max_size=2)) if kind % 3 else [])
    return recipe, suffix, content, draw(st.sampled_from(["stop", "keep"]))


CSV, LINES = list_contents(write_csv), list_contents(write_jsonl)


def attempt_input(drawn: tuple[str, str, bytes, str], folder: Path) -> bool:
    """Every row that goes in comes out, read or with its fault; or all is refused by the lines."""
    recipe, suffix, content, on_error = drawn
    task, path = build_task(recipe), folder / f"rows{suffix}"
    path.write_bytes(content)
    try:
        items = open_file(path)
        count = check_inputs(items, task, on_error)
    except UserError as error:
        if suffix == ".xml":
            assert "no known format has the suffix" in str(error)
        else:
            check_refusal(error, [path])
        return False
    rows = list(read_inputs(items, task))
    assert len(rows) == count and all(isinstance(row.id, str) and row.id for row in rows)
    assert all((row.values is None) != (row.fault is None) for row in rows)
    assert on_error == "keep" or not any(row.fault for row in rows)
    assert all(row.fault.place.startswith(f"{path}:") for row in rows if row.fault)
    return any(row.fault is None for row in rows)


def attempt_items(drawn: tuple[str, list], folder: Path) -> bool:
    """Objects of Python, as load_predictor gets them, become inputs or faults; so does the text of a command line."""
    recipe, items = drawn
    rows = list(
        read_inputs([(f"row {number}", item) for number, item in enumerate(items, start=1)], build_task(recipe))
    )
    assert len(rows) >= len([item for item in items if not (isinstance(item, dict) and "paragraphs" in item)])
    for item in items:
        if isinstance(item, str):
            names_file(item)
            parse_text(item)
    return any(row.fault is None for row in rows)


RECIPE_JSON = {"task": "token-classification", "headline": ["f1"], "recipe": "ner"}
JSON_FILES = st.one_of(
    st.just(json.dumps(RECIPE_JSON).encode()),
    st.builds(damage, st.just(json.dumps(RECIPE_JSON, indent=1).encode()), st.lists(DAMAGES, max_size=2)),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join),
    st.none(),
)


def attempt_result(drawn: tuple[bytes | None, bytes | None], folder: Path) -> bool:
    """What a finished run says of itself is read, or the directory is refused by name."""
    for name, content in zip((RECIPE_FILE, METRICS_FILE), drawn, strict=True):
        if content is not None:
            (folder / name).write_bytes(content)
    try:
        recipe, metrics = read_result(folder)
    except UserError as error:
        assert str(error).startswith((f"{folder}:", f"{folder}/")), error
        check_text(str(error))
        return False
    assert isinstance(metrics, dict) and {"task", "headline"} <= recipe.keys()
    return True


MADE_UP = st.dictionaries(
    st.one_of(st.sampled_from(["a.bin", "b/c.bin", "../outside", "", ".", "/", "/dev/null"]), st.text(max_size=6)),
    st.one_of(
        st.fixed_dictionaries({}, optional={"bytes": st.one_of(st.just(3), VALUES), "sha256": VALUES}), VALUES
    ),
    max_size=3,
)  # fmt: skip
MANIFESTS = st.one_of(
    st.lists(DAMAGES, max_size=2),
    st.one_of(MADE_UP, VALUES).map(lambda value: json.dumps(value).encode()),
    st.lists(st.sampled_from(PIECES), max_size=5).map(b"".join),
)


def attempt_manifest(drawn: tuple[list | bytes, int], folder: Path) -> bool:
    """A checkpoint is whole where all its bytes are as they were sealed; else it says why not, and is passed by."""
    manifest, number = drawn
    checkpoint = folder / "checkpoint-1"
    (checkpoint / "b").mkdir(parents=True)
    for name in ("a.bin", "b/c.bin"):
        (checkpoint / name).write_bytes(random.Random(number).randbytes(3))
    seal_checkpoint(checkpoint)
    sealed = (checkpoint / MANIFEST).read_bytes()
    written = manifest if isinstance(manifest, bytes) else damage(sealed, manifest)
    (checkpoint / MANIFEST).write_bytes(written)
    defect = find_defect(checkpoint)
    assert defect is None or (isinstance(defect, str) and defect)
    check_text(defect or "")
    try:
        there = json.loads(written.decode())
        is_same = isinstance(there["run"], dict) and there["files"] == json.loads(sealed)["files"]
    except (ValueError, RecursionError, KeyError, TypeError):
        is_same = False
    assert defect is None if is_same else defect is not None, (defect, written)
    assert find_newest_checkpoint(folder) == (checkpoint if is_same else None)
    return is_same


READERS = [
    Reader("files to predict", draw_input(), attempt_input, 4),
    Reader(
        "objects to predict",
        st.tuples(
            st.sampled_from(sorted(TASKS)), st.lists(st.one_of(SPOKEN, VALUES, *DRAWN.values()), min_size=1, max_size=3)
        ),
        attempt_items,
        3,
    ),
    Reader("recipe.json and metrics.json", st.tuples(JSON_FILES, JSON_FILES), attempt_result, 10),
    Reader("manifest.json", st.tuples(MANIFESTS, st.integers(0, 3)), attempt_manifest, 4),
]
