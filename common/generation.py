"""Generated texts: one setting for every evaluation, and ids made into texts in the order of the rows."""

from collections.abc import Callable, Sequence

from common.arguments import GenerationArguments
from common.errors import UserError
from common.lines import shorten
from common.losses import IGNORED
from common.training import predict

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, GenerationConfig, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

T5_TYPES = {"t5", "mt5", "umt5", "longt5", "switch_transformers"}
LONGEST_REPLY = 256  # pieces
# What `score_generated` adds to the scores of the texts: whether the greater one is the better, None where neither is.
GENERATION_SCORES = {"loss": False, "perplexity": False, "generated_length": None, "ended": True}
WORST = 20  # rows of the report


def set_generation(
    model, generation_args: GenerationArguments, max_target_length: int, forced_bos_token_id: int | None = None
) -> None:
    """Put the settings into the model's generation_config, where every evaluation and later users find them.

    `forced_bos_token_id` is the first piece of every text, the language of models that know several.
    """
    config = model.generation_config
    longest = generation_args.max_new_tokens or max_target_length
    _set_wishes(config, generation_args, longest, "max_target_length")
    # The piece that starts the decoder counts too. One limit only: generate() warns where there are two.
    config.max_length, config.max_new_tokens = longest + 1, None
    starts_with_language = model.config.model_type == "mbart" and (
        model.config.decoder_start_token_id != model.config.eos_token_id
    )
    if forced_bos_token_id is not None and starts_with_language:  # mBART's decoder does; mBART-50's writes it first
        config.decoder_start_token_id, config.forced_bos_token_id = forced_bos_token_id, None
    elif forced_bos_token_id is not None:
        config.forced_bos_token_id = forced_bos_token_id
    if config.decoder_start_token_id is None:
        config.decoder_start_token_id = model.config.decoder_start_token_id
    _check_settings(config)


