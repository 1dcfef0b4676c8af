"""common/sampling.py: the order of an epoch depends on the seed and the epoch alone."""

from collections import Counter

from common.sampling import BalancedSampler, LengthGroupedSampler

import numpy as np
import pytest
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


# Each class as often as any other

LABELS = [*[0] * 70, *[1] * 20, *[5] * 7, *[2] * 3]


def draw_balanced(labels: list[int], seed: int = 42, epoch: int = 0) -> list[int]:
    sampler = BalancedSampler(labels, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler) == len(labels)
    assert all(type(row) is int for row in order)
    return order


@pytest.mark.parametrize("epoch", range(3))
def test_each_class_comes_equally_often_whatever_its_rows(epoch):
    counts = Counter(LABELS[row] for row in draw_balanced(LABELS, epoch=epoch))
    assert counts == {0: 25, 1: 25, 5: 25, 2: 25}


def test_rows_that_cannot_be_shared_out_go_to_one_class_each():
    counts = [Counter(LABELS[:-1][row] for row in draw_balanced(LABELS[:-1], epoch=epoch)) for epoch in range(20)]
    assert all(sorted(count.values()) == [24, 25, 25, 25] for count in counts)
    assert len({min(count, key=count.get) for count in counts}) > 1  # not always the same class


def test_no_row_repeats_before_every_row_of_its_class_was_drawn():
    for epoch in range(5):
        drawn = Counter(draw_balanced(LABELS, epoch=epoch))
        for label in set(LABELS):
            times = [drawn[row] for row in np.flatnonzero(np.array(LABELS) == label)]
            assert max(times) - min(times) <= 1
            # 25 draws of 70, 20, 7 and 3 rows
            assert min(times) == {0: 0, 1: 1, 5: 3, 2: 8}[label]


def test_a_class_with_many_rows_shows_others_of_them_in_each_epoch():
    drawn = [{row for row in draw_balanced(LABELS, epoch=epoch) if LABELS[row] == 0} for epoch in range(2)]
    assert len(drawn[0]) == len(drawn[1]) == 25
    assert drawn[0] != drawn[1]
    later = [row for epoch in range(20) for row in draw_balanced(LABELS, epoch=epoch)]
    assert set(later) == {*range(100)}


def test_the_balanced_order_depends_on_seed_and_epoch_alone():
    first = draw_balanced(LABELS, 42, 3)
    torch.manual_seed(1)
    np.random.seed(1)
    assert draw_balanced(LABELS, 42, 3) == first
    others = [draw_balanced(LABELS, 42, 4), draw_balanced(LABELS, 43, 3), draw_balanced(LABELS, 43, 2)]
    assert first not in others and others[0] != others[1]


def test_classes_are_mixed_in_the_balanced_order():
    classes = [LABELS[row] for row in draw_balanced(LABELS)]
    changes = sum(a != b for a, b in zip(classes, classes[1:], strict=False))
    assert changes > 60  # 3/4 of 99 on average


@pytest.mark.parametrize("labels", [[3, 3, 3], [0, 1], [0, 1, 2, 2]])
def test_where_classes_are_balanced_or_alone_every_row_is_drawn(labels):
    drawn = Counter(labels[row] for row in draw_balanced(labels))
    assert max(drawn.values()) - min(drawn.values()) <= 1
    assert sorted(draw_balanced([3, 3, 3])) == [0, 1, 2]
