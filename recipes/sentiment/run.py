"""Fine-tune an encoder to classify texts or pairs of texts, with one label each or several.

    accelerate launch recipes/sentiment/run.py                                           # the demo: offline, on a CPU
    accelerate launch recipes/sentiment/run.py --config recipes/sentiment/configs/full.yaml
    accelerate launch recipes/sentiment/run.py --config recipes/sentiment/configs/lora.yaml --learning_rate 3e-4

One line of data:  {"text": "Never again.", "label": "negative"}   or, multi-label,   {"text": ..., "label": ["a", "b"]}

To adapt it, copy this folder: the shape of your rows is in `read_example`, what the model sees in
`tokenize_texts`, what counts as good in `score_windows`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from common.arguments import DataArguments, ModelArguments, TrainingArguments, option
from common.baseline import score_linear_baseline
from common.calibration import read_calibration, save_calibration, tune_calibration
from common.callbacks import make_callbacks
from common.class_weights import choose_class_weights
from common.classification import list_labels, make_labels, pool_windows, report_classes, score_rows, show_window
from common.command_line import parse_arguments
from common.data import load_splits, map_splits, require_text
from common.evaluation_batches import sort_for_evaluation
from common.labels import (
    LabelReader,
    choose_label_names,
    choose_problem_type,
    describe_labels,
    number_labels,
    take_samples_per_class,
)
from common.losses import BinaryCrossEntropy, CrossEntropy
from common.metrics.classes import ClassMetric
from common.models import choose_max_length, find_trained_labels, load_config, load_model, load_tokenizer
from common.overview import describe_run
from common.results import Outcome, finish_run, save_predictions
from common.trainers import Trainer
from common.training import list_wanted_splits, predict, prepare_run, rehearse, train
from common.windows import describe_cut_texts, encode_texts, list_texts

from datasets import Dataset, Features, List, Value
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, EvalPrediction


@dataclass
class SentimentArguments:
    """How texts and labels are read, cut, weighted and drawn."""

    text_column_name: str | None = option(None, "Column with the texts. Default: text or sentence.")
    text_pair_column_name: str | None = option(None, "Column with a second text for each of them.")
    label_column_name: str | None = option(None, "Column with the labels. Default: label or labels.")
    label_separator: str | None = option(None, "What stands between the labels of one row, as | in good|cheap.")
    class_names: list[str] | None = option(None, "All labels, in the order of their numbers.")
    max_seq_length: int | None = option(None, "Most pieces the model reads at once. Default: what it can, at most 512.")
    long_text: Literal["truncate", "windows"] = option("truncate", "Cut longer texts, or read all and pool the scores.")
    doc_stride: int = option(64, "Pieces that neighbouring windows of a longer text share.")
    max_train_samples_per_class: int | None = option(None, "Few-shot: train on this many rows of each class.")
    class_weights: list[str] | None = option(None, "none, auto (inverse frequency), a number a label, or a JSON file.")
    focal_gamma: float = option(0.0, "Focal loss: 0 is off, 2 is usual for rare classes.")
    linear_baseline: bool = option(False, "Also score TF-IDF with logistic regression, and print it beside the result.")


TEXT = Value("string")
FEATURES = Features({"text": TEXT, "text_pair": TEXT, "labels": List(TEXT)})  # what read_example returns
SCORES = {**ClassMetric.SCORES, "loss": False}  # of metric_for_best_model: whether the greater is the better


def read_example(row: dict, label_reader: LabelReader) -> dict:
    """The text or texts of one row and the names of its labels, None where it has none."""
    text_pair = require_text(row, "text_pair") if "text_pair" in row else None
    return {"text": require_text(row, "text"), "text_pair": text_pair, "labels": label_reader.read(row["label"])}


def tokenize_texts(
    rows: dict[str, list],
    indices: list[int],
    tokenizer,
    max_length: int,
    doc_stride: int | None,
    num_classes: int,
    is_multi_label: bool,
) -> dict[str, list]:
    """One window for each text, or all of a longer one where there is a `doc_stride`, each with the text's label.

    `row` says which text a window belongs to, and `is_cut` whether the end of that text is in no window.
    """
    pairs = None if None in rows["text_pair"] else rows["text_pair"]
    windows = encode_texts(tokenizer, rows["text"], pairs, max_length, doc_stride)
    labels = make_labels(rows, num_classes, is_multi_label)[windows["row"]].tolist()
    return windows | {"labels": labels, "row": [indices[row] for row in windows["row"]]}


def score_windows(evaluated: EvalPrediction, windows: Dataset, rows: Dataset, label_names, calibration, loss) -> dict:
    """Scores of the texts, the logits of whose windows are pooled, and their mean loss; {} where none has a label."""
    return score_rows(pool_windows(evaluated.predictions, windows, len(rows)), rows, label_names, calibration, loss)


def main(model_args, data_args, sentiment_args, training_args) -> dict[str, float]:
    """Read, train, evaluate, predict and save, as the arguments say; returns the scores."""
    prepare_run(training_args, SCORES)

    # Data
    columns = {
        "text": sentiment_args.text_column_name or ("text", "sentence"),
        "label": sentiment_args.label_column_name or ("label", "labels"),
    }
    if sentiment_args.text_pair_column_name:
        columns["text_pair"] = sentiment_args.text_pair_column_name
    label_reader = LabelReader(sentiment_args.label_separator)
    read_row = partial(read_example, label_reader=label_reader)
    wanted = list_wanted_splits(training_args, model_args)
    splits = load_splits(data_args, columns, FEATURES, read_row, ("label",), wanted, training_args.seed)

    # Model
    model_class = AutoModelForSequenceClassification
    tokenizer = load_tokenizer(model_args, texts=list_texts(splits[wanted[0]]))
    config = load_config(model_args, tokenizer)
    trained_labels = find_trained_labels(config, model_class)
    is_multi_label = choose_problem_type(config, label_reader, training_args.do_train)
    label_names = choose_label_names(
        splits, sentiment_args.class_names, trained_labels, training_args.do_train, is_multi_label
    )
    splits = number_labels(splits, label_names, is_multi_label)
    if "train" in splits and sentiment_args.max_train_samples_per_class:
        most = sentiment_args.max_train_samples_per_class
        splits["train"] = take_samples_per_class(splits["train"], most, training_args.seed)
    max_length = choose_max_length(sentiment_args.max_seq_length, config, tokenizer)
    doc_stride = sentiment_args.doc_stride if sentiment_args.long_text == "windows" else None
    settings = {"max_length": max_length, "doc_stride": doc_stride, "num_classes": len(label_names)}
    settings |= {"tokenizer": tokenizer, "is_multi_label": is_multi_label}
    workers, overwrite = data_args.preprocessing_num_workers, data_args.overwrite_cache
    windows = map_splits(splits, tokenize_texts, workers, overwrite, **settings)
    windows = sort_for_evaluation(windows)
    model = load_model(model_class, model_args, training_args, config, label_names, task_type="SEQ_CLS")

    # Training
    weights = choose_class_weights(sentiment_args.class_weights, windows, label_names, is_multi_label)
    loss_class = BinaryCrossEntropy if is_multi_label else CrossEntropy
    loss = loss_class(training_args.label_smoothing_factor, weights, sentiment_args.focal_gamma)
    calibration = read_calibration(config, len(label_names), is_multi_label, training_args.do_train)
    score = partial(
        score_windows,
        windows=windows.get("validation"),
        rows=splits.get("validation"),
        label_names=label_names,
        calibration=calibration,
        loss=loss,
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=windows.get("train"),
        eval_dataset=windows.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=training_args.pad_to_multiple_of),
        compute_loss_func=loss,
        compute_metrics=score if "validation" in splits else None,
        callbacks=make_callbacks(training_args),
    )
    facts = {
        "labels": describe_labels(label_names, splits.get("train"), is_multi_label),
        "windows": describe_cut_texts(windows, splits, max_length, sentiment_args.long_text),
    }
    describe_run(trainer, splits, windows, facts, partial(show_window, tokenizer=tokenizer))
    if training_args.dry_run:
        return rehearse(trainer, model_class, model_args, windows)
    if training_args.do_train:
        train(trainer)

    # Results
    outcome = Outcome("text-classification", headline=["accuracy", "f1_macro", "mcc"])
    for split in splits:
        if split != "train":
            logits = pool_windows(predict(trainer, windows[split]).predictions, windows[split], len(splits[split]))
            if split == "validation" and training_args.do_train:
                labels = make_labels(splits[split], len(label_names), is_multi_label)
                calibration = tune_calibration(logits, labels, is_multi_label)
            rows = list_labels(logits, splits[split], label_names, calibration)
            save_predictions(training_args, split, rows)
            outcome.add_scores(split, score_rows(logits, splits[split], label_names, calibration, loss))
            report_classes(outcome, split, rows, label_names)
    if sentiment_args.linear_baseline:
        class_weight = None if weights is None else "balanced"
        baselines = score_linear_baseline(splits, label_names, is_multi_label, class_weight, loss)
        for split, scores in baselines.items():
            outcome.add_baseline(split, scores)
    outcome.facts = {"recipe": "sentiment", "labels": label_names, **asdict(sentiment_args)}
    outcome.facts |= {"max_seq_length": max_length, **asdict(calibration)}
    save_calibration(calibration, trainer.model.config)
    finish_run(trainer, outcome, model_args, data_args)
    return outcome.metrics


if __name__ == "__main__":
    main(*parse_arguments(ModelArguments, DataArguments, SentimentArguments, TrainingArguments))