def set_reply_generation(
    model, generation_args: GenerationArguments, tokenizer: PreTrainedTokenizerBase, end_of_turn: str, max_length: int
) -> int:
    """The same for a model that goes on with its input, prompt and reply up to `max_length` pieces.

    It stops at the end of a turn, and takes the likeliest piece each time: an evaluation that draws lots, as most chat
    models do unless told otherwise, gives other replies in every batch. Returns the most pieces of a reply: as the
    arguments say, or as the checkpoint has it, or 256, but then at most half of `max_length`.
    """
    config = model.generation_config
    longest = generation_args.max_new_tokens or min(config.max_new_tokens or LONGEST_REPLY, max_length // 2)
    if longest >= max_length:
        raise UserError(
            f"max_new_tokens is {longest}: set it below max_seq_length ({max_length}), to leave room for a prompt."
        )
    _set_wishes(config, generation_args, longest, "max_new_tokens")
    config.max_length, config.max_new_tokens = None, longest
    config.do_sample, config.use_cache = False, True
    for name in ("temperature", "top_p", "top_k", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
        setattr(config, name, None)  # that lots are not drawn contradicts them
    ends = [] if config.eos_token_id is None else config.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends
    config.eos_token_id = list(dict.fromkeys([tokenizer.convert_tokens_to_ids(end_of_turn), *ends]))
    config.pad_token_id = tokenizer.pad_token_id
    _check_settings(config)
    return longest


def _set_wishes(config: GenerationConfig, generation_args: GenerationArguments, longest: int, default: str) -> None:
    """Set what the arguments say; a UserError where the texts could not be as short as `longest` pieces."""
    for name in ("num_beams", "no_repeat_ngram_size", "length_penalty", "repetition_penalty", "min_new_tokens"):
        value = getattr(generation_args, name)
        if value is not None:
            setattr(config, name, value)
    limit = f"{'max_new_tokens' if generation_args.max_new_tokens else default} is {longest}: set it higher."
    if config.min_length and config.min_length > longest + 1:
        raise UserError(f"The checkpoint generates at least {config.min_length} pieces, but {limit}")
    if config.min_new_tokens and config.min_new_tokens > longest:
        raise UserError(f"min_new_tokens is {config.min_new_tokens}, but {limit}")
    if generation_args.num_beams == 1:  # what is left over from a checkpoint that was made for beams
        config.length_penalty = config.early_stopping = None


def _check_settings(config: GenerationConfig) -> None:
    config._from_model_config = False  # else generate() would make it anew from config.json
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise UserError(f"These generation settings contradict each other: {error}") from error


def refuse_float16(training_args, config) -> None:
    """T5 and its kin overflow in float16: the loss becomes NaN or, worse, stays 0 (huggingface/transformers#9295)."""
    if training_args.fp16 and config.model_type in T5_TYPES:
        raise UserError(
            f"{config.model_type} overflows in float16, and its loss becomes NaN: set dtype to bfloat16 or float32."
        )


def decode_texts(generated: np.ndarray, features: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The generated texts in the order of the rows; `row` of the features says which row each was generated for."""
    ids = np.where(generated == IGNORED, tokenizer.pad_token_id, generated)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return put_back([text.strip() for text in texts], features["row"])


def put_back(values: Sequence, rows: Sequence[int]) -> list:
    """Values in the order of the rows that they are of."""
    assert sorted(rows) == list(range(len(values))), "one value for each row"
    ordered = [None] * len(values)
    for value, row in zip(values, rows, strict=True):
        ordered[row] = value
    return ordered


def measure_generated(
    generated: np.ndarray, generation_config: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Mean number of pieces of a generated text, and the percentage that the model ended itself, before any limit."""
    is_piece = (generated != IGNORED) & ~np.isin(generated, tokenizer.all_special_ids)
    longest = generation_config.max_new_tokens or generation_config.max_length - 1
    is_ended = (generated != IGNORED).sum(1) < longest
    if generation_config.forced_eos_token_id is None:  # else the end at the limit is not the model's
        is_ended |= np.isin(generated, generation_config.eos_token_id).any(1)
    return {"generated_length": float(is_piece.sum(1).mean()), "ended": float(100 * is_ended.mean())}


def compute_target_loss(losses: np.ndarray, numbers: np.ndarray | None) -> dict[str, float]:
    """The mean loss over all target pieces of a split, and its exponential; {} where there are no targets."""
    if numbers is None or not numbers.sum():
        return {}
    loss = float(losses.sum() / numbers.sum())
    return {"loss": loss, "perplexity": float(np.exp(loss))}


def generate(trainer, features: Dataset) -> PredictionOutput:
    """Generated ids, losses and numbers of target pieces of every row; also where training evaluates the loss alone."""
    trainer.args.predict_with_generate = True
    return predict(trainer, features)


def score_generated(
    evaluated: EvalPrediction | PredictionOutput,
    features: Dataset,
    rows: Dataset,
    target_name: str,
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig,
    score_texts: Callable[[list[str], Dataset], dict[str, float]],
) -> dict[str, float]:
    """Loss, lengths, and what `score_texts(texts, rows)` says of the rows that have a target; {} where none has one."""
    if not isinstance(evaluated.predictions, tuple):
        return compute_target_loss(evaluated.predictions, evaluated.label_ids)
    generated, losses = evaluated.predictions
    known = [index for index, target in enumerate(rows[target_name]) if target is not None]
    if not known:
        return {}
    texts = decode_texts(generated, features, tokenizer)
    scores = score_texts([texts[index] for index in known], rows.select(known))
    loss = compute_target_loss(losses, evaluated.label_ids)
    return loss | scores | measure_generated(generated, generation_config, tokenizer)


def list_generated(
    texts: list[str], rows: Dataset, source_name: str, target_name: str, scores: list[dict[str, float] | None]
) -> list[dict]:
    """A row an input, in their order: id, source, target if any, the generated text, and the scores of this row."""
    listed = []
    for row, text, values in zip(rows, texts, scores, strict=True):
        entry = {"id": row["id"], source_name: row[source_name]}
        entry |= {} if row[target_name] is None else {target_name: row[target_name]}
        entry[f"predicted_{target_name}"] = text
        listed.append(entry | {name: round(value, 2) for name, value in (values or {}).items()})
    return listed


def report_generated(outcome, split: str, listed: list[dict], score_name: str) -> None:
    """Put the texts with the lowest score into the report, without those that are the wanted ones."""
    scored = [row for row in listed if score_name in row]
    predicted = next((name for name in scored[0] if name.startswith("predicted_")), "") if scored else ""
    wrong = [row for row in scored if row[predicted] != row[predicted.removeprefix("predicted_")]]
    worst = sorted(wrong, key=lambda row: row[score_name])[:WORST]
    outcome.tables[f"{split}: texts with the lowest {score_name}"] = [
        {score_name: row[score_name]}
        | {name: shorten(value, 400) for name, value in row.items() if isinstance(value, str) and name != "id"}
        for row in worst
    ]
