"""Questions about a text, in the shapes that SQuAD and its kin come in, and where their answers stand."""

import json
from collections.abc import Iterator

from common.data import RowError
from common.errors import UserError
from common.spans import find_context

from datasets import DatasetDict

SHORTEST_QUESTION = 8  # pieces: less would not be a question


def flatten_article(row: dict) -> Iterator[dict]:
    """The questions of a nested SQuAD article, each with its context; a flat row is given back as it is."""
    if "paragraphs" not in row:
        yield row
        return
    title = {"title": row["title"]} if "title" in row else {}
    for number, paragraph in enumerate(_get_list(row, "paragraphs", "the article")):
        place = f"paragraphs[{number}]"
        if not isinstance(paragraph, dict) or "context" not in paragraph:
            raise RowError(f"{place}: it has no context; write {{'context': ..., 'qas': [...]}}")
        for question in _get_list(paragraph, "qas", place):
            if not isinstance(question, dict):
                raise RowError(f"{place}: a question is {str(question)[:60]!r}; write {{'id', 'question', 'answers'}}")
            yield title | {"context": paragraph["context"]} | question


def _get_list(owner: dict, key: str, place: str) -> list:
    value = owner.get(key)
    if not isinstance(value, list):
        raise RowError(f"{place}: its {key} are {str(value)[:60]!r}; give a list")
    return value


