"""Faults of questions: answers that do not stand where they are said to, and what is too long (group C, qa)."""

import json
import unicodedata
from functools import partial
from pathlib import Path

from tests.conftest import ROOT, read_jsonl
from tests.faults.fault import Fault, Finding, judge_survival, spread
from tests.faults.samples import (
    change,
    evaluate,
    judge_words,
    read_metrics,
    read_predictions,
    refuse,
    try_training,
)

CONTEXT = "Ada was born in Paris and died in London."  # Paris stands at 16
QUESTION = {"question": "Where was Ada born?", "context": CONTEXT, "answers": {"text": ["Paris"], "answer_start": [16]}}


def list_questions(number: int = 24, split: str = "train") -> list[dict]:
    rows = read_jsonl(ROOT / "recipes" / "qa" / "sample" / f"{split}.jsonl")[:number]
    return [{name: row[name] for name in ("id", "question", "context", "answers")} for row in rows]


def refuse_question(pattern: str, values: dict, recipe: str, folder: Path) -> Finding:
    """One question of the training file is another, spoilt one."""
    rows = change(list_questions(), 14, **(QUESTION | values))
    return refuse(recipe, folder, rows, ":14: " + pattern)


def answer(text: object, start: object) -> dict:
    return {"answers": {"text": [text], "answer_start": [start]}}


def refuse_zeros(recipe: str, folder: Path) -> Finding:
    """Every answer is said to stand at 0: each row is named, with the place where its answer stands."""
    rows = [row | QUESTION | answer("Paris", 0) for row in list_questions(4)]
    line = (
        r"answers: 'Paris': at answer_start 0 the context has 'Ada w'; it stands at 16, correct it or set find_answers"
    )
    return refuse(recipe, folder, rows, rf":1: {line}\n.*:2: {line}\n.*:3: {line}\n.*:4: {line}")


def refuse_decomposed(recipe: str, folder: Path) -> Finding:
    """Accents as letters of their own shift what follows: counted in the text with them, read in the one without."""
    context = "Zoë and René met in Paris."
    start = unicodedata.normalize("NFD", context).index("Paris")
    values = {"context": context, **answer("Paris", start)}
    pattern = r"answers: 'Paris': at answer_start 22 the context has 'ris\.'; it stands at 20, correct it or set"
    return refuse_question(pattern, values, recipe, folder)


def judge_answers(recipe: str, folder: Path, rows: list[dict], *flags: object, content=None, name="v.jsonl") -> Finding:
    """survives where every question has one prediction, in their order, beside all its gold answers."""
    run = evaluate(recipe, folder, rows if content is None else content, *flags, name=name)
    predicted = [(row["question"], row.get("answers")) for row in read_predictions(folder)]
    gold = [(row["question"], row["answers"]["text"]) for row in rows]
    has_score = "validation_exact_match" in read_metrics(folder)
    return judge_survival(run, has_score and predicted == gold, f"{len(predicted)} of {len(gold)}: {run.tail()}")


def answer_nothing(recipe: str, folder: Path) -> Finding:
    """Questions without answer are learnt and scored as such: "" is right for them."""
    rows = change(list_questions(8, "validation"), 2, **{"answers": {"text": [], "answer_start": []}})
    rows = change(rows, 5, answers={"text": [], "answer_start": []})
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in change(list_questions(), 3, answers=rows[1]["answers"])))
    share = sum(not row["answers"]["text"] for row in rows) / len(rows)
    # A threshold below all null scores: every prediction is "", which is right for these.
    found = judge_answers(recipe, folder, rows, "--train_file", train, "--null_threshold", "-1000")
    if found.verdict != "survives" or read_metrics(folder)["validation_exact_match"] == share:
        return found
    return Finding("silently wrong", str(read_metrics(folder)))


def cut_question(recipe: str, folder: Path) -> Finding:
    rows = change(list_questions(8, "validation"), 3, question="Where " + "on earth " * 200 + "was it?")
    run = evaluate(recipe, folder, rows, "--max_seq_length", "64", "--doc_stride", "16")
    return judge_words(run, "1 questions are cut", is_right=len(read_predictions(folder)) == 8)


def refuse_wide_stride(recipe: str, folder: Path) -> Finding:
    """Windows that overlap by more than they hold."""
    run = evaluate(recipe, folder, list_questions(8, "validation"), "--max_seq_length", "64", "--doc_stride", "64")
    said = "doc_stride 64 leaves no room for questions in max_seq_length 64: set it to 52 or less"
    if "parameters" in run.stdout or said not in run.stderr or (folder / "result").exists():
        return Finding("obscure", run.tail())
    return Finding("clear" if run.code else "silently wrong", said)


def refuse_repeated_id(recipe: str, folder: Path) -> Finding:
    rows = list_questions(8)
    rows = change(rows, 6, id=rows[1]["id"])
    return refuse(
        recipe, folder, rows, rf':6: the id "{rows[1]["id"]}" is already that of .*:2; give every row its own'
    )


