"""What the recipes are measured against: the same tasks with Hugging Face's plain Trainer, and no more than that.

    python benchmarks/plain.py --task ner --model_name_or_path DIRECTORY --train_file FILE --validation_file FILE ...

Lengths, padding, collators and precision are by default those of upstream's example scripts (dialogues: of TRL's SFT);
`--best_flags` is what they offer against slowness: dynamic padding, group_by_length and bfloat16 where there is some.
Scores are computed by this project's metrics, so that they can be compared. Group_by_length permutes the predictions
of upstream's question answering, which spoils its score; that is left as it is. TRL evaluates by the loss alone: to
be compared, replies are generated here in the order of the rows.
"""

import argparse
import json
from functools import partial
from pathlib import Path

from common.arguments import computes_bfloat16_natively
from common.garbage import search_as_usual
from common.metrics.answers import AnswerMetric
from common.metrics.replies import Replies
from common.metrics.summaries import Summaries
from common.metrics.translations import Translations

import numpy as np
from datasets import load_dataset
from seqeval.metrics import f1_score
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    default_data_collator,
    set_seed,
)

IGNORED = -100
MAX_NEW_TOKENS = 64  # of a reply
N_BEST, MAX_ANSWER_LENGTH = 20, 30


def parse_flags(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags that all contestants share, and which of the plain scripts this is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, choices=sorted(SCRIPTS), help="Which recipe this stands beside.")
    parser.add_argument("--best_flags", action="store_true", help="With what upstream offers against slowness.")
    parser.add_argument("--use_cpu", type=lambda text: text == "true", default=False, help="true: on the CPU.")
    parser.add_argument("--per_device_train_batch_size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--per_device_eval_batch_size", type=int, default=8, help="default: %(default)s")
    for name, kind in (("num_train_epochs", float), ("learning_rate", float), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True, help="As in TrainingArguments.")
    for name in ("model_name_or_path", "train_file", "validation_file", "output_dir"):
        parser.add_argument(f"--{name}", required=True, help="As in the recipes.")
    return parser.parse_args(arguments)


def make_training_arguments(flags: argparse.Namespace, **settings) -> Seq2SeqTrainingArguments:
    """Hugging Face's defaults, and with `best_flags` what is said to be faster."""
    if flags.best_flags:
        settings |= {"bf16": computes_bfloat16_natively(flags.use_cpu), "train_sampling_strategy": "group_by_length"}
    return Seq2SeqTrainingArguments(
        output_dir=flags.output_dir,
        num_train_epochs=flags.num_train_epochs,
        learning_rate=flags.learning_rate,
        per_device_train_batch_size=flags.per_device_train_batch_size,
        per_device_eval_batch_size=flags.per_device_eval_batch_size,
        seed=flags.seed,
        use_cpu=flags.use_cpu,
        report_to="none",
        **settings,
    )


def load_rows(flags: argparse.Namespace):
    """Both splits, and the tokenizer."""
    files = {"train": flags.train_file, "validation": flags.validation_file}
    rows = load_dataset("json", data_files=files, cache_dir=str(Path(flags.output_dir) / "cache"))
    return rows, AutoTokenizer.from_pretrained(flags.model_name_or_path)


def classify_texts(flags: argparse.Namespace) -> dict[str, float]:
    """As run_glue: padded to 128 unless pad_to_max_length is switched off."""
    rows, tokenizer = load_rows(flags)
    names = sorted(set(rows["train"]["label"]))
    padding = False if flags.best_flags else "max_length"
    features = rows.map(
        partial(_tokenize_texts, tokenizer=tokenizer, names=names, padding=padding),
        batched=True,
        remove_columns=rows["train"].column_names,
    )
    model = AutoModelForSequenceClassification.from_pretrained(flags.model_name_or_path, num_labels=len(names))
    trainer = Trainer(
        model=model,
        args=make_training_arguments(flags),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer) if flags.best_flags else default_data_collator,
        compute_metrics=_score_classes,
    )
    trainer.train()
    trainer.save_model()
    return {"accuracy": trainer.evaluate()["eval_accuracy"]}


def _tokenize_texts(rows, tokenizer, names, padding):
    encoded = tokenizer(rows["text"], padding=padding, max_length=128, truncation=True)
    return encoded | {"labels": [names.index(label) for label in rows["label"]]}


def _score_classes(evaluated):
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


def tag_words(flags: argparse.Namespace) -> dict[str, float]:
    """As run_ner: each batch padded to its longest sentence, in both variants."""
    rows, tokenizer = load_rows(flags)
    names = sorted({tag for split in rows.values() for tags in split["tags"] for tag in tags})
    features = rows.map(
        partial(_tokenize_words, tokenizer=tokenizer, names=names),
        batched=True,
        remove_columns=rows["train"].column_names,
    )
    model = AutoModelForTokenClassification.from_pretrained(flags.model_name_or_path, num_labels=len(names))
    trainer = Trainer(
        model=model,
        args=make_training_arguments(flags),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=partial(_score_tags, names=names),
    )
    trainer.train()
    trainer.save_model()
    return {"f1": trainer.evaluate()["eval_f1"]}


