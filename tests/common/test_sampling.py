"""common/sampling.py: the order of an epoch depends on the seed and the epoch alone."""

from collections import Counter

from common.errors import UserError
from common.sampling import (
    BalancedSampler,
    LengthGroupedSampler,
    RandomSteps,
    TokenBatchSampler,
    divide_steps,
    draw_lengths,
    group_rows,
    measure_rows,
)

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader

# Of one side; no two rows are equally long.
LENGTHS = np.arange(1, 401)[:, None]
# Sources and targets whose lengths have nothing to do with each other.
PAIRS = np.random.default_rng(0).integers(5, 60, (1000, 2))


def draw(seed: int, epoch: int, rows_per_step: int = 8, batch_size: int = 8, lengths=LENGTHS, groups=1) -> list[int]:
    sampler = LengthGroupedSampler(lengths, rows_per_step, batch_size, seed, groups)
    sampler.set_epoch(epoch)
    return list(sampler)


def cut(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def count_real(batches: list[list[int]], lengths: np.ndarray) -> float:
    """The share of real pieces among those of the batches."""
    padded = sum(
        len(batch) * sum(max(lengths[row, side] for row in batch) for side in range(lengths.shape[1]))
        for batch in batches
    )
    return sum(lengths[row].sum() for batch in batches for row in batch) / padded


def test_lengths_are_those_of_the_lists_in_the_columns_of_selected_rows():
    rows = Dataset.from_dict({"input_ids": [[1], [1, 2, 3], []], "labels": [[1, 2], [], [3]], "row": [0, 1, 2]})
    assert measure_rows(rows, ["input_ids", "labels"]).tolist() == [[1, 2], [3, 0], [0, 1]]
    assert measure_rows(rows.select([2, 1])).tolist() == [[0], [3]]
    assert measure_rows(rows.select([])).tolist() == []
    assert measure_rows(rows.to_list(), ["labels", "input_ids"]).tolist() == [[2, 1], [0, 3], [1, 0]]


def test_groups_hold_neighbours_in_length_and_only_the_last_is_smaller():
    groups = group_rows(np.array([[9], [1], [5], [2], [8], [6], [3]]), 2)
    assert [sorted(group.tolist()) for group in groups] == [[1, 3], [2, 6], [4, 5], [0]]


def test_groups_of_pairs_are_cut_along_the_side_that_leaves_less_padding():
    lengths = np.array([[10, 1], [11, 90], [11, 1], [10, 90]])
    assert [sorted(group.tolist()) for group in group_rows(lengths, 2)] == [[0, 2], [1, 3]]
    assert [sorted(group.tolist()) for group in group_rows(lengths[:, ::-1], 2)] == [[0, 2], [1, 3]]


def test_a_step_that_other_rows_have_begun_is_completed_before_the_groups_begin():
    sampler = LengthGroupedSampler(LENGTHS, 8, 8, seed=42, begun=8 * 7 + 3)
    order = list(sampler)
    assert sorted(order) == [*range(400)]
    steps = cut(order[5:], 8)
    assert all(max(step) - min(step) < 16 for step in steps[:49]) and len(steps[49]) == 3
    assert order[:5] == draw_lengths(LENGTHS, 42, 0)[0][:5].tolist()


def test_every_row_is_drawn_once():
    assert sorted(draw(42, 0)) == [*range(400)]
    assert sorted(draw(42, 0, 48, 16)) == [*range(400)]
    assert len(LengthGroupedSampler(LENGTHS, 8, 8, 42)) == 400


def test_the_order_is_the_same_again_whatever_happened_before():
    first = draw(42, 3)
    torch.manual_seed(1)
    torch.rand(7)
    assert draw(42, 3) == first


def test_another_epoch_or_seed_has_another_order():
    orders = [draw(42, 0), draw(42, 1), draw(7, 0)]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]


def test_other_rows_meet_in_another_epoch():
    lengths = np.random.default_rng(1).integers(50, 300, (2000, 1))
    steps = [{frozenset(step) for step in cut(draw(42, epoch, lengths=lengths), 8)} for epoch in (0, 1)]
    assert len(steps[0] & steps[1]) < 25  # of 250


def test_batches_of_rows_and_of_pairs_have_next_to_no_padding():
    """A random order has 0.53 and 0.58 of real pieces here."""
    assert count_real(cut(draw(42, 0), 8), LENGTHS) > 0.975  # 1 to 8 can only be padded to 8
    pairs = np.concatenate([PAIRS] * 30)
    assert count_real(cut(draw(42, 0, lengths=pairs), 8), pairs) > 0.985


def test_steps_are_the_same_rows_however_they_are_divided():
    whole = [set(step) for step in cut(draw(42, 1, 32, 32), 32)]
    parts = [set(step) for step in cut(draw(42, 1, 32, 4), 32)]
    assert whole == parts
    batches = cut(draw(42, 1, 32, 4), 4)
    assert max(max(batch) - min(batch) for batch in batches[:-4]) <= 8  # neighbours, but for the jitter


