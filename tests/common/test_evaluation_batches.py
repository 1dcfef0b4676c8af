"""common/evaluation_batches.py: rows of an evaluation, longest first, in batches that are hardly padded."""

import math

from common.evaluation_batches import EvaluationBatches, cut_batches, sort_for_evaluation

import numpy as np
import pytest
from datasets import Dataset, DatasetDict


def make_rows(*lengths: tuple[int, int]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [[7] * length for length, _ in lengths], "labels": [[1] * length for _, length in lengths],
         "row": list(range(len(lengths)))}
    )  # fmt: skip


def test_rows_come_with_the_longest_first_by_their_inputs_then_by_their_labels_and_training_rows_as_they_are():
    rows = make_rows((2, 1), (5, 1), (1, 1), (5, 3), (5, 1))
    features = sort_for_evaluation(DatasetDict(train=rows, validation=rows))
    assert features["train"]["row"][:] == [0, 1, 2, 3, 4]
    assert features["validation"]["row"][:] == [3, 1, 4, 0, 2]  # rows of the same lengths keep their order
    assert [len(ids) for ids in features["validation"]["input_ids"]] == [5, 5, 5, 2, 1]


def test_rows_with_one_label_each_are_sorted_by_their_inputs_alone():
    rows = Dataset.from_dict({"input_ids": [[7], [7, 7], [7]], "labels": [2, 0, 1]})
    assert sort_for_evaluation(DatasetDict(test=rows))["test"]["labels"][:] == [0, 2, 1]


def make_lengths(number: int, seed: int = 0) -> np.ndarray:
    """Lengths as those of sentences, longest first."""
    return -np.sort(-np.random.default_rng(seed).lognormal(3, 0.5, number).astype(int) - 2)[:, None]


def count_padding(lengths: np.ndarray, batches: list[range]) -> float:
    padded = sum(len(batch) * max(lengths[row, 0] for row in batch) for batch in batches)
    return 1 - lengths[:, 0].sum() / padded


@pytest.mark.parametrize("number", [1, 7, 300, 20_000])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_every_row_comes_once_in_its_order_and_is_hardly_padded(number, batch_size):
    lengths = make_lengths(number)
    batches = cut_batches(lengths, batch_size)
    assert [row for batch in batches for row in batch] == [*range(number)]
    assert len(batches) <= math.ceil(number / batch_size)
    if number == 20_000:
        assert count_padding(lengths, batches) <= 0.005
    assert max(len(batch) * lengths[batch.start, 0] for batch in batches) <= batch_size * lengths[0, 0]


def test_shorter_rows_share_larger_batches_with_as_many_pieces():
    lengths = np.array([[100]] * 4 + [[10]] * 80)
    assert cut_batches(lengths, 4) == [range(4), range(4, 44), range(44, 84)]


def test_a_batch_is_cut_where_padding_would_cost_more_than_it():
    """Of 800 pieces six are 0.75 % of padding, two are 0.25 %."""
    assert cut_batches(np.array([[100]] * 2 + [[97]] * 2 + [[50]] * 8), 4) == [range(2), range(2, 4), range(4, 12)]
    assert cut_batches(np.array([[100]] * 2 + [[99]] * 2 + [[50]] * 8), 4) == [range(4), range(4, 12)]


def test_a_small_split_has_no_more_batches_than_with_a_fixed_number_of_rows():
    """Each batch has shapes of its own, for which kernels are made: 45 instead of 33 took a sixth longer."""
    lengths = np.array([[length] for length in range(96, 80, -1)])  # no two are equal
    assert len(cut_batches(lengths, 8)) == 2
    assert cut_batches(lengths[:8], 8) == [range(8)]


def test_nor_has_one_whose_two_sides_have_nothing_to_do_with_each_other():
    """Where a batch costs as much as the pieces of the largest one, three would be the cheapest here."""
    sources, targets = [110, 96, 37, 29, 17, 8, 8, 6, 4, 3, 2, 2], [10, 2, 7, 20, 1, 58, 36, 43, 7, 34, 21, 4]
    assert len(cut_batches(np.stack([sources, targets], axis=1), 6)) == 2


def test_there_are_fewer_batches_than_with_a_fixed_number_of_rows():
    assert len(cut_batches(make_lengths(20_000), 32)) < 20_000 / 32


def test_room_for_what_is_generated_counts_as_pieces():
    lengths = np.array([[100]] * 4 + [[10]] * 80)
    # 4 x (100 + 90) pieces at most: 7 rows of 10 + 90
    batches = cut_batches(lengths, 4, room=90)
    assert batches[0] == range(4)
    assert {len(batch) for batch in batches[1:]} <= {6, 7} and batches[-1].stop == 84


def test_where_texts_are_generated_there_are_no_more_batches_than_with_a_fixed_number_of_rows():
    """Each batch is gone through piece by piece: 11 instead of 6 took half as long again."""
    lengths = np.array([[450 - 8 * row] for row in range(48)])  # no two are equal
    batches = cut_batches(lengths, 8, room=128)
    assert len(batches) == 5  # 8 x (450 + 128) pieces hold 8, 9, 10, 12 and more rows
    assert [row for batch in batches for row in batch] == list(range(48))


def test_no_batch_has_more_pieces_on_the_other_side_than_the_largest_may_have():
    sources = np.array([100] * 4 + [10] * 40)
    targets = np.array([50] * 4 + [25] * 40)
    batches = cut_batches(np.stack([sources, targets], axis=1), 4)
    assert batches[0] == range(4)
    assert {len(batch) for batch in batches[1:]} == {8}  # 4 x 50 = 8 x 25


def test_a_split_without_rows_has_no_batches():
    assert cut_batches(np.zeros((0, 1), dtype=int), 4) == []


def test_batches_are_given_as_lists_of_rows():
    batches = EvaluationBatches(np.array([[3], [3], [1]]), 2)
    assert list(batches) == [[0, 1], [2]] and len(batches) == 2
