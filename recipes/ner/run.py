"""Fine-tune an encoder to find named entities: words in, one tag a word out.

    accelerate launch recipes/ner/run.py                                                 # the demo: offline, on a CPU
    accelerate launch recipes/ner/run.py --config recipes/ner/configs/full.yaml
    accelerate launch recipes/ner/run.py --config recipes/ner/configs/lora.yaml --learning_rate 3e-4

One line of data:  {"tokens": ["Ada", "lives", "in", "Paris"], "tags": ["B-PER", "O", "O", "B-LOC"]}

To adapt it, copy this folder: the shape of your rows is in `read_sentence`, what the model sees in
`tokenize_and_align`, what counts as good in `score_windows`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from common.arguments import DataArguments, ModelArguments, TrainingArguments, option
from common.callbacks import make_callbacks
from common.class_weights import choose_class_weights
from common.command_line import parse_arguments
from common.data import RowError, load_splits, map_splits
from common.evaluation_batches import sort_for_evaluation
from common.losses import IGNORED, CrossEntropy
from common.metrics.entities import EntityMetric
from common.models import choose_max_length, find_trained_labels, load_config, load_model, load_tokenizer
from common.overview import describe_run
from common.packing import WindowCollator, describe_packing, find_first_position, pack_rows
from common.results import Outcome, finish_run, save_predictions
from common.sentences import list_predictions, reduce_logits, report_entities, show_window, tag_sentences
from common.tagging import choose_tag_names, convert_splits, join_words, read_words, refuse_unknown_tags, split_tag
from common.trainers import Trainer
from common.training import list_wanted_splits, predict, prepare_run, rehearse, train
from common.windows import describe_word_windows, encode_word_windows, refuse_slow_tokenizer

from datasets import Dataset, Features, List, Value
from transformers import AutoModelForTokenClassification, EvalPrediction


@dataclass
class NerArguments:
    """How the words and tags are read, cut and weighted."""

    text_column_name: str | None = option(None, "Column with the words of a sentence. Default: tokens or words.")
    label_column_name: str | None = option(None, "Column with their tags. Default: tags, ner_tags or labels.")
    tag_scheme: Literal["auto", "IOB2", "IOB1", "BIOES", "BMES"] = option(
        "auto", "How the tags are written; all are read as IOB2. auto finds out."
    )
    tag_names: list[str] | None = option(
        None, "All tags, in the order of their numbers: for numbered tags, or types that train rows lack."
    )
    max_seq_length: int | None = option(None, "Most pieces the model reads at once. Default: what it can, at most 512.")
    doc_stride: int = option(64, "Pieces that neighbouring windows of a longer sentence share.")
    class_weights: list[str] | None = option(None, "none, auto (inverse frequency), a number a tag, or a JSON file.")
    focal_gamma: float = option(0.0, "Focal loss: 0 is off, 2 is usual for rare entities.")
    packing: bool = option(False, "Fill rows of max_seq_length with whole windows, which do not see each other.")


FEATURES = Features({"tokens": List(Value("string")), "tags": List(Value("string"))})  # what read_sentence returns
SCORES = {**EntityMetric.SCORES, "loss": False}  # of metric_for_best_model: whether the greater is the better


def read_sentence(row: dict, label_names: list[str] | None) -> dict:
    """Words and tags of one row; a text is split at its spaces, numbered tags get their names."""
    tokens, tags = read_words(row["tokens"]), row["tags"]
    tags = tags.split() if isinstance(tags, str) else tags
    if tags is None:
        return {"tokens": tokens, "tags": None}
    if not isinstance(tags, list) or len(tags) != len(tokens):
        found = f"{len(tags)} tags" if isinstance(tags, list) else repr(tags)
        raise RowError(f"tags: {found} for {len(tokens)} words; give every word one tag")
    if all(type(tag) is int for tag in tags):
        if label_names is None or not all(0 <= tag < len(label_names) for tag in tags):
            raise RowError(f"tags: {max(tags)} is a number; name the tags in their order with tag_names")
        tags = [label_names[tag] for tag in tags]
    for tag in tags:
        try:
            split_tag(tag)
        except ValueError as error:
            raise RowError(f"tags: {error}") from None
    return {"tokens": tokens, "tags": tags}


def tokenize_and_align(
    sentences: dict[str, list],
    indices: list[int],
    tokenizer,
    label_ids: dict[str, int],
    max_length: int,
    doc_stride: int,
) -> dict[str, list]:
    """Windows of pieces: the first piece of each word that a window owns carries the word's tag, all others none.

    `row` says which sentence a window belongs to; `encode_word_windows` says what else it has.
    """
    refuse_unknown_tags([sentences], label_ids.keys())
    windows = encode_word_windows(tokenizer, sentences["tokens"], max_length, doc_stride)
    windows["labels"] = [[IGNORED] * len(ids) for ids in windows["input_ids"]]
    places = zip(windows["row"], windows["first_word"], windows["positions"], windows["labels"], strict=True)
    for row, first_word, positions, labels in places:
        if sentences["tags"][row]:
            for word, position in enumerate(positions, start=first_word):
                labels[position] = label_ids[sentences["tags"][row][word]]
    return windows | {"row": [indices[row] for row in windows["row"]]}


def score_windows(evaluated: EvalPrediction, windows: Dataset, sentences: Dataset, label_names) -> dict[str, float]:
    """Entity scores over the whole sentences that have tags, and their mean loss a word; {} where none has."""
    tagged = tag_sentences(evaluated.predictions, windows, sentences, label_names)
    pairs = [(gold, found["tags"]) for gold, found in zip(sentences["tags"], tagged, strict=True) if gold is not None]
    if not pairs:
        return {}
    scores = EntityMetric().compute(predictions=[found for _, found in pairs], references=[gold for gold, _ in pairs])
    return scores | {"loss": float(evaluated.predictions[2].sum() / (evaluated.label_ids != IGNORED).sum())}


def main(model_args, data_args, ner_args, training_args) -> dict[str, float]:
    """Read, train, evaluate, predict and save, as the arguments say; returns the scores."""
    prepare_run(training_args, SCORES)

    # Data
    columns = {
        "tokens": ner_args.text_column_name or ("tokens", "words"),
        "tags": ner_args.label_column_name or ("tags", "ner_tags", "labels"),
    }
    read_row = partial(read_sentence, label_names=ner_args.tag_names)
    wanted = list_wanted_splits(training_args, model_args)
    splits = load_splits(data_args, columns, FEATURES, read_row, ("tags",), wanted, training_args.seed)
    splits = convert_splits(splits, ner_args.tag_scheme)

    # Model
    model_class = AutoModelForTokenClassification
    tokenizer = load_tokenizer(model_args, texts=(join_words(words) for words in splits[wanted[0]]["tokens"]))
    refuse_slow_tokenizer(tokenizer)
    config = load_config(model_args, tokenizer)
    trained_labels = find_trained_labels(config, model_class)
    label_names = choose_tag_names(splits, ner_args.tag_names, trained_labels, training_args.do_train)
    max_length = choose_max_length(ner_args.max_seq_length, config, tokenizer)
    model = load_model(model_class, model_args, training_args, config, label_names, task_type="TOKEN_CLS")
    settings = {"label_ids": config.label2id, "max_length": max_length, "doc_stride": ner_args.doc_stride}
    workers, overwrite = data_args.preprocessing_num_workers, data_args.overwrite_cache
    windows = map_splits(splits, tokenize_and_align, workers, overwrite, tokenizer=tokenizer, **settings)
    windows = sort_for_evaluation(windows)
    facts = {"labels": f"{len(label_names)}: {', '.join(label_names)}"}
    facts["windows"] = describe_word_windows(windows, splits, max_length)
    first_position = 0
    if ner_args.packing and training_args.do_train:
        first_position, count = find_first_position(model), len(windows["train"])
        windows["train"] = pack_rows(windows["train"], max_length, workers, overwrite)
        facts["packing"] = describe_packing(windows["train"], count, max_length, "windows")

    # Training
    weights = choose_class_weights(ner_args.class_weights, windows, label_names)
    loss = CrossEntropy(training_args.label_smoothing_factor, weights, ner_args.focal_gamma)
    score = {
        split: partial(score_windows, windows=windows[split], sentences=splits[split], label_names=label_names)
        for split in splits
    }
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=windows.get("train"),
        eval_dataset=windows.get("validation"),
        processing_class=tokenizer,
        data_collator=WindowCollator(tokenizer, first_position, training_args.pad_to_multiple_of),
        compute_loss_func=loss,
        compute_metrics=score.get("validation"),
        preprocess_logits_for_metrics=partial(reduce_logits, loss=loss),
        callbacks=make_callbacks(training_args),
    )
    describe_run(trainer, splits, windows, facts, partial(show_window, tokenizer=tokenizer, label_names=label_names))
    if training_args.dry_run:
        return rehearse(trainer, model_class, model_args, windows)
    if training_args.do_train:
        train(trainer)

    # Results
    outcome = Outcome("token-classification", headline=["f1", "precision", "recall"])
    outcome.facts = {"recipe": "ner", "labels": label_names, **asdict(ner_args), "max_seq_length": max_length}
    for split in splits:
        if split != "train":
            output = predict(trainer, windows[split])
            rows = list_predictions(output.predictions, windows[split], splits[split], label_names)
            save_predictions(training_args, split, rows)
            outcome.add_scores(split, score[split](output))
            report_entities(outcome, split, rows)
    finish_run(trainer, outcome, model_args, data_args)
    return outcome.metrics


if __name__ == "__main__":
    main(*parse_arguments(ModelArguments, DataArguments, NerArguments, TrainingArguments))
