import math

from common.errors import UserError
from common.losses import BinaryCrossEntropy, CrossEntropy, SpanCrossEntropy, hide_padding, only_learnt_logits

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForQuestionAnswering, LlamaConfig, LlamaForCausalLM
from transformers.trainer_pt_utils import LabelSmoother

CLASSES = 5


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 7, CLASSES, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES, (4, 7), generator=generator)
    return labels.masked_fill(torch.rand(4, 7, generator=generator) < 0.4, -100)


def put_probabilities(*probabilities: float) -> torch.Tensor:
    """Logits of one item whose softmax is these probabilities."""
    return torch.tensor([probabilities]).log()


# Cross entropy


def test_unweighted_it_is_the_cross_entropy_of_torch(logits, labels):
    expected = F.cross_entropy(logits.view(-1, CLASSES), labels.view(-1), ignore_index=-100)
    torch.testing.assert_close(CrossEntropy()({"logits": logits}, labels), expected)


def test_one_label_a_row_is_the_cross_entropy_of_torch(logits, labels):
    expected = F.cross_entropy(logits[:, 0], labels[:, 0].clamp(min=0))
    torch.testing.assert_close(CrossEntropy()({"logits": logits[:, 0]}, labels[:, 0].clamp(min=0)), expected)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothing_is_that_of_transformers(logits, labels, smoothing):
    expected = LabelSmoother(epsilon=smoothing)({"logits": logits}, labels)
    torch.testing.assert_close(CrossEntropy(label_smoothing=smoothing)({"logits": logits}, labels), expected)


def test_the_sum_is_divided_by_the_items_of_the_whole_step(logits, labels):
    expected = F.cross_entropy(logits.view(-1, CLASSES), labels.view(-1), ignore_index=-100, reduction="sum") / 100
    for items in (100, torch.tensor(100)):
        torch.testing.assert_close(CrossEntropy()({"logits": logits}, labels, num_items_in_batch=items), expected)


def test_micro_batches_of_a_step_add_up_to_the_loss_of_the_step(logits, labels):
    loss = CrossEntropy(label_smoothing=0.1, class_weights=torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25]))
    items = labels.ne(-100).sum()
    parts = [loss({"logits": logits[row]}, labels[row], items) for row in range(4)]
    torch.testing.assert_close(sum(parts), loss({"logits": logits}, labels))


def test_the_weighted_sum_is_divided_by_the_number_of_labels():
    """torch's own weighted mean divides by the sum of the weights, here 4.5."""
    logits = torch.cat([put_probabilities(0.5, 0.5), put_probabilities(0.25, 0.75), put_probabilities(0.9, 0.1)])
    labels = torch.tensor([0, 1, -100])
    weights = torch.tensor([4.0, 0.5])
    expected = (4 * math.log(2) + 0.5 * math.log(4 / 3)) / 2
    assert CrossEntropy(class_weights=weights)({"logits": logits}, labels).item() == pytest.approx(expected)


def test_focal_loss_by_hand():
    logits = torch.cat([put_probabilities(0.75, 0.25), put_probabilities(0.9, 0.1), put_probabilities(0.5, 0.5)])
    labels = torch.tensor([0, 1, -100])
    # (1 - p)^2 * -log p, for p = 0.75 and p = 0.1
    expected = (0.25**2 * -math.log(0.75) + 0.9**2 * -math.log(0.1)) / 2
    assert CrossEntropy(focal_gamma=2.0)({"logits": logits}, labels).item() == pytest.approx(expected)