def test_a_step_of_two_groups_has_a_short_and_a_long_one_and_its_batches_have_one_length():
    order = draw(42, 0, 16, 8, groups=2)
    assert sorted(order) == [*range(400)]
    spans = [max(batch) - min(batch) for batch in cut(order, 8)]
    assert max(spans) <= 12
    steps = cut(order, 16)
    assert all(max(step[:8]) <= 203 and min(step[8:]) >= 197 for step in steps)  # halves, but for the jitter
    short, long = ([min(step[half]) for step in steps[1:]] for half in (slice(8), slice(8, None)))
    assert short != sorted(short) and long != sorted(long) and np.argsort(short).tolist() != np.argsort(long).tolist()
    assert [set(step) for step in cut(draw(42, 0, 16, 2, groups=2), 16)] == [set(step) for step in steps]
    assert max(steps[0]) > 395  # the largest group


def test_steps_of_four_lengths_differ_no_more_in_pieces_than_steps_drawn_at_random():
    def spread(order: list[int]) -> float:
        return np.std([sum(LENGTHS[row, 0] for row in step) for step in cut(order, 40)])

    at_random = spread(np.random.default_rng(0).permutation(400).tolist())
    assert spread(draw(42, 0, 40, 10, groups=4)) < at_random < spread(draw(42, 0, 40, 10, groups=1)) / 3


def test_the_largest_step_comes_first_and_rows_that_fill_no_step_last():
    order = draw(42, 0, 32, 32)
    assert max(order[:32]) > 395
    assert len(order[-16:]) == 400 % 32 and max(order[-16:]) - min(order[-16:]) > 100
    assert sum(order[32:64]) < sum(order[:32])


# Random steps, divided by length


def test_random_steps_are_those_of_accelerate_and_their_batches_have_like_lengths():
    loader = prepare_data_loader(
        DataLoader(range(400), batch_size=16, shuffle=True), use_seedable_sampler=True, data_seed=3, put_on_device=False
    )
    sampler = RandomSteps(LENGTHS, 64, 16, 3)
    for epoch in (0, 1, 5):
        loader.set_epoch(epoch)
        sampler.set_epoch(epoch)
        theirs, ours = [row for batch in loader for row in batch.tolist()], list(sampler)
        assert [sorted(step) for step in cut(ours, 64)] == [sorted(step) for step in cut(theirs, 64)] and ours != theirs
        for step in cut(ours, 64):  # the rows of a side without equals are sorted, 16 and 16
            assert [sorted(batch) for batch in cut(step, 16)] == cut(sorted(step), 16)
    assert list(sampler) == ours != list(RandomSteps(LENGTHS, 64, 16, 4))


def test_steps_of_one_batch_and_rows_that_others_have_begun_stay_as_they_are():
    order = np.array([5, 1, 9, 3, 7, 2, 8, 0])
    assert list(divide_steps(order, LENGTHS, 4, 4)) == order.tolist()
    assert list(divide_steps(order, LENGTHS, 4, 2)) == [1, 3, 5, 9, 0, 2, 7, 8]
    assert list(divide_steps(order, LENGTHS, 4, 2, begun=10)) == [5, 1, 2, 3, 7, 9, 8, 0]
    assert list(divide_steps(order[:1], LENGTHS, 4, 2, begun=10)) == [5]


def test_random_steps_of_pairs_have_less_padding_the_smaller_their_batches():
    shares = [count_real(cut(list(RandomSteps(PAIRS, 64, size, 0)), size), PAIRS) for size in (64, 16, 4)]
    assert shares[0] + 0.15 < shares[1] < shares[2] - 0.08


# So many pieces a batch


def draw_tokens(lengths: np.ndarray, max_tokens: int, epoch: int = 0, processes: int = 1) -> list[list[list[int]]]:
    """The batches of each process."""
    samplers = [TokenBatchSampler(lengths, max_tokens, 42, processes, process) for process in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    assert {len(part) for part in batches} == {len(samplers[0])}
    return batches


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("epoch", [0, 1, 9])
@pytest.mark.parametrize("lengths", [LENGTHS, PAIRS], ids=["rows", "pairs"])
def test_batches_hold_every_row_once_and_no_more_pieces_than_allowed(lengths, epoch, processes):
    parts = draw_tokens(lengths, 1000, epoch, processes)
    assert sorted(row for part in parts for batch in part for row in batch) == [*range(len(lengths))]
    for part in parts:
        for batch in part:
            assert len(batch) * lengths[batch].max(0).sum() <= 1000
    assert len({len(draw_tokens(lengths, 1000, other)[0]) for other in range(5)}) == 1  # steps can be counted ahead


def test_batches_of_pieces_are_full_and_hardly_padded():
    rows = np.random.default_rng(1).integers(5, 60, (5000, 1))
    (batches,) = draw_tokens(rows, 1000)
    assert count_real(batches, rows) > 0.985
    assert rows.sum() / (1000 * len(batches)) > 0.95
    assert max(len(batch) for batch in batches) > 5 * min(len(batch) for batch in batches)


def test_processes_have_equal_work_in_each_step():
    for one, other in zip(*draw_tokens(PAIRS, 2000, processes=2), strict=True):
        pieces = [len(batch) * PAIRS[batch].max(0).sum() for batch in (one, other)]
        assert min(pieces) > 0.8 * max(pieces)


def test_fewer_rows_than_processes_are_drawn_again():
    assert [len(part) for part in draw_tokens(LENGTHS[:1], 50, processes=2)] == [1, 1]


def test_a_row_with_more_pieces_than_a_batch_may_have_is_refused():
    with pytest.raises(UserError, match="max_tokens_per_batch is 399, but the longest training row has 400 pieces"):
        TokenBatchSampler(LENGTHS, 399, 42)


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
