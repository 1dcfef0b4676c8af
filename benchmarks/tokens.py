"""What a batch holds: real pieces, those that are computed with the padding, and what the real ones cost."""

from dataclasses import dataclass

import torch

IGNORED = -100  # a label that fills up a row of targets


@dataclass
class Sides:
    """Tokens of one batch or of several, by side; a model that is no encoder-decoder has sources only."""

    real: int = 0
    computed: int = 0
    source: int = 0  # of the real ones
    target: int = 0
    source_squares: int = 0  # the sum of the squares of the rows' lengths, for the cost of attention
    target_squares: int = 0
    products: int = 0  # of source and target length, row by row

    def __add__(self, other: "Sides") -> "Sides":
        return Sides(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def share(self) -> float:
        """Real tokens among the computed ones."""
        return self.real / self.computed


def count_tokens(batch: dict[str, torch.Tensor], pad_token_id: int | None, has_targets: bool) -> Sides:
    """The tokens of a batch; with `has_targets` its labels are the other side of an encoder-decoder."""
    lengths = _measure_sources(batch, pad_token_id)
    sides = Sides(int(lengths.sum()), batch["input_ids"].numel(), int(lengths.sum()), 0, int((lengths**2).sum()))
    if has_targets and "labels" in batch:
        targets = batch["labels"].ne(IGNORED).sum(1)
        written = int(targets.sum())
        sides += Sides(written, batch["labels"].numel(), 0, written, 0, int((targets**2).sum()))
        sides.products = int((lengths * targets).sum())
    return sides


def _measure_sources(batch: dict[str, torch.Tensor], pad_token_id: int | None) -> torch.Tensor:
    """The length of each text: of each row, or of each of those that are packed into rows."""
    mask, positions = batch.get("attention_mask"), batch.get("position_ids")
    if mask is not None and mask.dim() == 2:
        return mask.long().sum(1)
    ids = batch["input_ids"]
    real = torch.ones_like(ids) if pad_token_id is None else ids.ne(pad_token_id).long()
    if positions is None:
        return real.sum(1)
    starts = positions.eq(0)
    starts[:, 0] = True
    texts = starts.flatten().cumsum(0) - 1
    return torch.zeros(int(texts.max()) + 1, dtype=torch.long).index_add_(0, texts, real.flatten())