def test_focal_loss_with_class_weights_by_hand():
    loss = CrossEntropy(class_weights=torch.tensor([1.0, 3.0]), focal_gamma=1.0)
    expected = 3 * 0.8 * -math.log(0.2)
    assert loss({"logits": put_probabilities(0.8, 0.2)}, torch.tensor([1])).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_has_a_finite_gradient_where_the_model_is_certain(gamma):
    """In float32 the probability is exactly 1 from a difference of about 17 on, at padding too."""
    logits = torch.tensor([[40.0, 0.0], [0.0, 40.0], [40.0, 0.0]], requires_grad=True)
    loss = CrossEntropy(focal_gamma=gamma)({"logits": logits}, torch.tensor([0, 0, -100]))
    loss.backward()
    assert loss.item() == pytest.approx(20.0)  # certain and wrong: 40 by a factor of 1; certain and right: 0
    assert logits.grad.isfinite().all()
    assert logits.grad[1].tolist() == pytest.approx([-0.5, 0.5])


def build_llama(**settings) -> LlamaForCausalLM:
    """One layer with random weights, the same each time."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=30, **size, **settings))


def test_shifted_it_is_the_loss_of_a_causal_language_model():
    model = build_llama().eval()
    input_ids = torch.randint(0, 30, (3, 9))
    labels = input_ids.clone()
    labels[:, :3] = -100
    labels[1, 6:] = -100
    outputs = model(input_ids=input_ids, labels=labels)
    torch.testing.assert_close(CrossEntropy(shift=True)(outputs, labels), outputs.loss)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_what_is_learnt_alone_lose_and_teach_the_same(tied):
    model = build_llama(tie_word_embeddings=tied)
    input_ids = torch.randint(0, 30, (3, 9))
    labels = input_ids.clone()
    labels[:, :3] = -100
    labels[1, 6:] = -100
    loss = CrossEntropy(shift=True)
    whole = model(input_ids=input_ids)
    loss(whole, labels).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with only_learnt_logits(model, labels):
        outputs = model(input_ids=input_ids)
    # Of nine pieces the first three are not learnt, nor the last three of the second row.
    assert outputs.logits.shape == (6 + 3 + 6, 30)
    torch.testing.assert_close(loss(outputs, labels), loss(whole, labels))
    loss(outputs, labels).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert model(input_ids=input_ids).logits.shape == (3, 9, 30)  # all of them again


def test_where_nothing_is_learnt_there_are_no_logits_and_the_loss_is_0():
    model = build_llama()
    ids, labels = torch.randint(0, 30, (2, 5)), torch.full((2, 5), -100)
    labels[0, 0] = 7  # nothing stands before it that could predict it
    with only_learnt_logits(model, labels):
        outputs = model(input_ids=ids)
    loss = CrossEntropy(shift=True)(outputs, labels, 3)
    loss.backward()
    assert outputs.logits.shape == (0, 30) and loss.item() == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_bfloat16_logits_are_summed_in_float32(logits, labels):
    halved = logits.bfloat16()
    loss = CrossEntropy()({"logits": halved}, labels)
    assert loss.dtype == torch.float32
    expected = F.cross_entropy(halved.float().view(-1, CLASSES), labels.view(-1), ignore_index=-100)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    in_bfloat16 = F.cross_entropy(halved.view(-1, CLASSES), labels.view(-1), ignore_index=-100)
    assert in_bfloat16.item() != pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(),
        CrossEntropy(label_smoothing=0.1),
        CrossEntropy(focal_gamma=2.0),
        CrossEntropy(class_weights=torch.ones(CLASSES)),
        CrossEntropy(shift=True),
    ],
)
@pytest.mark.parametrize("items", [None, 0, torch.tensor(0), torch.tensor(9)])
def test_a_batch_without_labels_gives_0_and_a_gradient_of_0(logits, loss, items):
    logits.requires_grad_()
    value = loss({"logits": logits}, torch.full((4, 7), -100), items)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max().item() == 0


def test_the_loss_of_each_label_has_the_shape_of_the_labels_and_is_0_where_they_are_ignored(logits, labels):
    losses = CrossEntropy(label_smoothing=0.1).per_item(logits, labels)
    assert losses.shape == labels.shape
    assert (losses[labels == -100] == 0).all() and (losses[labels != -100] > 0).all()


@pytest.mark.parametrize("loss_class", [CrossEntropy, BinaryCrossEntropy])
def test_smoothing_and_focal_loss_exclude_each_other(loss_class):
    with pytest.raises(UserError, match="set one of them to 0"):
        loss_class(label_smoothing=0.1, focal_gamma=2.0)


# Several labels a row


def test_binary_cross_entropy_is_that_of_torch(logits):
    logits = logits[:, 0]
    labels = torch.randint(0, 2, logits.shape, generator=torch.Generator().manual_seed(2)).float()
    expected = torch.nn.BCEWithLogitsLoss()(logits, labels)
    torch.testing.assert_close(BinaryCrossEntropy()({"logits": logits}, labels), expected)
    torch.testing.assert_close(BinaryCrossEntropy()({"logits": logits}, labels.long()), expected)
    loss = BinaryCrossEntropy()({"logits": logits.bfloat16()}, labels)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_binary_cross_entropy_is_divided_by_the_labels_of_the_whole_step(logits):
    logits, labels = logits[:, 0], torch.ones(4, CLASSES)
    expected = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits, labels) / 60
    torch.testing.assert_close(BinaryCrossEntropy()({"logits": logits}, labels, torch.tensor(60)), expected)


@pytest.fixture
def label_sets() -> torch.Tensor:
    """For the rows logits[:, 0]; the third of them has no labels."""
    label_sets = torch.randint(0, 2, (4, CLASSES), generator=torch.Generator().manual_seed(2))
    label_sets[2] = -100
    return label_sets


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25])])
def test_class_weights_of_binary_cross_entropy_are_those_of_torch_and_ignored_rows_do_not_count(
    logits, label_sets, weights
):
    kept = [0, 1, 3]
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits[kept, 0], label_sets[kept].float())
    loss = BinaryCrossEntropy(class_weights=weights)
    for labels in (label_sets, label_sets.float()):
        torch.testing.assert_close(loss({"logits": logits[:, 0]}, labels), expected)
    losses = loss.per_item(logits[:, 0], label_sets)
    assert losses.shape == label_sets.shape
    assert (losses[2] == 0).all() and (losses[kept] > 0).all()


def test_focal_binary_cross_entropy_by_hand():
    """The first class is right with 0.75, the second with 0.9, in the second row with 0.4 and 0.2."""
    logits = torch.tensor([[0.75, 0.1], [0.4, 0.8]]).logit()
    labels = torch.tensor([[1, 0], [1, 0]])
    parts = [(0.75, 2.0), (0.9, 1.0), (0.4, 2.0), (0.2, 1.0)]  # probability of what is right, weight
    losses = [weight * (1 - right) ** 3 * -math.log(right) for right, weight in parts]
    loss = BinaryCrossEntropy(class_weights=torch.tensor([2.0, 5.0]), focal_gamma=3.0)
    assert loss({"logits": logits}, labels).item() == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert loss.per_item(logits, labels).flatten().tolist() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_binary_cross_entropy_has_a_finite_gradient_where_the_model_is_certain(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0], [200.0, 0.0]], requires_grad=True)
    loss = BinaryCrossEntropy(focal_gamma=gamma)({"logits": logits}, torch.tensor([[1, 0], [1, 0], [-100, -100]]))
    loss.backward()
    assert loss.item() == pytest.approx(100)  # certain and wrong: 200 by a factor of 1; certain and right: 0
    assert logits.grad.isfinite().all()
    assert logits.grad[1].tolist() == pytest.approx([-0.25, 0.25]) and logits.grad[2].tolist() == [0, 0]


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothing_moves_labels_towards_one_half(logits, label_sets, smoothing):
    kept = [0, 1, 3]
    targets = torch.where(label_sets[kept] == 1, 1 - smoothing / 2, smoothing / 2)
    expected = torch.nn.BCEWithLogitsLoss()(logits[kept, 0], targets)
    loss = BinaryCrossEntropy(label_smoothing=smoothing)
    torch.testing.assert_close(loss({"logits": logits[:, 0]}, label_sets), expected)


@pytest.mark.parametrize(
    "loss",
    [
        BinaryCrossEntropy(),
        BinaryCrossEntropy(label_smoothing=0.1),
        BinaryCrossEntropy(class_weights=torch.ones(CLASSES) * 2, focal_gamma=2.0),
    ],
)
def test_micro_batches_of_several_labels_a_row_add_up_and_a_batch_without_labels_gives_0(logits, label_sets, loss):
    logits = logits[:, 0].requires_grad_()
    items = label_sets.ne(-100).sum()
    parts = [loss({"logits": logits[[row]]}, label_sets[[row]], items) for row in range(4)]
    torch.testing.assert_close(sum(parts), loss({"logits": logits}, label_sets))
    for count in (None, 0):
        value = loss({"logits": logits}, torch.full((4, CLASSES), -100), count)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.item() == 0 and gradient.abs().max().item() == 0


# Question answering


def test_the_span_loss_is_the_mean_of_start_and_end():
    generator = torch.Generator().manual_seed(3)
    start, end = torch.randn(6, 11, generator=generator), torch.randn(6, 11, generator=generator)
    labels = torch.randint(0, 11, (6, 2), generator=generator)
    expected = (F.cross_entropy(start, labels[:, 0]) + F.cross_entropy(end, labels[:, 1])) / 2
    outputs = {"start_logits": start, "end_logits": end}
    torch.testing.assert_close(SpanCrossEntropy()(outputs, labels), expected)
    torch.testing.assert_close(SpanCrossEntropy()(outputs, labels, torch.tensor(24)), expected / 2)


@pytest.mark.parametrize("items", [None, 20, torch.tensor(20)])
def test_more_columns_of_labels_change_the_span_loss_as_little_as_a_count_of_them(items):
    generator = torch.Generator().manual_seed(4)
    outputs = {name: torch.randn(4, 9, generator=generator) for name in ("start_logits", "end_logits")}
    labels = torch.randint(0, 9, (4, 5), generator=generator)
    labels[1, :2] = -100
    kept = [0, 2, 3]
    expected = (
        F.cross_entropy(outputs["start_logits"][kept], labels[kept, 0])
        + F.cross_entropy(outputs["end_logits"][kept], labels[kept, 1])
    ) / 2
    torch.testing.assert_close(SpanCrossEntropy()(outputs, labels, items), expected)
    torch.testing.assert_close(SpanCrossEntropy()(outputs, labels[:, :2], torch.tensor(6)), expected)


def build_span_model() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    return BertForQuestionAnswering(config).eval()


def compute_span_loss(model, loss: SpanCrossEntropy, length: int) -> float:
    """The loss of two rows of 5 and 8 pieces, padded to `length`."""
    rows = [torch.arange(3, 8), torch.arange(10, 18)]
    batch = {"input_ids": torch.zeros(2, length, dtype=torch.long), "attention_mask": torch.zeros(2, length)}
    for number, row in enumerate(rows):
        batch["input_ids"][number, : len(row)] = row
        batch["attention_mask"][number, : len(row)] = 1
    return loss(model(**batch), torch.tensor([[1, 2], [0, 7]])).item()


def test_padding_a_batch_further_does_not_change_the_span_loss():
    model, loss = build_span_model(), SpanCrossEntropy()
    assert compute_span_loss(model, loss, 16) != pytest.approx(compute_span_loss(model, loss, 8), rel=1e-3)
    hide_padding(model)
    losses = [compute_span_loss(model, loss, length) for length in (8, 9, 16, 32)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    assert 1 < losses[0] < 4  # an untrained model: about log 5 and log 8


def test_padding_is_hidden_in_half_precision_too():
    model = build_span_model().bfloat16()
    hide_padding(model)
    losses = [compute_span_loss(model, SpanCrossEntropy(), length) for length in (8, 32)]
    assert math.isfinite(losses[0]) and losses[1] == pytest.approx(losses[0], rel=1e-2)