def _tokenize_words(rows, tokenizer, names):
    encoded = tokenizer(rows["tokens"], truncation=True, is_split_into_words=True)
    labels = []
    for number, tags in enumerate(rows["tags"]):
        words = encoded.word_ids(number)
        firsts = [word is not None and word != before for before, word in zip([None, *words], words, strict=False)]
        labels.append(
            [names.index(tags[word]) if first else IGNORED for word, first in zip(words, firsts, strict=True)]
        )
    return encoded | {"labels": labels}


def _score_tags(evaluated, names):
    gold, found = [], []
    for labels, guesses in zip(evaluated.label_ids, evaluated.predictions.argmax(-1), strict=True):
        kept = labels != IGNORED
        gold.append([names[label] for label in labels[kept]])
        found.append([names[guess] for guess in guesses[kept]])
    return {"f1": float(f1_score(gold, found))}


def answer_questions(flags: argparse.Namespace) -> dict[str, float]:
    """As run_qa: windows of 384 pieces, 128 of them shared, padded to 384 unless pad_to_max_length is switched off."""
    rows, tokenizer = load_rows(flags)
    padding = False if flags.best_flags else "max_length"
    windows = {
        split: part.map(
            partial(_cut_windows, tokenizer=tokenizer, padding=padding, is_training=split == "train"),
            batched=True,
            with_indices=True,
            remove_columns=part.column_names,
        )
        for split, part in rows.items()
    }
    model = AutoModelForQuestionAnswering.from_pretrained(flags.model_name_or_path)
    trainer = Trainer(
        model=model,
        args=make_training_arguments(flags),
        train_dataset=windows["train"],
        eval_dataset=windows["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer) if flags.best_flags else default_data_collator,
    )
    trainer.train()
    trainer.save_model()
    logits = trainer.predict(windows["validation"].remove_columns(["offset_mapping", "row"])).predictions
    texts = _pick_answers(logits, windows["validation"], rows["validation"]["context"])
    references = [answers["text"] for answers in rows["validation"]["answers"]]
    return {"f1": AnswerMetric().compute(predictions=texts, references=references)["f1"]}


def _cut_windows(rows, indices, tokenizer, padding, is_training):
    encoded = tokenizer(
        [question.lstrip() for question in rows["question"]],
        rows["context"],
        truncation="only_second",
        max_length=384,
        stride=128,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=padding,
    )
    owners, places = encoded.pop("overflow_to_sample_mapping"), encoded["offset_mapping"]
    starts, ends = [], []
    for number, owner in enumerate(owners):
        in_context = [side == 1 for side in encoded.sequence_ids(number)]
        if is_training:
            start, end = _find_answer(rows["answers"][owner], places[number], in_context)
            starts.append(start)
            ends.append(end)
        else:
            places[number] = [pair if inside else None for pair, inside in zip(places[number], in_context, strict=True)]
    if is_training:
        encoded.pop("offset_mapping")
        return encoded | {"start_positions": starts, "end_positions": ends}
    return encoded | {"row": [indices[owner] for owner in owners]}


def _find_answer(answers, places, in_context) -> tuple[int, int]:
    """First and last piece of the answer; (0, 0), where [CLS] is, for a window that does not hold all of it."""
    if not answers["text"]:
        return 0, 0
    begin = answers["answer_start"][0]
    stop = begin + len(answers["text"][0])
    inside = [number for number, is_inside in enumerate(in_context) if is_inside]
    if places[inside[0]][0] > begin or places[inside[-1]][1] < stop:
        return 0, 0
    return (
        max(number for number in inside if places[number][0] <= begin),
        min(number for number in inside if places[number][1] >= stop),
    )


def _pick_answers(logits, windows, contexts) -> list[str]:
    best = [(-np.inf, "")] * len(contexts)
    for starts, ends, places, row in zip(*logits, windows["offset_mapping"], windows["row"], strict=False):
        for start in np.argsort(-starts)[:N_BEST]:
            for end in np.argsort(-ends)[:N_BEST]:
                if max(start, end) >= len(places) or places[start] is None or places[end] is None:
                    continue
                score = starts[start] + ends[end]
                if start <= end < start + MAX_ANSWER_LENGTH and score > best[row][0]:
                    best[row] = (score, contexts[row][places[start][0] : places[end][1]])
    return [text for _, text in best]


def translate(flags: argparse.Namespace) -> dict[str, float]:
    """As run_translation: sources up to 1024 pieces, targets up to 128, each batch padded to its longest."""
    metric = Translations("de")
    texts, gold = _train_on_pairs(flags, partial(_split_pair, names=("en", "de")))
    return {"bleu": metric.compute(predictions=texts, references=gold)["bleu"]}


def summarize(flags: argparse.Namespace) -> dict[str, float]:
    """As run_summarization: documents up to 1024 pieces, summaries up to 128, each batch padded to its longest."""
    texts, gold = _train_on_pairs(flags, _split_document)
    return {"rougeL": Summaries().compute(predictions=texts, references=gold)["rougeL"]}


def _split_pair(rows, names):
    return tuple([pair[name] for pair in rows["translation"]] for name in names)


def _split_document(rows):
    return rows["document"], rows["summary"]


def _train_on_pairs(flags, split_rows) -> tuple[list[str], list[str]]:
    rows, tokenizer = load_rows(flags)
    features = rows.map(
        partial(_tokenize_pairs, tokenizer=tokenizer, split_rows=split_rows),
        batched=True,
        remove_columns=rows["train"].column_names,
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(flags.model_name_or_path)
    settings = {"predict_with_generate": True, "generation_max_length": 128, "generation_num_beams": 1}
    trainer = Seq2SeqTrainer(
        model=model,
        args=make_training_arguments(flags, **settings),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=IGNORED),
    )
    trainer.train()
    trainer.save_model()
    found = trainer.predict(features["validation"])
    # Texts and targets stand side by side, in whatever order they came.
    sides = (np.where(ids == IGNORED, tokenizer.pad_token_id, ids) for ids in (found.predictions, found.label_ids))
    return tuple([text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)] for ids in sides)


