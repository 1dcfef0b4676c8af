"""Fine-tune a causal language model to reply in dialogues of several turns.

    accelerate launch recipes/dialogue/run.py                                            # the demo: offline, on a CPU
    accelerate launch recipes/dialogue/run.py --config recipes/dialogue/configs/lora.yaml
    accelerate launch recipes/dialogue/run.py --config recipes/dialogue/configs/full.yaml --packing true

One line of data:  {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]}

To adapt it, copy this folder: the shape of your rows is in `read_dialogue`, what the model sees and what it learns in
`tokenize_dialogues`, what counts as good in `score_replies`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from common.arguments import DataArguments, GenerationArguments, ModelArguments, Seq2SeqTrainingArguments, option
from common.callbacks import make_callbacks
from common.chat_templates import find_end_of_turn, set_chat_template, warn_of_other_prompts
from common.command_line import parse_arguments
from common.data import load_splits, map_splits
from common.dialogues import (
    MESSAGES,
    describe_cut_dialogues,
    encode_dialogue,
    encode_reply,
    encode_rows,
    gather_replies,
    list_replies,
    refuse_faults,
    sample_replies,
    show_dialogue,
)
from common.evaluation_batches import sort_for_evaluation
from common.generation import (
    GENERATION_SCORES,
    decode_texts,
    generate,
    list_generated,
    report_generated,
    score_generated,
    set_reply_generation,
)
from common.losses import CrossEntropy
from common.messages import describe_messages, list_message_texts, require_replies, unfold_dialogue
from common.metrics.replies import Replies
from common.models import choose_max_length, load_config, load_model, load_tokenizer
from common.overview import describe_run
from common.packing import DialogueCollator, describe_packing, pack_rows, refuse_mixing
from common.results import Outcome, finish_run, save_predictions
from common.trainers import CausalTrainer
from common.training import list_wanted_splits, prepare_run, rehearse, train
from common.windows import refuse_slow_tokenizer

from datasets import Dataset, DatasetDict, Features, Value
from transformers import AutoModelForCausalLM


@dataclass
class DialogueArguments:
    """How dialogues are read and rendered, and which replies are learnt."""

    messages_column_name: str | None = option(None, "Column with the dialogues, where it goes by none of its names.")
    repeated_roles: Literal["merge", "refuse"] = option("merge", "What becomes of two messages of one role in a row.")
    chat_template: str | None = option(
        None, "A Jinja file, chatml or turns. Default: the model's own, else chatml if it has the tokens, else turns."
    )
    chat_template_settings: dict | None = option(None, "Variables of the template, as in {enable_thinking: false}.")
    assistant_turns: Literal["all", "last"] = option("all", "Which replies are learnt and scored.")
    max_seq_length: int | None = option(None, "Most pieces of a dialogue. Default: as trained with, or 1024.")
    packing: bool = option(False, "Fill rows of max_seq_length with whole dialogues, which do not see each other.")


FEATURES = Features({"messages": MESSAGES, "merged": Value("int32")})  # what read_dialogue returns
SCORES = {**Replies.SCORES, **GENERATION_SCORES}  # of metric_for_best_model: whether the greater is the better


def read_dialogue(row: dict) -> dict:
    """The messages of a dialogue, checked by `unfold_dialogue`, and how many were merged into others."""
    return {"messages": row["messages"], "merged": row["merged"]}


def tokenize_dialogues(
    rows: dict[str, list],
    indices: list[int],
    tokenizer,
    end_of_turn: str,
    max_seq_length: int,
    max_new_tokens: int,
    assistant_turns: str,
) -> dict[str, list]:
    """Dialogues to learn from, or prompts with their replies; the labels are what the assistant says."""
    settings = {"tokenizer": tokenizer, "end_of_turn": end_of_turn, "max_length": max_seq_length}
    if "reply" not in rows:
        encode = partial(encode_dialogue, assistant_turns=assistant_turns, **settings)
        return encode_rows(encode, rows["messages"]) | {"row": indices, "origin": rows["origin"]}
    encode = partial(encode_reply, max_new_tokens=max_new_tokens, **settings)
    return encode_rows(encode, rows["messages"], rows["reply"]) | {"row": indices, "origin": rows["origin"]}


def score_replies(texts: list[str], rows: Dataset, metric: Replies) -> dict[str, float]:
    """Exact match, BLEU, ROUGE-L, lengths and variety against the true replies."""
    return metric.compute(predictions=texts, references=rows["reply"])


def main(model_args, data_args, dialogue_args, generation_args, training_args) -> dict[str, float]:
    """Read, train, evaluate, predict and save, as the arguments say; returns the scores."""
    prepare_run(training_args, SCORES)

    # Data
    columns = {name: name for name in FEATURES}
    names = {"column": dialogue_args.messages_column_name, "repeated_roles": dialogue_args.repeated_roles}
    wanted = list_wanted_splits(training_args, model_args)
    splits = load_splits(
        data_args, columns, FEATURES, read_dialogue, (), wanted, training_args.seed, partial(unfold_dialogue, **names)
    )
    require_replies(splits)

    # Model
    model_class = AutoModelForCausalLM
    tokenizer = load_tokenizer(model_args, texts=list_message_texts(splits[wanted[0]]))
    refuse_slow_tokenizer(tokenizer)
    template = set_chat_template(tokenizer, dialogue_args.chat_template, dialogue_args.chat_template_settings)
    end_of_turn = find_end_of_turn(tokenizer)
    config = load_config(model_args, tokenizer)
    max_seq_length = dialogue_args.max_seq_length or getattr(config, "max_seq_length", None)
    max_seq_length = config.max_seq_length = choose_max_length(max_seq_length, config, tokenizer, 1024)
    model = load_model(model_class, model_args, training_args, config, task_type="CAUSAL_LM")
    max_new_tokens = set_reply_generation(model, generation_args, tokenizer, end_of_turn, max_seq_length)
    turns = dialogue_args.assistant_turns
    settings = {"tokenizer": tokenizer, "end_of_turn": end_of_turn, "assistant_turns": turns}
    settings |= {"max_seq_length": max_seq_length, "max_new_tokens": max_new_tokens}
    rows = DatasetDict({name: part if name == "train" else list_replies(part, turns) for name, part in splits.items()})
    workers, overwrite = data_args.preprocessing_num_workers, data_args.overwrite_cache
    features = map_splits(rows, tokenize_dialogues, workers, overwrite, **settings)
    features = sort_for_evaluation(refuse_faults(features))
    facts = {"messages": describe_messages(splits), "template": f"{template}, a turn ends with {end_of_turn!r}"}
    facts["dialogues"] = describe_cut_dialogues(features, max_seq_length)
    if dialogue_args.packing and training_args.do_train:
        refuse_mixing(model)
        dialogues = len(features["train"])
        features["train"] = pack_rows(features["train"], max_seq_length, workers, overwrite)
        facts["packing"] = describe_packing(features["train"], dialogues, max_seq_length)

    # Training
    metric = Replies(data_args.language)
    score = partial(
        score_generated,
        target_name="reply",
        tokenizer=tokenizer,
        generation_config=model.generation_config,
        score_texts=partial(score_replies, metric=metric),
    )
    trainer = CausalTrainer(
        model=model,
        args=training_args,
        train_dataset=features.get("train"),
        eval_dataset=features.get("validation"),
        processing_class=tokenizer,
        data_collator=DialogueCollator(tokenizer, model.config._attn_implementation, training_args.pad_to_multiple_of),
        compute_loss_func=CrossEntropy(training_args.label_smoothing_factor, shift=True),
        compute_metrics=partial(score, features=features["validation"], rows=rows["validation"])
        if "validation" in rows
        else None,
        callbacks=make_callbacks(training_args),
    )
    warn_of_other_prompts(tokenizer)
    describe_run(trainer, splits, features, facts, partial(show_dialogue, tokenizer=tokenizer))
    if training_args.dry_run:
        return rehearse(trainer, model_class, model_args, features)
    if training_args.do_train:
        train(trainer)

    # Results
    outcome = Outcome("text-generation", headline=["rougeL", "bleu", "exact_match", "perplexity"])
    for split in splits:
        if split != "train":
            generated = generate(trainer, features[split])
            texts = decode_texts(generated.predictions[0], features[split], tokenizer)
            row_scores = metric.score_rows(texts, rows[split]["reply"])
            listed = list_generated(texts, rows[split], "prompt", "reply", row_scores)
            save_predictions(training_args, split, gather_replies(listed, rows[split]))
            outcome.add_scores(split, score(generated, features[split], rows[split]))
            outcome.tables[f"{split}: sample replies"] = sample_replies(listed, rows[split])
            report_generated(outcome, split, listed, "rougeL")
    outcome.facts = {"recipe": "dialogue", **asdict(dialogue_args), **asdict(generation_args)}
    outcome.facts |= {"template": template, "end_of_turn": end_of_turn}
    outcome.facts |= {"max_seq_length": max_seq_length, "max_new_tokens": max_new_tokens}
    finish_run(trainer, outcome, model_args, data_args)
    return outcome.metrics


if __name__ == "__main__":
    main(
        *parse_arguments(
            ModelArguments, DataArguments, DialogueArguments, GenerationArguments, Seq2SeqTrainingArguments
        )
    )