def number_questions(recipe: str, folder: Path) -> Finding:
    """Without ids questions are numbered, and none is lost."""
    rows = [{name: value for name, value in row.items() if name != "id"} for row in list_questions(8, "validation")]
    found = judge_answers(recipe, folder, rows)
    ids = [row["id"] for row in read_predictions(folder)]
    return found if len(set(ids)) == 8 else Finding("silently wrong", str(ids))


def read_articles(recipe: str, folder: Path) -> Finding:
    """SQuAD's own shape: two articles, with paragraphs of several questions."""
    rows = list_questions(8, "validation")
    paragraphs = [
        {"context": row["context"], "qas": [{"id": row["id"], "question": row["question"], "answers": [
            {"text": text, "answer_start": start}
            for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)]}]}
        for row in rows
    ]  # fmt: skip
    data = [{"title": "a", "paragraphs": paragraphs[:5]}, {"title": "b", "paragraphs": paragraphs[5:]}]
    text = json.dumps({"version": "1.1", "data": data})
    return judge_answers(recipe, folder, rows, content=text, name="dev.json")


def read_endless_context(recipe: str, folder: Path) -> Finding:
    """A million characters behind the answer: thousands of windows, counted, and the answer is in one of them."""
    rows = change(list_questions(8), 3, **(QUESTION | {"context": CONTEXT + " " + "a b " * 250_000}))
    run = try_training(recipe, folder, rows)
    return judge_words(run, r"\d,\d\d\d more than questions; 0 answers fit into no window, 0 are not in")


QA = ("qa",)
FAULTS = [
    Fault(
        "C47",
        "answers that stand elsewhere",
        "silently wrong",
        "clear",
        spread(
            "by 3",
            partial(
                refuse_question,
                "answers: 'Paris': at answer_start 19 the context has 'is an'; it stands "
                "at 16, correct it or set find_answers",
                answer("Paris", 19),
            ),
            QA,
        )
        + spread(
            "99999",
            partial(
                refuse_question,
                "answers: 'Paris': answer_start 99999 is outside the context of 41 characters; it stands at 16",
                answer("Paris", 99999),
            ),
            QA,
        )
        + spread(
            "-1",
            partial(
                refuse_question,
                "answers: 'Paris': answer_start -1 is outside the context of 41 characters",
                answer("Paris", -1),
            ),
            QA,
        ),
    ),
    Fault("C48", "all answers are said to stand at 0", "silently wrong", "clear", spread("", refuse_zeros, QA)),
    Fault(
        "C49",
        "places counted in a text with other accents",
        "silently wrong",
        "clear",
        spread("", refuse_decomposed, QA),
    ),
    Fault(
        "C50",
        "an answer or a question without text",
        "silently wrong",
        "clear",
        spread(
            "answer",
            partial(refuse_question, "answers: the text is ''; write a text, or no answer at all where", answer("", 0)),
            QA,
        )
        + spread("question", partial(refuse_question, "question: it is empty; write a text", {"question": ""}), QA),
    ),
    Fault(
        "C51",
        "more answers than places",
        "obscure",
        "clear",
        spread(
            "",
            partial(
                refuse_question,
                "answers: text and answer_start must be lists of the same length; give every text its start",
                {"answers": {"text": ["Paris", "London"], "answer_start": [16]}},
            ),
            QA,
        ),
    ),
    Fault("C52", "questions without an answer", "silently wrong", "survives", spread("", answer_nothing, QA)),
    Fault(
        "C53",
        "a context that is empty or null, answers that are null",
        "obscure",
        "clear",
        spread("empty", partial(refuse_question, "context: it is empty; write a text", {"context": ""}), QA)
        + spread("null", partial(refuse_question, '"context" is null; give every row a value', {"context": None}), QA)
        + spread(
            "answers", partial(refuse_question, '"answers" is null; give every row a value', {"answers": None}), QA
        ),
    ),
    Fault(
        "C54", "a question that is longer than the model's input", "obscure", "survives", spread("", cut_question, QA)
    ),
    Fault("C55", "windows that overlap by all they hold", "clear", "clear", spread("", refuse_wide_stride, QA)),
    Fault("C56", "an id that is there twice", "silently wrong", "clear", spread("", refuse_repeated_id, QA)),
    Fault("C57", "questions without ids", "obscure", "survives", spread("", number_questions, QA)),
    Fault("C58", "articles with paragraphs of questions", "obscure", "survives", spread("", read_articles, QA)),
    Fault(
        "C59",
        "questions as JSON lines",
        "obscure",
        "survives",
        spread("", lambda recipe, folder: judge_answers(recipe, folder, list_questions(8, "validation")), QA),
    ),
    Fault("C60", "a context of a million characters", "survives", "survives", spread("", read_endless_context, QA)),
]