def _tokenize_pairs(rows, tokenizer, split_rows):
    sources, targets = split_rows(rows)
    encoded = tokenizer(sources, max_length=1024, truncation=True)
    return encoded | {"labels": tokenizer(text_target=targets, max_length=128, truncation=True)["input_ids"]}


def chat(flags: argparse.Namespace) -> dict[str, float]:
    """As TRL's SFT: dialogues up to 1024 pieces, all of them learnt, each batch padded to its longest."""
    rows, tokenizer = load_rows(flags)
    names = rows["train"].column_names
    dialogues = rows["train"].map(partial(_render_dialogue, tokenizer=tokenizer), remove_columns=names)
    prompts = rows["validation"].map(
        partial(_render_prompts, tokenizer=tokenizer), batched=True, remove_columns=rows["validation"].column_names
    )
    model = AutoModelForCausalLM.from_pretrained(flags.model_name_or_path)
    args = make_training_arguments(flags, predict_with_generate=True)
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=dialogues,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    trainer.save_model()
    gold = prompts["reply"]
    args.train_sampling_strategy = "random"  # else the replies would come in another order
    tokenizer.padding_side = "left"
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1, "do_sample": False}
    ids = trainer.predict(prompts.remove_columns(["reply"]), **settings).predictions
    texts = _decode_replies(ids, prompts["input_ids"], flags.per_device_eval_batch_size, tokenizer)
    return {"rougeL": Replies("en").compute(predictions=texts, references=gold)["rougeL"]}


def _render_dialogue(row, tokenizer):
    return tokenizer.apply_chat_template(row["messages"], truncation=True, max_length=1024, return_dict=True)


def _render_prompts(rows, tokenizer):
    rendered = {"input_ids": [], "attention_mask": [], "reply": []}
    for messages in rows["messages"]:
        for number, message in enumerate(messages):
            if message["role"] == "assistant" and number:
                prompt = tokenizer.apply_chat_template(messages[:number], add_generation_prompt=True, return_dict=True)
                # Room for the reply, as in the recipe; what came first is dropped.
                ids = prompt["input_ids"][-(1024 - MAX_NEW_TOKENS) :]
                rendered["input_ids"].append(ids)
                rendered["attention_mask"].append([1] * len(ids))
                rendered["reply"].append(message["content"])
    return rendered


def _decode_replies(ids, prompts, batch_size, tokenizer) -> list[str]:
    texts = []
    for start in range(0, len(prompts), batch_size):
        longest = max(map(len, prompts[start : start + batch_size]))  # to which the batch was padded
        replies = ids[start : start + batch_size, longest:]
        replies = np.where(replies == IGNORED, tokenizer.pad_token_id, replies)
        texts += [text.strip() for text in tokenizer.batch_decode(replies, skip_special_tokens=True)]
    return texts


SCRIPTS = {
    "sentiment": classify_texts,
    "ner": tag_words,
    "qa": answer_questions,
    "translation": translate,
    "summarization": summarize,
    "dialogue": chat,
}


def main(arguments: list[str] | None = None) -> None:
    """Train, evaluate and write metrics.json."""
    search_as_usual()  # as upstream's scripts, which do not import `common`
    flags = parse_flags(arguments)
    set_seed(flags.seed)
    scores = SCRIPTS[flags.task](flags)
    metrics = {f"validation_{name}": value for name, value in scores.items()}
    (Path(flags.output_dir) / "metrics.json").write_text(json.dumps(metrics) + "\n")


if __name__ == "__main__":
    main()
