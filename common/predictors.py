"""The six tasks as prediction needs them: what is read of an input, what the model gets, and the row that comes out.

Each class knows its `model_class`, the `columns` of a row (our name, and the names that it may have in the data), how
to `unfold` an input into such rows, how to `read` one of them, or refuse it with a RowError before any model is loaded,
and how to `predict` rows that were read: as the recipe writes them to predictions_<split>.jsonl, without what is gold.
`compute(windows, function)`, which it is given for that, returns what `function(model, batch)`, a tuple, has for each
window, in the order of the windows.
"""

import json
from collections.abc import Callable

from common.answers import pick_answers
from common.calibration import Calibration
from common.classification import list_labels, pool_windows
from common.data import RowError, require_text
from common.dialogues import encode_reply, list_replies
from common.generation import list_generated
from common.greedy import generate
from common.languages import name_columns, set_languages, unfold_translation
from common.losses import IGNORED
from common.messages import unfold_dialogue
from common.questions import encode_questions, flatten_article
from common.sentences import list_predictions, reduce_logits
from common.sequences import encode_side
from common.spans import rank_answers, reduce_span_logits
from common.tagging import read_words, split_words
from common.windows import encode_texts, encode_word_windows, refuse_slow_tokenizer

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerBase,
)

Compute = Callable[[dict[str, list], Callable], list[tuple[np.ndarray, ...]]]


