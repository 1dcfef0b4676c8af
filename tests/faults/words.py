"""Faults of tagged sentences: words and tags that do not fit each other, or the model (group C, ner)."""

import json
from functools import partial
from pathlib import Path

from tests.conftest import ROOT, read_jsonl, save_encoder
from tests.faults.fault import Fault, Finding, judge_refusal, judge_survival, list_flags, run_recipe, spread
from tests.faults.samples import change, evaluate, read_metrics, read_predictions, refuse

ZERO_WIDTH = "\u200b"


def list_sentences(number: int = 24, split: str = "train") -> list[dict]:
    rows = read_jsonl(ROOT / "recipes" / "ner" / "sample" / f"{split}.jsonl")[:number]
    return [{name: row[name] for name in ("tokens", "tags")} for row in rows]


def refuse_sentence(pattern: str, values: dict, recipe: str, folder: Path) -> Finding:
    """One sentence of the training file has other words or tags."""
    return refuse(recipe, folder, change(list_sentences(), 14, **values), ":14: " + pattern)


def refuse_sentences(pattern: str, values: dict, recipe: str, folder: Path) -> Finding:
    """All of them have."""
    return refuse(recipe, folder, [row | values for row in list_sentences()], ":1: " + pattern)


def refuse_unseen_tag(recipe: str, folder: Path) -> Finding:
    rows = change(list_sentences(8, "validation"), 3, tokens=["x", "Oslo"], tags=["O", "B-EVENT"])
    pattern = ":3: tag B-EVENT does not occur in the training rows; add such rows, correct the tag, or name all tags in"
    return refuse(recipe, folder, rows, pattern, name="some.jsonl", split="validation")


def count_entities(rows: list[dict]) -> int:
    return sum(tag.startswith("B-") for row in rows for tag in row["tags"])


def judge_scores(recipe: str, folder: Path, rows: list[dict], *flags: object) -> Finding:
    """survives where every sentence has its tags in the predictions, and every entity counts in the scores."""
    run = evaluate(recipe, folder, rows, *flags)
    predicted = read_predictions(folder)
    is_whole = [row["tags"] for row in predicted] == [row["tags"] for row in rows]
    is_whole &= all(len(row["predicted_tags"]) == len(row["tags"]) for row in predicted)
    metrics = read_metrics(folder)
    scored = sum(value for name, value in metrics.items() if name.startswith("validation_support_"))
    return judge_survival(run, is_whole and scored == count_entities(rows), f"{scored} entities: {run.tail()}")


def score_invisible_word(recipe: str, folder: Path) -> Finding:
    """A word without any piece of its own, tagged as a person."""
    rows = change(list_sentences(8, "validation"), 3, tokens=["a", ZERO_WIDTH, "b"], tags=["O", "B-PER", "O"])
    return judge_scores(recipe, folder, rows)


def score_long_sentences(recipe: str, folder: Path) -> Finding:
    """Sentences of several windows: a sentence of 8, eight times as long, where 64 pieces are read at once."""
    rows = [{name: 8 * row[name] for name in row} for row in list_sentences(8, "validation")]
    return judge_scores(recipe, folder, rows, "--max_seq_length", "64", "--doc_stride", "16")


def refuse_slow_tokenizer(recipe: str, folder: Path) -> Finding:
    """A tokenizer in Python does not know where its pieces stand; said before broken weights are read."""
    model = save_encoder(folder / "model")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
    (model / "model.safetensors").write_bytes(b"broken")
    flags = list_flags(recipe, folder, "--model_name_or_path", model)
    flags = flags[flags.index("--max_steps") :]
    run = run_recipe(recipe, *flags)
    return judge_refusal(run, "CanineTokenizer does not say which piece belongs to which word: use a model with a fast",
                         absent=[folder / "result"])  # fmt: skip


WORDS = ["Ada", "lives", "in", "Oslo"]
TAGS = ["B-PER", "O", "O", "B-LOC"]
NER = ("ner",)
NO_WORDS = "tokens: it is .+; write a list of words, none of them empty"
FAULTS = [
    Fault(
        "C37",
        "fewer tags than words",
        "obscure",
        "clear",
        spread(
            "",
            partial(
                refuse_sentence,
                "tags: 3 tags for 4 words; give every word one tag",
                {"tokens": WORDS, "tags": TAGS[:3]},
            ),
            NER,
        ),
    ),
    Fault(
        "C38",
        "more tags than words",
        "silently wrong",
        "clear",
        spread(
            "",
            partial(
                refuse_sentence,
                "tags: 5 tags for 4 words; give every word one tag",
                {"tokens": WORDS, "tags": [*TAGS, "O"]},
            ),
            NER,
        ),
    ),
    Fault("C39", "a tag that only validation has", "obscure", "clear", spread("", refuse_unseen_tag, NER)),
    Fault(
        "C40",
        "an I that goes on with nothing; tags that are none",
        "silently wrong",
        "clear",
        spread(
            "I after O",
            partial(
                refuse_sentence,
                "tag I-LOC of word 4 goes on with no entity after O .*; correct the tag, or set tag_scheme",
                {"tokens": WORDS, "tags": ["B-PER", "O", "O", "I-LOC"]},
            ),
            NER,
        )
        + spread(
            "PERSON",
            partial(
                refuse_sentence,
                "tags: 'PERSON' is not a tag; write O, or B/",
                {"tokens": WORDS, "tags": ["PERSON", "O", "O", "O"]},
            ),
            NER,
        )
        + spread(
            "b-per",
            partial(
                refuse_sentence,
                "tags: 'b-per' is not a tag; write O, or B/",
                {"tokens": WORDS, "tags": ["b-per", "O", "O", "O"]},
            ),
            NER,
        ),
    ),
    Fault(
        "C41",
        "no words, or a word without letters",
        "survives",
        "clear",
        spread("no words", partial(refuse_sentence, NO_WORDS, {"tokens": [], "tags": []}), NER)
        + spread("empty word", partial(refuse_sentence, NO_WORDS, {"tokens": ["Ada", ""], "tags": ["O", "O"]}), NER),
    ),
    Fault(
        "C42",
        "a word that is null",
        "obscure",
        "clear",
        spread("", partial(refuse_sentence, NO_WORDS, {"tokens": ["Ada", None], "tags": ["O", "O"]}), NER),
    ),
    Fault(
        "C43",
        "a word that the tokenizer has no piece for",
        "silently wrong",
        "survives",
        spread("", score_invisible_word, NER),
    ),
    Fault(
        "C44",
        "sentences that are longer than the model's input",
        "silently wrong",
        "survives",
        spread("", score_long_sentences, NER),
    ),
    Fault(
        "C45",
        "a text for words, numbers for tags",
        "obscure",
        "clear",
        spread(
            "text",
            partial(
                refuse_sentence,
                "tags: 4 tags for 3 words; give every word one tag",
                {"tokens": "Ada lives there", "tags": TAGS},
            ),
            NER,
        )
        + spread(
            "numbers",
            partial(
                refuse_sentences,
                "tags: 1 is a number; name the tags in their order with tag_names",
                {"tokens": ["Ada", "left"], "tags": [1, 0]},
            ),
            NER,
        ),
    ),
    Fault(
        "C46",
        "a tokenizer that knows no places",
        "clear",
        "clear",
        spread("", refuse_slow_tokenizer, ("ner", "qa"), ("ner",)),
    ),
]
