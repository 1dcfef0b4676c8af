"""Losses with the right denominator: the same number whatever the batch, accumulation or process layout.

`Trainer` (transformers 5.23) scales the loss of most heads by gradient_accumulation_steps x processes, because it
trusts the model to divide by `num_items_in_batch`, which those heads never look at (huggingface/transformers#47688).
Given as `compute_loss_func`, these classes divide the *sum* over the micro-batch by the number of labels in the whole
optimizer step, which Trainer counts over all micro-batches and processes. Trainer then ignores
`label_smoothing_factor`, so the smoothing is done here.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import UserError

import torch
import torch.nn.functional as F

IGNORED = -100  # the label that every Hugging Face collator pads with


@dataclass
class CrossEntropy:
    """Cross entropy of a classification, token-classification, sequence-to-sequence or causal language model head.

    `class_weights` multiplies the loss of each item by the weight of its class. The sum is still divided by the
    number of items, not by the sum of their weights: only so does a batch's composition not change the scale.
    Weights that average 1 over the training labels (see common/class_weights.py) keep the scale of the unweighted loss.
    `focal_gamma` multiplies it by (1 - p)^gamma, p the probability of the label (Lin et al. 2017, eq. 4).
    `shift` predicts each label from the position before it, as causal language models do.
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    focal_gamma: float = 0.0
    shift: bool = False

    def __post_init__(self):
        _refuse_opposites(self.label_smoothing, self.focal_gamma)

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = outputs["logits"]
        if self.shift:
            logits, labels = take_learnt(logits, labels)
        return divide_by_items(self.per_item(logits, labels).sum(), labels, num_items_in_batch)

    def per_item(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of every label, in the shape of `labels`, 0 where it is ignored; logits: [..., classes]."""
        logits = logits.reshape(-1, logits.size(-1)).float()  # bfloat16 has too few digits for a sum of logs
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        losses = F.cross_entropy(
            logits,
            labels.reshape(-1),
            weight=weights,
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        if self.focal_gamma:
            targets = labels.reshape(-1, 1).clamp(min=0)
            probabilities = logits.softmax(-1).gather(-1, targets).squeeze(-1)
            # Not 0: a power below 1 has no finite derivative there.
            losses = losses * (1 - probabilities).clamp(min=1e-7) ** self.focal_gamma
        return losses.view(labels.shape)


@dataclass
class BinaryCrossEntropy:
    """Binary cross entropy of a multi-label head: the mean over rows and classes; labels are floats [rows, classes].

    `class_weights` multiplies the loss of the rows that have the class (PyTorch's pos_weight); `focal_gamma` multiplies
    each loss by (1 - p)^gamma, p the probability of what is right; `label_smoothing` moves the labels towards 0.5.
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    focal_gamma: float = 0.0

    def __post_init__(self):
        _refuse_opposites(self.label_smoothing, self.focal_gamma)

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        return divide_by_items(self.per_item(outputs["logits"], labels).sum(), labels, num_items_in_batch)

    def per_item(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of every row and class, 0 where the label is ignored; both [rows, classes]."""
        logits, ignored = logits.float(), labels == IGNORED
        labels = labels.float().masked_fill(ignored, 0)
        targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.focal_gamma:
            wrong = torch.where(labels > 0, -logits, logits).sigmoid()
            losses = losses * wrong.clamp(min=1e-7) ** self.focal_gamma
        if self.class_weights is not None:
            losses = losses * torch.where(labels > 0, self.class_weights.to(logits.device), 1.0)
        return losses.masked_fill(ignored, 0)


def find_learnt(labels: torch.Tensor) -> torch.Tensor:
    """Whether a causal language model learns what comes next, at each position of its rows; shape of `labels`."""
    return F.pad(labels[:, 1:] != IGNORED, (0, 1))


def take_learnt(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of what a causal language model learns, [learnt, classes] and [learnt].

    A float32 copy of the logits of every prompt would be most of the memory of a step.
    """
    is_learnt = find_learnt(labels)
    return logits[is_learnt] if logits.dim() == 3 else logits, labels[:, 1:][is_learnt[:, :-1]]


@contextlib.contextmanager
def only_learnt_logits(model, labels: torch.Tensor) -> Iterator[None]:
    """Within it a causal language model computes the logits of what is learnt alone, [learnt, classes].

    The others would be thrown away: with a large vocabulary they take more memory than all the rest of a step.
    """
    is_learnt = find_learnt(labels)

    def select(head, args):
        return args[0][is_learnt], *args[1:]

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


class SpanCrossEntropy:
    """Cross entropy of a question-answering head: the mean over start and end positions, the first two labels of a row.

    There is no label smoothing: over positions that `hide_padding` rules out it would be infinite. Trainer counts items
    only under the key `labels`. With `start_positions` and `end_positions` instead, a custom loss
    comes out gradient_accumulation_steps times too large.
    """

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=1)
        if labels.size(1) > 2:  # rows to be scored carry more (see common/spans.py), and Trainer has counted it all
            labels, num_items_in_batch = labels[:, :2], None
        losses = CrossEntropy().per_item(logits, labels)
        return divide_by_items(losses.sum(), labels, num_items_in_batch)


def hide_padding(model) -> None:
    """Give padded positions of a question-answering model no probability of being a start or an end.

    Its softmax runs over all positions of the batch, so without this the loss depends on how much a row is padded.
    """

    def mask_logits(module, args, kwargs, outputs):
        padded = kwargs["attention_mask"] == 0
        for name in ("start_logits", "end_logits"):
            outputs[name] = outputs[name].masked_fill(padded, torch.finfo(outputs[name].dtype).min)
        return outputs

    model.register_forward_hook(mask_logits, with_kwargs=True)


def _refuse_opposites(label_smoothing: float, focal_gamma: float) -> None:
    if label_smoothing and focal_gamma:
        raise UserError("label smoothing and focal loss undo each other: set one of them to 0.")


def divide_by_items(loss_sum: torch.Tensor, labels: torch.Tensor, num_items_in_batch) -> torch.Tensor:
    """`loss_sum` per label of the optimizer step, or per label of this batch where Trainer did not count them."""
    if num_items_in_batch is None:
        num_items_in_batch = labels.ne(IGNORED).sum()
    elif torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(loss_sum.device)
    # A micro-batch in which every label is ignored has the sum 0: keep it 0 instead of 0 / 0.
    return loss_sum / max(num_items_in_batch, 1)