class TextClassifier:
    """Texts or pairs of texts to their labels."""

    model_class = AutoModelForSequenceClassification

    def __init__(self, facts: dict, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.label_names = tokenizer, facts["labels"]
        self.columns = {"text": _name(facts["text_column_name"], "text", "sentence")}
        if facts["text_pair_column_name"]:
            self.columns["text_pair"] = (facts["text_pair_column_name"],)
        self.calibration = Calibration(facts["temperature"], facts["thresholds"])
        self.max_length = facts["max_seq_length"]
        self.doc_stride = facts["doc_stride"] if facts["long_text"] == "windows" else None

    def unfold(self, item: dict | str) -> list[dict]:
        """The row of an input; a text is its text."""
        if isinstance(item, str) and "text_pair" in self.columns:
            names = " and ".join(f'"{names[0]}"' for names in self.columns.values())
            raise RowError(f"the model reads pairs of texts; give an object with {names}")
        return [{self.columns["text"][0]: item} if isinstance(item, str) else item]

    def read(self, row: dict) -> dict:
        """The text or texts of a row."""
        return {name: require_text(row, name) for name in self.columns}

    def predict(self, rows: list[dict], compute: Compute) -> list[dict]:
        """Each text with its label or labels and their probabilities."""
        pairs = [row["text_pair"] for row in rows] if "text_pair" in self.columns else None
        texts = [row["text"] for row in rows]
        windows = encode_texts(self.tokenizer, texts, pairs, self.max_length, self.doc_stride)
        logits = np.stack(
            [row for (row,) in compute(windows, lambda model, batch: (model(**batch)["logits"].float(),))]
        )
        logits = pool_windows(logits, Dataset.from_dict({"row": windows["row"]}), len(rows))
        rows = [{"text_pair": None, "label_ids": None} | row for row in rows]
        return list_labels(logits, rows, self.label_names, self.calibration)


class EntityFinder:
    """Words to tags and entities."""

    model_class = AutoModelForTokenClassification

    def __init__(self, facts: dict, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.label_names = tokenizer, facts["labels"]
        self.columns = {"tokens": _name(facts["text_column_name"], "tokens", "words")}
        self.max_length, self.doc_stride = facts["max_seq_length"], facts["doc_stride"]

    def unfold(self, item: dict | str) -> list[dict]:
        """The row of an input; a text is cut into its words."""
        return [{self.columns["tokens"][0]: split_words(item)} if isinstance(item, str) else item]

    def read(self, row: dict) -> dict:
        """The words of a row."""
        return {"tokens": read_words(row["tokens"])}

    def predict(self, rows: list[dict], compute: Compute) -> list[dict]:
        """Each sentence with its tags and entities."""
        words = [row["tokens"] for row in rows]
        windows = encode_word_windows(self.tokenizer, words, self.max_length, self.doc_stride)
        found = compute(windows, lambda model, batch: reduce_logits(model(**batch)["logits"], None, None)[:2])
        longest = max(len(tag_ids) for tag_ids, _ in found)
        padded = [[np.pad(values, (0, longest - len(values))) for values in window] for window in found]
        predictions = [np.stack(part) for part in zip(*padded, strict=True)]
        sentences = {"id": [row["id"] for row in rows], "tokens": words, "tags": [None] * len(rows)}
        places = {name: windows[name] for name in ("first_word", "positions")} | {"row": windows["row"]}
        return list_predictions(predictions, Dataset.from_dict(places), Dataset.from_dict(sentences), self.label_names)


class QuestionAnswerer:
    """Questions about a context to answers in it; `context` is that of the questions that have none of their own."""

    model_class = AutoModelForQuestionAnswering

    def __init__(self, facts: dict, tokenizer: PreTrainedTokenizerBase):
        refuse_slow_tokenizer(tokenizer)
        self.tokenizer, self.context = tokenizer, None
        self.columns = {"question": (facts["question_column_name"],), "context": (facts["context_column_name"],)}
        self.max_length, self.doc_stride = facts["max_seq_length"], facts["doc_stride"]
        self.spans = {"n_best": facts["n_best_size"], "max_answer_length": facts["max_answer_length"]}
        self.n_best = facts["n_best_size"] if facts["save_n_best"] else 1
        self.null_threshold = facts["null_threshold"]

    def unfold(self, item: dict | str) -> list[dict]:
        """The questions of an input: one, or all of a nested SQuAD article; a text is a question."""
        question, context = (names[0] for names in self.columns.values())
        if isinstance(item, str) and self.context is None:
            raise RowError(
                f'a question needs the text that it is about; give it with --context, or write {{"{question}": "...", '
                f'"{context}": "..."}}'
            )
        rows = [{question: item}] if isinstance(item, str) else list(flatten_article(item))
        return rows if self.context is None else [{context: self.context} | row for row in rows]

    def read(self, row: dict) -> dict:
        """The question and the context of a row."""
        return {"question": require_text(row, "question").strip(), "context": require_text(row, "context")}

    def predict(self, rows: list[dict], compute: Compute) -> list[dict]:
        """Each question with its answer, where that stands and how sure it is."""
        texts = ([row[name] for row in rows] for name in ("question", "context"))
        windows = encode_questions(self.tokenizer, *texts, self.max_length, self.doc_stride)
        places = zip(windows["context_start"], windows["starts"], windows.pop("null"), strict=True)
        windows["labels"] = [[IGNORED, IGNORED, first, first + len(starts) - 1, null] for first, starts, null in places]
        found = compute(windows, self._reduce)
        predictions = [np.stack(part) for part in zip(*found, strict=True)]
        places = {name: windows[name] for name in ("context_start", "starts", "ends")}
        ranked = rank_answers(predictions, Dataset.from_dict(places | {"row": windows["row"]}), rows)
        return pick_answers(ranked, [{"answers": None} | row for row in rows], self.null_threshold, self.n_best)

    def _reduce(self, model, batch: dict) -> tuple:
        labels = batch.pop("labels")
        outputs = model(**batch)
        return reduce_span_logits((outputs["start_logits"], outputs["end_logits"]), labels, **self.spans)


class Translator:
    """Texts in one language to texts in another."""

    model_class = AutoModelForSeq2SeqLM

    def __init__(self, facts: dict, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.prefix, self.max_length = tokenizer, facts["source_prefix"], facts["max_source_length"]
        languages = facts["source_lang"], facts["target_lang"]
        set_languages(tokenizer, *languages)
        self.columns = {"source": name_columns(languages, facts["source_column_name"], None)["source"]}

    def unfold(self, item: dict | str) -> list[dict]:
        """The row of an input, also of the Hub's {"translation": {...}}; a text is the source."""
        return [{self.columns["source"][0]: item}] if isinstance(item, str) else unfold_translation(item)

    def read(self, row: dict) -> dict:
        """The source of a row."""
        return {"source": require_text(row, "source")}

    def predict(self, rows: list[dict], compute: Compute) -> list[dict]:
        """Each source with its translation."""
        sources = [row["source"] for row in rows]
        texts = _write_texts(self.tokenizer, sources, self.prefix, self.max_length, "head", compute)
        rows = [row | {"target": None} for row in rows]
        return list_generated(texts, rows, "source", "target", [None] * len(rows))


class Summarizer:
    """Documents to summaries."""

    model_class = AutoModelForSeq2SeqLM

    def __init__(self, facts: dict, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.prefix, self.max_length = tokenizer, facts["source_prefix"], facts["max_source_length"]
        self.keep = facts["long_text"]
        set_languages(tokenizer, facts["lang"], facts["lang"], flags=("lang", "lang"))
        self.columns = {"document": _name(facts["document_column_name"], "document", "text", "article")}

    def unfold(self, item: dict | str) -> list[dict]:
        """The row of an input; a text is the document."""
        return [{self.columns["document"][0]: item} if isinstance(item, str) else item]

    def read(self, row: dict) -> dict:
        """The document of a row."""
        return {"document": require_text(row, "document")}

    def predict(self, rows: list[dict], compute: Compute) -> list[dict]:
        """Each document with its summary."""
        documents = [row["document"] for row in rows]
        texts = _write_texts(self.tokenizer, documents, self.prefix, self.max_length, self.keep, compute)
        rows = [row | {"summary": None} for row in rows]
        return list_generated(texts, rows, "document", "summary", [None] * len(rows))


class Replier:
    """Dialogues to the assistant's replies: the next one where the user spoke last, and those within it."""

    model_class = AutoModelForCausalLM
    columns = {"messages": ("messages",)}

    def __init__(self, facts: dict, tokenizer: PreTrainedTokenizerBase):
        refuse_slow_tokenizer(tokenizer)
        self.tokenizer, self.column, self.turns = tokenizer, facts["messages_column_name"], facts["assistant_turns"]
        self.repeated_roles = facts["repeated_roles"]
        self.settings = {"tokenizer": tokenizer, "end_of_turn": facts["end_of_turn"]}
        self.settings |= {"max_length": facts["max_seq_length"], "max_new_tokens": facts["max_new_tokens"]}
        tokenizer.padding_side = "left"  # generation goes on from the right

    def unfold(self, item: dict | list | str) -> list[dict]:
        """The dialogue of an input; a text is what the user says, a list its messages, also written as JSON."""
        if isinstance(item, str):
            messages = _parse_messages(item)
            item = [{"role": "user", "content": item}] if messages is None else messages
        row = {self.column or "messages": item} if isinstance(item, list) else item
        return list(unfold_dialogue(row, self.column, self.repeated_roles))

    def read(self, row: dict) -> dict:
        """The prompt for each reply, in pieces; the replies within a dialogue are read with those that were given."""
        replies = []
        for reply in list_replies([{"id": "", "origin": "", "messages": row["messages"]}], self.turns):
            encoded = encode_reply(reply["messages"], reply["reply"], **self.settings)
            pieces = zip(encoded["input_ids"], encoded["labels"], strict=True)
            ids = [piece for piece, label in pieces if label == IGNORED]  # the labels are the reply that was given
            replies.append({"turn": reply["turn"], "prompt": reply["prompt"], "input_ids": ids})
        return {"replies": replies}

    def predict(self, rows: list[dict], compute: Compute) -> list[dict]:
        """Each dialogue with the replies of the model; `turn` is their number among the messages, counted from 0."""
        replies = [dict(reply) for row in rows for reply in row["replies"]]
        prompts = [reply.pop("input_ids") for reply in replies]
        windows = {"input_ids": prompts, "attention_mask": [[1] * len(ids) for ids in prompts]}
        texts = _decode(self.tokenizer, compute(windows, _write_batch))
        listed = iter([reply | {"predicted_reply": text} for reply, text in zip(replies, texts, strict=True)])
        return [{"id": row["id"], "replies": [next(listed) for _ in row["replies"]]} for row in rows]


TASKS = {
    "sentiment": TextClassifier, "ner": EntityFinder, "qa": QuestionAnswerer, "translation": Translator,
    "summarization": Summarizer, "dialogue": Replier,
}  # fmt: skip


def _name(chosen: str | None, *defaults: str) -> tuple[str, ...]:
    """The names that a column may have: the one that the run was told, else the defaults."""
    return (chosen,) if chosen else defaults


def _write_texts(tokenizer, sources: list[str], prefix: str, max_length: int, keep: str, compute: Compute) -> list[str]:
    """What an encoder-decoder writes for each source."""
    ids, _ = encode_side(tokenizer, sources, max_length, keep, prefix=prefix)
    windows = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
    return _decode(tokenizer, compute(windows, _write_batch))


def _write_batch(model, batch: dict) -> tuple:
    return (generate(model, **batch),)


def _decode(tokenizer, generated: list[tuple[np.ndarray]]) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for (ids,) in generated]


def _parse_messages(text: str) -> list | None:
    """The list of messages that a text is as JSON; None where it is a text."""
    if not text.lstrip().startswith(("[{", '["')):
        return None
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"invalid JSON: {error}; write a list of messages, or a text") from None
    return messages if isinstance(messages, list) else None
