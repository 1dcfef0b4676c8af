import math

from common.arguments import TrainingArguments
from common.cpu_functions import ATTENTION, DROPOUT, LONGEST, attend, can_draw, draw_kept, drop, quick_functions
from common.trainers import Trainer
from tests.small_models import ENCODER, ENCODER_DECODER, T5, build

import pytest
import torch
import torch.nn.functional as F
from torch import nn

SHARES = [0.1, 0.5, 0.9, 1 / 3]


def draw(shape, *, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_heads(queries=7, keys=7, heads=4, key_heads=4, dtype=torch.float32):
    """Query, key and value of two rows."""
    shapes = ((2, heads, queries, 8), (2, key_heads, keys, 8), (2, key_heads, keys, 8))
    return [draw(shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("p", SHARES)
def test_the_share_that_is_kept_is_right_in_each_place_of_the_drawn_words(p):
    torch.manual_seed(1)
    kept, share = draw_kept(torch.Size([1000, 1000]), p, torch.float32)
    assert sorted(kept.unique().tolist()) == [0.0, 1.0]
    assert share == pytest.approx(1 - p, abs=0.5 / 2**16)
    sd = math.sqrt(p * (1 - p) / (kept.numel() / 4))
    for place in range(4):  # four numbers are made of the 64 bits of a word
        assert float(kept.view(-1)[place::4].mean()) == pytest.approx(1 - p, abs=5 * sd)


def test_what_is_kept_does_not_depend_on_what_stands_beside_it():
    torch.manual_seed(2)
    kept = draw_kept(torch.Size([1_000_000]), 0.1, torch.float64)[0] - 0.9
    for distance in (1, 2, 3, 4, 8, 384):
        correlation = float((kept[distance:] * kept[:-distance]).mean() / 0.09)
        assert abs(correlation) < 5 / math.sqrt(kept.numel())


def test_a_random_state_of_pytorch_brings_the_same_again_and_each_call_another():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = drop(torch.ones(999)), drop(torch.ones(999))
    torch.set_rng_state(state)
    assert torch.equal(drop(torch.ones(999)), first)
    assert torch.equal(drop(torch.ones(999)), second) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_scales_what_it_keeps_and_its_gradient_likewise(dtype):
    torch.manual_seed(4)
    inputs = draw((50, 7), dtype=dtype).requires_grad_()
    outputs = drop(inputs, 0.25)
    factors = (outputs / inputs).detach()
    assert outputs.dtype == dtype and outputs.shape == inputs.shape
    assert torch.allclose(factors[factors != 0], torch.tensor(4 / 3, dtype=dtype), rtol=0.01)
    assert 0.1 < float((factors == 0).float().mean()) < 0.4
    outputs.sum().backward()
    assert torch.equal(inputs.grad == 0, factors == 0)
    assert torch.allclose(inputs.grad.float(), factors.float(), rtol=0.01)


@pytest.mark.parametrize("p, training", [(0.0, True), (1.0, True), (0.3, False), (1e-7, False)])
def test_dropout_of_nothing_and_of_all_is_pytorchs(p, training):
    inputs = draw((5, 3))
    assert torch.equal(drop(inputs, p, training), DROPOUT(inputs, p, training))
    assert can_draw(p) == (p == 0.3)


def test_dropout_in_place_is_in_place():
    inputs = torch.ones(100)
    assert drop(inputs, 0.5, True, True) is inputs and 0 < int((inputs == 0).sum()) < 100


def test_a_share_out_of_range_is_refused_as_by_pytorch():
    with pytest.raises(ValueError, match="between 0 and 1"):
        drop(torch.ones(3), 1.5)


MASK = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])[:, None, None]
BIAS = draw((1, 4, 7, 7), seed=9)
KINDS = {
    "plain": {},
    "causal": {"is_causal": True},
    "padding": {"attn_mask": MASK},
    "bias": {"attn_mask": BIAS},
    "bias and padding": {"attn_mask": BIAS.masked_fill(~MASK, -torch.inf)},
    "scale": {"scale": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_attention_drops_weights_and_scales_the_others(kind, dtype, tolerance):
    """With the unit matrix for a value the output is the weights: each is dropped or what PyTorch has, scaled."""
    torch.manual_seed(5)
    query, key, _ = make_heads(dtype=dtype)
    value = torch.eye(7, dtype=dtype).expand(2, 4, 7, 7)
    weights = ATTENTION(query.double(), key.double(), value.double(), **_widen(KINDS[kind]))
    found = attend(query, key, value, dropout_p=0.25, **KINDS[kind]).double()
    dropped = found == 0
    assert torch.allclose(found.masked_fill(dropped, 0), (weights / 0.75).masked_fill(dropped, 0), atol=tolerance)
    assert 0.15 < float(dropped[weights > 1e-3].float().mean()) < 0.35


def _widen(settings: dict) -> dict:
    mask = settings.get("attn_mask")
    return settings if mask is None or mask.dtype == torch.bool else settings | {"attn_mask": mask.double()}


@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_bfloat16_without_dropout_is_as_near_to_float64_as_pytorchs(kind):
    heads = make_heads(dtype=torch.bfloat16)
    exact = ATTENTION(*(tensor.double() for tensor in heads), **_widen(KINDS[kind]))
    assert not torch.equal(attend(*heads, **KINDS[kind]), ATTENTION(*heads, **_round(KINDS[kind])))
    errors = [
        float((found.double() - exact).square().mean().sqrt())
        for found in (attend(*heads, **KINDS[kind]), ATTENTION(*heads, **_round(KINDS[kind])))
    ]
    assert errors[0] < 2 * errors[1]


def _round(settings: dict) -> dict:
    mask = settings.get("attn_mask")
    return settings if mask is None or mask.dtype == torch.bool else settings | {"attn_mask": mask.bfloat16()}


def test_heads_that_share_their_keys():
    query, key, _ = make_heads(key_heads=2, dtype=torch.bfloat16)
    value = torch.eye(7, dtype=torch.bfloat16).expand(2, 2, 7, 7)
    exact = ATTENTION(query.double(), key.double(), value.double(), enable_gqa=True)
    assert torch.allclose(attend(query, key, value, enable_gqa=True).double(), exact, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_of_attention_are_those_of_differences(kind):
    heads = [tensor.requires_grad_() for tensor in make_heads(heads=1, key_heads=1, dtype=torch.float64)]
    settings = _widen(KINDS[kind])
    if "bias" in kind:
        settings = {"attn_mask": settings["attn_mask"][:, :1]}

    def attend_again(*heads):
        torch.manual_seed(6)
        return attend(*heads, dropout_p=0.25, **settings)

    assert torch.autograd.gradcheck(attend_again, heads)


def test_a_bias_that_is_learnt_gets_its_gradient():
    bias = BIAS.clone().requires_grad_()
    heads = make_heads(dtype=torch.bfloat16)
    attend(*heads, attn_mask=bias).sum().backward()
    exact = BIAS.double().requires_grad_()
    ATTENTION(*(tensor.double() for tensor in heads), attn_mask=exact).sum().backward()
    assert torch.allclose(bias.grad.double(), exact.grad, atol=0.1 * float(exact.grad.abs().max()))


@pytest.mark.parametrize("nothing", [torch.tensor(False), torch.tensor(-torch.inf)])
def test_a_query_that_may_look_at_nothing_gets_zeros(nothing):
    mask = torch.zeros(7, 7) if nothing.dtype.is_floating_point else torch.ones(7, 7, dtype=torch.bool)
    mask[2] = nothing
    found = attend(*make_heads(), attn_mask=mask, dropout_p=0.1)
    assert torch.equal(found[:, :, 2], torch.zeros(2, 4, 8)) and bool(found.isfinite().all())


@pytest.mark.parametrize("keys, is_written_out", [(LONGEST, True), (LONGEST + 1, False)])
def test_without_dropout_long_texts_keep_the_attention_that_keeps_no_scores(keys, is_written_out):
    heads = make_heads(keys=keys, dtype=torch.bfloat16)
    assert torch.equal(attend(*heads), ATTENTION(*heads)) is not is_written_out


def test_float32_without_dropout_is_pytorchs():
    heads = make_heads()
    assert torch.equal(attend(*heads), ATTENTION(*heads))


def test_autocast_decides_the_dtype_of_attention():
    heads = make_heads()
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(*heads, dropout_p=0.1).dtype == attend(*heads).dtype == torch.bfloat16


def test_pytorchs_functions_are_back_also_after_an_exception():
    with pytest.raises(KeyError), quick_functions():
        assert (F.dropout, F.scaled_dot_product_attention) == (drop, attend)
        raise KeyError
    assert (F.dropout, F.scaled_dot_product_attention) == (DROPOUT, ATTENTION)


MODELS = {
    "BertForSequenceClassification": ENCODER,
    "BartForConditionalGeneration": ENCODER_DECODER | {"attention_dropout": 0.1},
    "T5ForConditionalGeneration": T5 | {"decoder_start_token_id": 0},
}


def compute_gradients(name: str, dtype: torch.dtype | None, checkpointing: bool) -> tuple[float, list[torch.Tensor]]:
    model = build(name, MODELS[name]).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    ids = torch.arange(3, 43).view(4, 10)
    if name.endswith("Generation"):
        # No cache in either, as checkpointing has none: its keys lie otherwise in memory, and round otherwise at times.
        inputs = {"labels": ids, "use_cache": False}
    else:
        inputs = {"labels": torch.tensor([0, 1, 0, 1])}
    torch.manual_seed(7)
    with quick_functions():
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).loss
        loss.backward()
    return float(loss.detach()), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradient_checkpointing_drops_the_same_when_it_computes_again(name, dtype):
    loss, gradients = compute_gradients(name, dtype, False)
    again, recomputed = compute_gradients(name, dtype, True)
    assert again == loss
    for gradient, other in zip(gradients, recomputed, strict=True):
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("name", MODELS)
def test_without_dropout_a_model_learns_what_it_learns_with_pytorchs_functions(name, monkeypatch):
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "dropout_rate": 0.0, "hidden_dropout_prob": 0.0}
    settings = MODELS[name] | no_dropout | {"attention_probs_dropout_prob": 0.0}
    monkeypatch.setitem(MODELS, name, settings)
    loss, gradients = compute_gradients(name, torch.bfloat16, False)
    monkeypatch.setattr(f"{__name__}.quick_functions", torch.enable_grad)
    expected, originals = compute_gradients(name, torch.bfloat16, False)
    assert loss == pytest.approx(expected, rel=0.01)
    found, wanted = (torch.cat([one.flatten() for one in some]) for some in (gradients, originals))
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


class Watching(nn.Dropout):
    """Keeps which function it was called with."""

    def __init__(self):
        super().__init__(0.1)
        self.seen = []

    def forward(self, inputs):
        self.seen.append((self.training, F.dropout is drop))
        return super().forward(inputs)


def test_training_steps_are_quick_and_evaluations_are_pytorchs(tmp_path):
    model = build("BertForSequenceClassification", ENCODER)
    model.dropout = Watching()
    rows = [{"input_ids": [3, 4, 5], "labels": 0}, {"input_ids": [6, 7, 8], "labels": 1}]
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=2, save_strategy="no", use_cpu=True)
    trainer = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    trainer.evaluate()
    assert model.dropout.seen == [(True, True), (True, True), (False, False)]
