"""Fine-tune an encoder-decoder to translate from one language into another.

    accelerate launch recipes/translation/run.py                                         # the demo: offline, on a CPU
    accelerate launch recipes/translation/run.py --config recipes/translation/configs/full.yaml
    accelerate launch recipes/translation/run.py --config recipes/translation/configs/lora.yaml --learning_rate 3e-4

One line of data:  {"translation": {"en": "Never again.", "de": "Nie wieder."}}   or   {"en": ..., "de": ...}

To adapt it, copy this folder: the shape of your rows is in `read_pair`, what the model sees in
`tokenize_pairs`, what counts as good in `score_translations`.
"""

from dataclasses import asdict, dataclass
from functools import partial

from common.arguments import DataArguments, GenerationArguments, ModelArguments, Seq2SeqTrainingArguments, option
from common.callbacks import make_callbacks
from common.command_line import parse_arguments
from common.data import load_splits, map_splits, require_text
from common.evaluation_batches import sort_for_evaluation
from common.generation import (
    GENERATION_SCORES,
    decode_texts,
    generate,
    list_generated,
    refuse_float16,
    report_generated,
    score_generated,
    set_generation,
)
from common.languages import choose_languages, choose_prefix, name_columns, set_languages, unfold_translation
from common.losses import CrossEntropy
from common.metrics.translations import Translations
from common.models import load_config, load_model, load_tokenizer
from common.overview import describe_run
from common.results import Outcome, finish_run, save_predictions
from common.sequences import (
    PairCollator,
    choose_lengths,
    describe_cut_pairs,
    encode_pairs,
    show_pair,
    warn_of_copies,
)
from common.trainers import Seq2SeqTrainer
from common.training import list_wanted_splits, prepare_run, rehearse, train
from common.windows import list_texts

from datasets import Dataset, Features, Value
from transformers import AutoModelForSeq2SeqLM


@dataclass
class TranslationArguments:
    """Which languages are read and written, how long texts may be, and how translations are scored."""

    source_lang: str | None = option(None, "Language of the sources, as the model writes it: en, en_XX, eng_Latn.")
    target_lang: str | None = option(None, "Language of the targets. Default of both: those the model was trained for.")
    source_column_name: str | None = option(None, "Column with the sources. Default: source_lang, or source.")
    target_column_name: str | None = option(None, "Column with the targets. Default: target_lang, or target.")
    source_prefix: str | None = option(None, "Written before every source. Default: the checkpoint's own, as T5 has.")
    max_source_length: int | None = option(None, "Most pieces of a source. Default: as trained with, or 256.")
    max_target_length: int | None = option(None, "Most pieces of a target, also when generating. Default: likewise.")
    bleu_tokenizer: str | None = option(None, "sacrebleu's tokenizer (13a, zh, char, ...). Default: by target_lang.")
    ter: bool = option(False, "Also compute the translation edit rate, which is slow.")


FEATURES = Features({"source": Value("string"), "target": Value("string")})  # what read_pair returns
SCORES = {**Translations.SCORES, **GENERATION_SCORES}  # of metric_for_best_model: whether the greater is the better


def read_pair(row: dict) -> dict:
    """A text and its translation, None where it is not known."""
    target = None if row["target"] is None else require_text(row, "target")
    return {"source": require_text(row, "source"), "target": target}


def tokenize_pairs(
    pairs: dict[str, list],
    indices: list[int],
    tokenizer,
    prefix: str,
    max_source_length: int,
    max_target_length: int,
) -> dict[str, list]:
    """Each source as the model reads it, and its target as `labels`; `row` says which pair it is."""
    lengths = max_source_length, max_target_length
    encoded = encode_pairs(tokenizer, pairs["source"], pairs["target"], *lengths, prefix=prefix)
    return encoded | {"row": indices}


def score_translations(texts: list[str], pairs: Dataset, metric: Translations) -> dict[str, float]:
    """Scores of the translations against the targets of their pairs."""
    return metric.compute(predictions=texts, references=pairs["target"])


