"""Greedy generation: the texts of transformers' own search, and no row is computed on for long behind its end."""

from common.greedy import LEAVING, add_search
from tests.small_models import ENCODER_DECODER, GPT2, T5, build

import peft
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

LLAMA = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "T5ForConditionalGeneration": T5 | {"decoder_start_token_id": 0},
    "BartForConditionalGeneration": ENCODER_DECODER,
    "GPT2LMHeadModel": GPT2,
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA | {"sliding_window": 4, "num_key_value_heads": 2},
}
ROWS, LONGEST, PADDING = 13, 20, 3
SETTINGS = [{}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.3, "min_new_tokens": 3}]


def make_inputs(model) -> dict[str, torch.Tensor]:
    """Rows of unlike lengths, padded on the side where the model wants it."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 50, (ROWS, 9), generator=generator)
    mask = torch.arange(9) < torch.randint(2, 10, (ROWS, 1), generator=generator)
    mask = mask if model.config.is_encoder_decoder else mask.flip(1)
    return {"input_ids": ids.where(mask, PADDING), "attention_mask": mask.long()}


def make_talkative(model, **settings) -> dict[str, torch.Tensor]:
    """Inputs for the model, which now writes texts of many lengths to them: its ends are pieces that it does write."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    model.eval()
    config, inputs = model.generation_config, make_inputs(model)
    config.max_length, config.max_new_tokens, config.pad_token_id, config.eos_token_id = None, LONGEST, PADDING, None
    for name, value in settings.items():
        setattr(config, name, value)
    texts = model.generate(**inputs)[:, -LONGEST:]
    # The pieces under which the lengths differ most, looked for one after the other.
    config.eos_token_id = []
    for _ in range(3):
        chosen = config.eos_token_id
        rated = {piece: len(set(measure_texts(texts, [*chosen, piece]))) for piece in range(50) if piece != PADDING}
        chosen.append(max(rated, key=rated.get))
    return inputs


def measure_texts(texts: torch.Tensor, ends: list[int]) -> list[int]:
    """How many pieces each of the texts has up to its end, and with it."""
    is_end = torch.isin(texts, torch.tensor(ends))
    return [int(row.int().argmax()) + 1 if row.any() else LONGEST for row in is_end]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", MODELS)
def test_the_texts_are_those_of_transformers_and_finished_rows_leave_the_batch(name, settings):
    model = build(name, MODELS[name])
    inputs = make_talkative(model, **settings)
    expected = model.generate(**inputs)
    prompt = 1 if model.config.is_encoder_decoder else inputs["input_ids"].size(1)
    written = torch.nn.functional.pad(expected[:, prompt:], (0, LONGEST + prompt - expected.size(1)), value=PADDING)
    lengths = measure_texts(written, model.generation_config.eos_token_id)
    assert len(set(lengths)) > 3, "texts of one length show nothing"
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda module, given, logits: sizes.append(len(logits)))
    found = model.generate(**inputs, **add_search(model))
    assert torch.equal(found, expected)
    assert sizes[0] == ROWS and len(sizes) == max(lengths)
    for step, size in enumerate(sizes):
        unfinished = sum(length > step for length in lengths)
        assert unfinished <= size and size - unfinished <= LEAVING * size


def test_one_row_and_rows_that_never_end():
    model = build("GPT2LMHeadModel", GPT2)
    inputs = make_talkative(model)
    for ends in (model.generation_config.eos_token_id, None):
        model.generation_config.eos_token_id = ends
        for rows in (slice(0, 1), slice(None)):
            part = {name: values[rows] for name, values in inputs.items()}
            assert torch.equal(model.generate(**part, **add_search(model)), model.generate(**part))


def test_an_adapter_writes_the_same():
    model = build("LlamaForCausalLM", LLAMA)
    inputs = make_talkative(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj"]))
    assert "custom_generate" in add_search(adapted)
    assert torch.equal(adapted.generate(**inputs, **add_search(adapted)), adapted.generate(**inputs))


def test_what_is_not_greedy_is_left_to_transformers():
    model = build("GPT2LMHeadModel", GPT2)
    assert add_search(model, synced_gpus=True) == {"synced_gpus": True}  # shards that wait for each other
    assert add_search(model, max_length=5, num_beams=None).keys() == {"max_length", "num_beams", "custom_generate"}
    assert add_search(model, num_beams=2) == {"num_beams": 2}
    model.generation_config.num_beams = 4
    assert add_search(model) == {} and "custom_generate" in add_search(model, num_beams=1)
    model.generation_config.num_beams, model.generation_config.do_sample = 1, True
    assert add_search(model) == {}


def test_virtual_tokens_are_left_to_transformers():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert add_search(peft.get_peft_model(build("GPT2LMHeadModel", GPT2), config)) == {}


def test_rows_that_cannot_leave_stay_to_the_end():
    """Mamba remembers no keys and values that could be taken out."""
    model = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, pad_token_id=PADDING))
    inputs = make_talkative(model)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda module, given, logits: sizes.append(len(logits)))
    expected = model.generate(**inputs)
    sizes.clear()
    found = model.generate(**inputs, **add_search(model))
    assert torch.equal(found, expected) and set(sizes) == {ROWS}
