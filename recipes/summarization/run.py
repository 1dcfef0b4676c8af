"""Fine-tune an encoder-decoder to summarize documents.

    accelerate launch recipes/summarization/run.py                                       # the demo: offline, on a CPU
    accelerate launch recipes/summarization/run.py --config recipes/summarization/configs/full.yaml
    accelerate launch recipes/summarization/run.py --config recipes/summarization/configs/lora.yaml --lora_r 8

One line of data:  {"document": "The bridge of Marlow was closed on Monday. ...", "summary": "Bridge of Marlow closed"}

To adapt it, copy this folder: the shape of your rows is in `read_document`, what the model sees in
`tokenize_documents`, what counts as good in `score_summaries`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

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
from common.languages import choose_prefix, set_languages
from common.losses import CrossEntropy
from common.metrics.summaries import Summaries, measure_copying, score_lead_baseline
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
class SummarizationArguments:
    """How documents are read and cut, how long summaries may be, and what they are compared with."""

    document_column_name: str | None = option(None, "Column with the documents. Default: document, text or article.")
    summary_column_name: str | None = option(None, "Column with the summaries. Default: summary, highlights or title.")
    source_prefix: str | None = option(None, "Written before every document. Default: the checkpoint's own, as T5 has.")
    lang: str | None = option(None, "For multilingual models: the language as the model writes it, en_XX or eng_Latn.")
    max_source_length: int | None = option(None, "Most pieces of a document. Default: as trained with, or 1024.")
    max_target_length: int | None = option(None, "Most pieces of a summary, also generated. Default: likewise, or 128.")
    long_text: Literal["head", "head_tail"] | None = option(
        None, "What is kept of longer documents: head, or head and tail. Default: as trained with, or head."
    )
    lead_sentences: int = option(3, "The baseline printed beside the result: this many first sentences. 0: none.")


FEATURES = Features({"document": Value("string"), "summary": Value("string")})  # what read_document returns
SCORES = {**Summaries.SCORES, **GENERATION_SCORES}  # of metric_for_best_model: whether the greater is the better


def read_document(row: dict) -> dict:
    """A document and its summary, None where it is not known."""
    summary = None if row["summary"] is None else require_text(row, "summary")
    return {"document": require_text(row, "document"), "summary": summary}


def tokenize_documents(
    rows: dict[str, list],
    indices: list[int],
    tokenizer,
    prefix: str,
    max_source_length: int,
    max_target_length: int,
    keep: str,
) -> dict[str, list]:
    """Each document as the model reads it, and its summary as `labels`; `row` says which document it is."""
    lengths = max_source_length, max_target_length
    encoded = encode_pairs(tokenizer, rows["document"], rows["summary"], *lengths, keep, prefix)
    return encoded | {"row": indices}


def score_summaries(texts: list[str], rows: Dataset, metric: Summaries) -> dict[str, float]:
    """ROUGE against the gold summaries, and how much the texts copy from their documents."""
    scores = metric.compute(predictions=texts, references=rows["summary"])
    return scores | measure_copying(texts, rows["document"])


def main(model_args, data_args, summarization_args, generation_args, training_args) -> dict[str, float]:
    """Read, train, evaluate, predict and save, as the arguments say; returns the scores."""
    prepare_run(training_args, SCORES)

    # Data
    columns = {
        "document": summarization_args.document_column_name or ("document", "text", "article"),
        "summary": summarization_args.summary_column_name or ("summary", "highlights", "title"),
    }
    wanted = list_wanted_splits(training_args, model_args)
    splits = load_splits(data_args, columns, FEATURES, read_document, ("summary",), wanted, training_args.seed)
    warn_of_copies(splits, "document", "summary")

    # Model
    model_class = AutoModelForSeq2SeqLM
    tokenizer = load_tokenizer(model_args, texts=list_texts(splits[wanted[0]], ("document", "summary")))
    config = load_config(model_args, tokenizer)
    refuse_float16(training_args, config)
    prefix = choose_prefix(config, summarization_args.source_prefix, "summarization")
    lang = summarization_args.lang or getattr(config, "lang", None)
    _, _, first_piece = set_languages(tokenizer, lang, lang, flags=("lang", "lang"))
    keep = summarization_args.long_text or getattr(config, "long_text", None) or "head"
    config.lang, config.source_prefix, config.long_text = lang, prefix, keep  # for prediction
    max_source_length, max_target_length = choose_lengths(summarization_args, config, tokenizer, (1024, 128))
    model = load_model(model_class, model_args, training_args, config, task_type="SEQ_2_SEQ_LM")
    set_generation(model, generation_args, max_target_length, first_piece)
    settings = {"tokenizer": tokenizer, "prefix": prefix, "keep": keep}
    settings |= {"max_source_length": max_source_length, "max_target_length": max_target_length}
    workers, overwrite = data_args.preprocessing_num_workers, data_args.overwrite_cache
    features = map_splits(splits, tokenize_documents, workers, overwrite, **settings)
    features = sort_for_evaluation(features)

    # Training
    metric = Summaries(data_args.language)
    score = partial(
        score_generated,
        target_name="summary",
        tokenizer=tokenizer,
        generation_config=model.generation_config,
        score_texts=partial(score_summaries, metric=metric),
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
    facts = {"texts": describe_cut_pairs(features, max_source_length, max_target_length, keep)}
    facts |= {"prefix": repr(prefix)} if prefix else {}
    describe_run(trainer, splits, features, facts, partial(show_pair, tokenizer=tokenizer))
    if training_args.dry_run:
        return rehearse(trainer, model_class, model_args, features)
    if training_args.do_train:
        train(trainer)

    # Results
    outcome = Outcome("summarization", headline=["rougeL", "rouge1", "rouge2"])
    for split in splits:
        if split != "train":
            generated = generate(trainer, features[split])
            texts = decode_texts(generated.predictions[0], features[split], tokenizer)
            row_scores = metric.score_rows(texts, splits[split]["summary"])
            rows = list_generated(texts, splits[split], "document", "summary", row_scores)
            save_predictions(training_args, split, rows)
            outcome.add_scores(split, score(generated, features[split], splits[split]))
            outcome.add_baseline(split, score_lead_baseline(splits[split], summarization_args.lead_sentences, metric))
            report_generated(outcome, split, rows, "rougeL")
    outcome.facts = {"recipe": "summarization", **asdict(summarization_args), **asdict(generation_args)}
    outcome.facts |= {"source_prefix": prefix, "lang": lang, "long_text": keep}
    outcome.facts |= {"max_source_length": max_source_length, "max_target_length": max_target_length}
    finish_run(trainer, outcome, model_args, data_args)
    return outcome.metrics


if __name__ == "__main__":
    main(
        *parse_arguments(
            ModelArguments, DataArguments, SummarizationArguments, GenerationArguments, Seq2SeqTrainingArguments
        )
    )