def main(model_args, data_args, translation_args, generation_args, training_args) -> dict[str, float]:
    """Read, train, evaluate, predict and save, as the arguments say; returns the scores."""
    prepare_run(training_args, SCORES)

    # Data
    config = None if model_args.from_scratch else load_config(model_args)
    languages = choose_languages(config, translation_args.source_lang, translation_args.target_lang)
    columns = name_columns(languages, translation_args.source_column_name, translation_args.target_column_name)
    wanted = list_wanted_splits(training_args, model_args)
    splits = load_splits(
        data_args,
        columns,
        FEATURES,
        read_pair,
        labels=("target",),
        splits=wanted,
        seed=training_args.seed,
        unfold=unfold_translation,
        parallel=(columns["source"][0], columns["target"][0]),
    )
    warn_of_copies(splits, "source", "target")

    # Model
    model_class = AutoModelForSeq2SeqLM
    tokenizer = load_tokenizer(model_args, texts=list_texts(splits[wanted[0]], ("source", "target")))
    config = config or load_config(model_args, tokenizer)
    source_lang, target_lang, first_piece = set_languages(tokenizer, *languages)
    task = f"translation_{source_lang}_to_{target_lang}"
    prefix = choose_prefix(config, translation_args.source_prefix, task)
    config.languages, config.source_prefix = [source_lang, target_lang], prefix  # kept for prediction
    max_source_length, max_target_length = choose_lengths(translation_args, config, tokenizer, (256, 256))
    translation_args.ter |= training_args.metric_for_best_model in ("ter", "eval_ter")
    metric = Translations(target_lang, translation_args.bleu_tokenizer, translation_args.ter)
    refuse_float16(training_args, config)
    model = load_model(model_class, model_args, training_args, config, task_type="SEQ_2_SEQ_LM")
    set_generation(model, generation_args, max_target_length, first_piece)
    settings = {"tokenizer": tokenizer, "prefix": prefix}
    settings |= {"max_source_length": max_source_length, "max_target_length": max_target_length}
    workers, overwrite = data_args.preprocessing_num_workers, data_args.overwrite_cache
    features = map_splits(splits, tokenize_pairs, workers, overwrite, **settings)
    features = sort_for_evaluation(features)

    # Training
    score = partial(
        score_generated,
        target_name="target",
        tokenizer=tokenizer,
        generation_config=model.generation_config,
        score_texts=partial(score_translations, metric=metric),
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_args,
        train_dataset=features.get("train"),
        eval_dataset=features.get("validation"),
        processing_class=tokenizer,
        data_collator=PairCollator(tokenizer, model, training_args.pad_to_multiple_of),
        compute_loss_func=CrossEntropy(training_args.label_smoothing_factor),
        compute_metrics=partial(score, features=features["validation"], rows=splits["validation"])
        if "validation" in splits
        else None,
        callbacks=make_callbacks(training_args),
    )
    facts = {
        "languages": f"{source_lang} to {target_lang}" + (f", prefix {prefix!r}" if prefix else ""),
        "texts": describe_cut_pairs(features, max_source_length, max_target_length),
    }
    describe_run(trainer, splits, features, facts, partial(show_pair, tokenizer=tokenizer))
    if training_args.dry_run:
        return rehearse(trainer, model_class, model_args, features)
    if training_args.do_train:
        train(trainer)

    # Results
    outcome = Outcome("translation", headline=["bleu", "chrf"])
    for split in splits:
        if split != "train":
            generated = generate(trainer, features[split])
            texts = decode_texts(generated.predictions[0], features[split], tokenizer)
            row_scores = metric.score_rows(texts, splits[split]["target"])
            rows = list_generated(texts, splits[split], "source", "target", row_scores)
            save_predictions(training_args, split, rows)
            outcome.add_scores(split, score(generated, features[split], splits[split]))
            report_generated(outcome, split, rows, "chrf")
    outcome.facts = {"recipe": "translation", **asdict(translation_args), **asdict(generation_args)}
    outcome.facts |= {"source_lang": source_lang, "target_lang": target_lang, "source_prefix": prefix}
    outcome.facts |= {"max_source_length": max_source_length, "max_target_length": max_target_length}
    outcome.facts |= {"signatures": metric.signatures}
    finish_run(trainer, outcome, model_args, data_args)
    return outcome.metrics


if __name__ == "__main__":
    main(
        *parse_arguments(
            ModelArguments, DataArguments, TranslationArguments, GenerationArguments, Seq2SeqTrainingArguments
        )
    )