def read_answers(value, context: str, find_answers: bool = False) -> tuple[list[str], list[int]] | tuple[None, None]:
    """The texts of the answers and the characters of `context` where they start; RowError where they do not fit.

    Both are None where `value` is, and [] where the context does not hold the answer. With `find_answers` a start that
    does not fit is replaced by the nearest place where the text stands, and by -1 where it stands nowhere: such
    an answer is scored, and not trained.
    """
    if value is None:
        return None, None
    texts, starts = _read_answers(value)
    for index, (text, start) in enumerate(zip(texts, starts, strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise RowError(f"answers: the text is {text!r}; write a text, or no answer at all where there is none")
        if start is not None and (isinstance(start, bool) or not isinstance(start, int)):
            raise RowError(f"answers: answer_start is {start!r}; give the number of characters before the answer")
        if start is None or start < 0 or context[start : start + len(text)] != text:
            places = _find_places(text, context)
            if not find_answers:
                raise RowError(_explain_misfit(text, start, context, places))
            starts[index] = min(places, key=lambda place: abs(place - (start or 0)), default=-1)
    return texts, starts


def _read_answers(value) -> tuple[list, list]:
    """Texts and starts from {"text": [...], "answer_start": [...]}, from [{"text", "answer_start"}, ...] or a text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):  # a field of a CSV file
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            if value.lstrip()[0] == "{":  # an answer may begin with a bracket
                raise RowError(f"answers: invalid JSON in the field: {error.msg}; write the answers as JSON") from None
    if isinstance(value, dict) and "text" in value:
        texts, starts = value["text"], value.get("answer_start")
        texts = [texts] if isinstance(texts, str) else texts
        starts = [starts] if isinstance(starts, int) else starts
    else:
        answers = value if isinstance(value, list) else [value]
        answers = [{"text": answer} if isinstance(answer, str) else answer for answer in answers]
        if not all(isinstance(answer, dict) and "text" in answer for answer in answers):
            raise RowError(f"answers: {str(value)[:60]!r} is no answer; write {{'text': [...], 'answer_start': [...]}}")
        texts, starts = ([answer.get(key) for answer in answers] for key in ("text", "answer_start"))
    starts = [None] * len(texts) if starts is None and isinstance(texts, list) else starts
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise RowError("answers: text and answer_start must be lists of the same length; give every text its start")
    return texts, list(starts)


def _find_places(text: str, context: str) -> list[int]:
    places, start = [], context.find(text)
    while start >= 0:
        places.append(start)
        start = context.find(text, start + 1)
    return places


def _explain_misfit(text: str, start: int | None, context: str, places: list[int]) -> str:
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    if start is None:
        problem = "it has no answer_start"
    elif not 0 <= start < len(context):
        problem = f"answer_start {start} is outside the context of {len(context)} characters"
    else:
        problem = f"at answer_start {start} the context has {context[start : start + min(len(text), 60)]!r}"
    found = f"it stands at {', '.join(map(str, places[:3]))}" if places else "it stands nowhere in the context"
    return f"answers: {shown!r}: {problem}; {found}, correct it or set find_answers"


def cut_questions(tokenizer, questions: list[str], max_length: int, doc_stride: int) -> tuple[list[str], list[bool]]:
    """The questions, each cut to what leaves room for a window of its context, and whether it was cut."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    # Half of the input at most, and windows have to get further than they overlap.
    most = min(max_length // 2, max_length - special - doc_stride - 1)
    if max_length // 2 < SHORTEST_QUESTION:
        raise UserError(
            f"max_seq_length is {max_length}: set it to {2 * SHORTEST_QUESTION} or more, to hold a question."
        )
    if most < SHORTEST_QUESTION:
        raise UserError(
            f"doc_stride {doc_stride} leaves no room for questions in max_seq_length {max_length}: set it to "
            f"{max(max_length - special - 1 - SHORTEST_QUESTION, 0)} or less, or max_seq_length higher."
        )
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, truncation=False)
    are_cut = [len(ids) > most for ids in encoded["input_ids"]]
    # Of a character that is several pieces all go, or none.
    shown = [
        question[: min(offsets[most - 1][1], offsets[most][0])] if is_cut else question
        for question, offsets, is_cut in zip(questions, encoded["offset_mapping"], are_cut, strict=True)
    ]
    return shown, are_cut


def encode_questions(
    tokenizer, questions: list[str], contexts: list[str], max_length: int, doc_stride: int
) -> dict[str, list]:
    """The model's inputs for each question: one window of its context or, where it is longer, several that overlap.

    `row` says which question a window belongs to, `question_is_cut` whether that one was too long, `context_start` at
    which piece the context begins, `starts` and `ends` at which of its characters the pieces do, and `null` is the
    piece that stands for "no answer": [CLS].
    """
    texts, are_cut = cut_questions(tokenizer, questions, max_length, doc_stride)
    how = {"truncation": "only_second", "max_length": max_length, "stride": doc_stride}
    how |= {"return_overflowing_tokens": True, "return_offsets_mapping": True}
    encoded = tokenizer(texts, contexts, **how)
    rows = encoded.pop("overflow_to_sample_mapping")
    offsets = encoded.pop("offset_mapping")
    windows = dict(encoded) | {"row": rows, "question_is_cut": [are_cut[row] for row in rows]}
    windows |= {"context_start": [], "starts": [], "ends": [], "null": []}
    for index, input_ids in enumerate(encoded["input_ids"]):
        first, end = find_context(encoded.sequence_ids(index))
        windows["context_start"].append(first)
        windows["starts"].append([start for start, _ in offsets[index][first:end]])
        windows["ends"].append([end for _, end in offsets[index][first:end]])
        windows["null"].append(input_ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in input_ids else 0)
    return windows


def describe_windows(windows: DatasetDict, questions: DatasetDict, max_length: int) -> str:
    """What the windows do to the answers: how many there are, and which answers no window holds."""
    counts = dict.fromkeys(("more", "lost", "unlocated", "cut"), 0)
    for split, rows in windows.items():
        table = rows.with_format("numpy", columns=["labels", "context_start", "row", "question_is_cut"])[:]
        holds_answer = table["labels"][:, 0] >= table["context_start"]
        found = set(table["row"][holds_answer].tolist())
        starts = questions[split]["answer_starts"]
        counts["more"] += len(rows) - len(starts)
        answered = {row: max(places) for row, places in enumerate(starts) if places}
        counts["unlocated"] += sum(place < 0 for place in answered.values())
        counts["lost"] += sum(place >= 0 and row not in found for row, place in answered.items())
        counts["cut"] += len(set(table["row"][table["question_is_cut"]].tolist()))
    return (
        f"up to {max_length} pieces, {counts['more']:,} more than questions; {counts['lost']} answers fit into no "
        f"window, {counts['unlocated']} are not in their context, {counts['cut']} questions are cut"
    )
