"""Greedy generation in which a text that is finished costs nothing more: its row leaves the batch."""

import copy

import torch
from transformers import GenerationConfig, generation
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.generation import GenerationMode, LogitsProcessorList, StoppingCriteriaList
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

LEAVING = 0.25  # of the rows of a batch have to be finished, since the rows that stay are copied with all they remember
LOOK = 4  # steps of a device that is not the CPU between two looks, each of which waits for the device
# What a row brings along, beside the cache.
OF_ROWS = ("attention_mask", "position_ids", "decoder_attention_mask", "decoder_position_ids", "token_type_ids")
# These look at each row by itself, and remember nothing of a row but the padding of its prompt.
PROCESSORS = (
    generation.ForcedBOSTokenLogitsProcessor, generation.ForcedEOSTokenLogitsProcessor,
    generation.InfNanRemoveLogitsProcessor, generation.MinLengthLogitsProcessor,
    generation.MinNewTokensLengthLogitsProcessor, generation.NoBadWordsLogitsProcessor,
    generation.NoRepeatNGramLogitsProcessor, generation.RepetitionPenaltyLogitsProcessor,
    generation.SuppressTokensAtBeginLogitsProcessor, generation.SuppressTokensLogitsProcessor,
)  # fmt: skip
CRITERIA = (generation.EosTokenCriteria, generation.MaxLengthCriteria)


def generate(model, input_ids: torch.LongTensor, **settings) -> torch.LongTensor:
    """What the model writes for each row, [rows, longest], without the prompt or the piece that starts a decoder."""
    ids = model.generate(input_ids=input_ids, **add_search(model, **settings))
    return ids[:, 1 if model.config.is_encoder_decoder else input_ids.size(1) :]


def add_search(model, **settings) -> dict:
    """The settings of `model.generate`, with `search_greedily` where they and the model's own ask for greedy search.

    A beam search keeps every row to the end of its batch: transformers has no way to take some out of it. Shards of a
    model wait for each other at every piece, of which generate() does not tell a search that it is given.
    """
    if settings.get("synced_gpus", is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)):
        return settings | {"synced_gpus": True}
    config = copy.copy(model.generation_config)
    for name in ("num_beams", "do_sample"):
        if settings.get(name) is not None:
            setattr(config, name, settings[name])
    is_greedy = config.get_generation_mode() is GenerationMode.GREEDY_SEARCH
    return settings | {"custom_generate": search_greedily} if is_greedy and not has_virtual_tokens(model) else settings


def has_virtual_tokens(model) -> bool:
    """Whether its adapter puts tokens before the input: more pieces come out than went in."""
    adapter = getattr(model, "active_peft_config", None)
    return adapter is not None and adapter.is_prompt_learning


def search_greedily(
    model,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs,
) -> torch.LongTensor:
    """The ids that transformers' own greedy search finds, [rows, longest], finished rows filled up with padding.

    For `generate(custom_generate=search_greedily)`. Finished rows are computed on until they are a quarter of those
    left. Models whose memory of a row cannot be taken out of that of the batch get transformers' own search.
    """
    cache = model_kwargs.get("past_key_values")
    others = [name for name, value in model_kwargs.items() if isinstance(value, torch.Tensor) and name not in OF_ROWS]
    if (
        others
        or not _is_divisible(cache)
        or generation_config.prefill_chunk_size is not None
        or generation_config.return_dict_in_generate
        or not all(isinstance(processor, PROCESSORS) for processor in logits_processor)
        or not all(isinstance(criterion, CRITERIA) for criterion in stopping_criteria)
    ):
        return type(model)._sample(
            model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
        )
    return _write(model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs)


def _is_divisible(cache) -> bool:
    """Whether its layers hold nothing but keys and values of each row."""
    if isinstance(cache, EncoderDecoderCache):
        return _is_divisible(cache.self_attention_cache) and _is_divisible(cache.cross_attention_cache)
    # Without layers it makes those of the one class when they are first written to.
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in kinds for layer in cache.layers)


def _write(model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs) -> torch.LongTensor:
    padding = generation_config._pad_token_tensor
    longest, patience = generation_config.max_length, 1 if input_ids.device.type == "cpu" else LOOK
    rows = torch.arange(len(input_ids), device=input_ids.device)  # that are still in the batch
    texts = input_ids.new_full((len(input_ids), longest), 0 if padding is None else padding)
    is_finished = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    first = input_ids.size(1)
    while len(rows):
        is_first = input_ids.size(1) == first
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if is_first else 1, is_first_iteration=is_first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder=model.config.is_encoder_decoder
        )
        # In float32 as in transformers' own search.
        scores = logits_processor(input_ids, outputs.logits[:, -1].float())
        pieces = scores.argmax(-1)
        if padding is not None:
            pieces = pieces.where(~is_finished, padding)
        input_ids = torch.cat([input_ids, pieces[:, None]], dim=-1)
        is_finished = is_finished | stopping_criteria(input_ids, None)
        if (input_ids.size(1) - first) % patience and input_ids.size(1) < longest:
            continue
        finished = int(is_finished.sum())
        if finished > LEAVING * len(rows):
            texts[rows[is_finished], : input_ids.size(1)] = input_ids[is_finished]
            kept = (~is_finished).nonzero()[:, 0]
            input_ids, rows, is_finished = input_ids[kept], rows[kept], is_finished[kept]
            _keep_rows(model_kwargs, logits_processor, kept)
    return texts[:, : input_ids.size(1)]


def _keep_rows(model_kwargs: dict, logits_processor: LogitsProcessorList, kept: torch.LongTensor) -> None:
    """Leave these rows of the batch in everything that goes on to the next step."""
    for name in OF_ROWS:
        if model_kwargs.get(name) is not None:
            model_kwargs[name] = model_kwargs[name][kept]
    for processor in logits_processor:
        padded = getattr(processor, "prompt_ignore_length", None)
        if isinstance(padded, torch.Tensor):
            processor.prompt_ignore_length = padded[kept]
    encoded = model_kwargs.get("encoder_outputs")
    if encoded is not None:
        for name, values in encoded.items():
            if isinstance(values, torch.Tensor):
                encoded[name] = values[kept]
    model_kwargs["past_key_values"].batch_select_indices(kept)
