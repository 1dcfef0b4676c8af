"""Fine-tune an encoder to answer questions about a text: the answer is a span of the text, or none.

    accelerate launch recipes/qa/run.py                                                  # the demo: offline, on a CPU
    accelerate launch recipes/qa/run.py --config recipes/qa/configs/full.yaml
    accelerate launch recipes/qa/run.py --config recipes/qa/configs/lora.yaml --learning_rate 3e-4

One line of data:  {"question": "Who left?", "context": "Ada left.", "answers": {"text": ["Ada"], "answer_start": [0]}}

To adapt it, copy this folder: the shape of your rows is in `read_question`, what the model sees in
`tokenize_and_locate`, what counts as good in `score_windows`.
"""

from dataclasses import asdict, dataclass
from functools import partial

from common.answers import choose_null_threshold, pick_answers, report_answers, score_answers, tune_null_threshold
from common.arguments import DataArguments, ModelArguments, TrainingArguments, option
from common.callbacks import make_callbacks
from common.command_line import parse_arguments
from common.data import load_splits, map_rows, require_text
from common.evaluation_batches import sort_for_evaluation
from common.losses import IGNORED, SpanCrossEntropy, hide_padding
from common.metrics.answers import AnswerMetric
from common.models import choose_max_length, load_config, load_model, load_tokenizer
from common.overview import describe_run
from common.questions import describe_windows, encode_questions, flatten_article, read_answers
from common.results import Outcome, finish_run, save_predictions
from common.spans import compute_mean_loss, locate_answer, rank_answers, reduce_span_logits, show_window
from common.trainers import Trainer
from common.training import list_wanted_splits, predict, prepare_run, rehearse, train
from common.windows import list_texts, refuse_slow_tokenizer

from datasets import Dataset, DatasetDict, Features, List, Value
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, EvalPrediction


@dataclass
class QaArguments:
    """How questions and contexts are read and cut, and when no answer is given."""

    question_column_name: str = option("question", "Column with the questions.")
    context_column_name: str = option("context", "Column with the texts that they are about.")
    answer_column_name: str = option("answers", "Column with the answers and where they start.")
    find_answers: bool = option(False, "Look for answers whose answer_start is missing or wrong, nearest first.")
    max_seq_length: int | None = option(None, "Most pieces of question and context. Default: what it can, at most 384.")
    doc_stride: int = option(128, "Pieces that neighbouring windows of a longer context share.")
    max_answer_length: int = option(30, "Most pieces of an answer.")
    null_threshold: float | None = option(None, "No answer above this null_score. Default: tuned on validation, or 0.")
    n_best_size: int = option(20, "Spans of each window that compete to be the answer.")
    save_n_best: bool = option(False, "Write the n_best_size best spans of each question, too.")


TEXT, NUMBER = Value("string"), Value("int64")
FEATURES = Features({"question": TEXT, "context": TEXT, "answers": List(TEXT), "answer_starts": List(NUMBER)})
SCORES = {**AnswerMetric.SCORES, "loss": False}  # of metric_for_best_model: whether the greater is the better


def read_question(row: dict, find_answers: bool) -> dict:
    """A question, its context, and its answers with the characters where they start; None where they are not known."""
    context = require_text(row, "context")
    answers, starts = read_answers(row["answers"], context, find_answers)
    question = require_text(row, "question").strip()
    return {"question": question, "context": context, "answers": answers, "answer_starts": starts}


def tokenize_and_locate(
    questions: dict[str, list], indices: list[int], tokenizer, max_length: int, doc_stride: int, is_training: bool
) -> dict[str, list]:
    """Windows of question and context; `labels` are the first and last piece of the answer in them.

    Where a window lacks the answer, both are the piece that stands for "no answer": [CLS]. To be scored, a window also
    has the first and last piece of its context and that piece as labels, and the characters where its pieces begin
    and end.
    """
    windows = encode_questions(tokenizer, questions["question"], questions["context"], max_length, doc_stride)
    rows = windows.pop("row")
    windows |= {"labels": [], "row": [indices[row] for row in rows]}
    pieces = zip(rows, windows.pop("null"), windows["context_start"], windows["starts"], windows["ends"], strict=True)
    for row, null, first, starts, ends in pieces:
        labels = [IGNORED, IGNORED]
        answers, places = questions["answers"][row], questions["answer_starts"][row]
        if answers == []:
            labels = [null, null]
        elif answers and max(places) >= 0:
            text, place = next(pair for pair in zip(answers, places, strict=True) if pair[1] >= 0)
            place += len(text) - len(text.lstrip())  # no piece stands for the spaces around an answer
            found = locate_answer(starts, ends, place, place + len(text.strip()))
            labels = [null, null] if found is None else [first + found[0], first + found[1]]
        windows["labels"].append(labels if is_training else [*labels, first, first + len(starts) - 1, null])
    return windows


