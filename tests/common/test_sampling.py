"""common/sampling.py: the order of an epoch depends on the seed and the epoch alone."""

from common.sampling import LengthGroupedSampler

import torch

LENGTHS = [*range(1, 401)]


def draw(seed: int, epoch: int, rows_per_step: int = 8) -> list[int]:
    sampler = LengthGroupedSampler(LENGTHS, rows_per_step, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_row_is_drawn_once():
    assert sorted(draw(42, 0)) == [*range(400)]
    assert len(LengthGroupedSampler(LENGTHS, 8, 42)) == 400


def test_the_order_is_the_same_again_whatever_happened_before():
    first = draw(42, 3)
    torch.manual_seed(1)
    torch.rand(7)
    assert draw(42, 3) == first


def test_another_epoch_or_seed_has_another_order():
    orders = [draw(42, 0), draw(42, 1), draw(7, 0)]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]


def test_rows_of_a_step_have_similar_lengths():
    """Steps of a random order would span about 7/9 of all lengths on average."""
    order = draw(42, 0)
    spans = [max(order[i : i + 8]) - min(order[i : i + 8]) for i in range(0, 400, 8)]
    assert sum(spans) / len(spans) < 400 / 4