def score_windows(evaluated: EvalPrediction, windows: Dataset, questions: Dataset, null_threshold, language):
    """Exact match and F1 of all questions that have gold answers, with the best threshold unless one is given."""
    ranked = rank_answers(evaluated.predictions, windows, questions)
    if null_threshold is None:
        null_threshold = tune_null_threshold(ranked, questions, language)
    scores = score_answers(pick_answers(ranked, questions, null_threshold), language)
    return scores | compute_mean_loss(evaluated)


def main(model_args, data_args, qa_args, training_args) -> dict[str, float]:
    """Read, train, evaluate, predict and save, as the arguments say; returns the scores."""
    prepare_run(training_args, SCORES)
    training_args.label_names = ["labels"]

    # Data
    columns = {
        "question": qa_args.question_column_name,
        "context": qa_args.context_column_name,
        "answers": qa_args.answer_column_name,
    }
    read_row = partial(read_question, find_answers=qa_args.find_answers)
    wanted = list_wanted_splits(training_args, model_args)
    splits = load_splits(
        data_args, columns, FEATURES, read_row, ("answers",), wanted, training_args.seed, flatten_article
    )

    # Model
    model_class = AutoModelForQuestionAnswering
    tokenizer = load_tokenizer(model_args, texts=list_texts(splits[wanted[0]], ("question", "context")))
    refuse_slow_tokenizer(tokenizer)
    config = load_config(model_args, tokenizer)
    max_length = choose_max_length(qa_args.max_seq_length, config, tokenizer, longest_default=384)
    settings = {"tokenizer": tokenizer, "max_length": max_length, "doc_stride": qa_args.doc_stride}
    workers, overwrite = data_args.preprocessing_num_workers, data_args.overwrite_cache
    windows = DatasetDict(
        {
            split: map_rows(rows, tokenize_and_locate, workers, overwrite, is_training=split == "train", **settings)
            for split, rows in splits.items()
        }
    )
    windows = sort_for_evaluation(windows)
    model = load_model(model_class, model_args, training_args, config, task_type="QUESTION_ANS")
    hide_padding(model)

    # Training
    language = data_args.language
    null_threshold = choose_null_threshold(qa_args.null_threshold, config, splits, training_args.do_train)
    score = partial(
        score_windows,
        windows=windows.get("validation"),
        questions=splits.get("validation"),
        null_threshold=qa_args.null_threshold,
        language=language,
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=windows.get("train"),
        eval_dataset=windows.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=training_args.pad_to_multiple_of),
        compute_loss_func=SpanCrossEntropy(),
        compute_metrics=score if "validation" in splits else None,
        preprocess_logits_for_metrics=partial(
            reduce_span_logits, n_best=qa_args.n_best_size, max_answer_length=qa_args.max_answer_length
        ),
        callbacks=make_callbacks(training_args),
    )
    facts = {"windows": describe_windows(windows, splits, max_length)}
    describe_run(trainer, splits, windows, facts, partial(show_window, tokenizer=tokenizer))
    if training_args.dry_run:
        return rehearse(trainer, model_class, model_args, windows)
    if training_args.do_train:
        train(trainer)

    # Results
    outcome = Outcome("question-answering", headline=["exact_match", "f1"])
    n_best = qa_args.n_best_size if qa_args.save_n_best else 1
    for split in splits:
        if split != "train":
            output = predict(trainer, windows[split])
            ranked = rank_answers(output.predictions, windows[split], splits[split])
            if split == "validation" and training_args.do_train and qa_args.null_threshold is None:
                tuned = tune_null_threshold(ranked, splits[split], language)
                null_threshold = null_threshold if tuned is None else tuned
            rows = pick_answers(ranked, splits[split], null_threshold, n_best)
            save_predictions(training_args, split, rows)
            outcome.add_scores(split, score_answers(rows, language) | compute_mean_loss(output))
            report_answers(outcome, split, rows, language)
    outcome.facts = {"recipe": "qa", **asdict(qa_args), "max_seq_length": max_length, "null_threshold": null_threshold}
    trainer.model.config.null_threshold = null_threshold
    finish_run(trainer, outcome, model_args, data_args)
    return outcome.metrics


if __name__ == "__main__":
    main(*parse_arguments(ModelArguments, DataArguments, QaArguments, TrainingArguments))
