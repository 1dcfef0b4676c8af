import itertools
import random

from common.spans import compute_mean_loss, find_context, locate_answer, rank_answers, reduce_span_logits, show_window
from tests.conftest import build_tokenizer

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import EvalPrediction

LOWEST = float(torch.finfo(torch.float32).min)

# Contexts and gold answers


@pytest.mark.parametrize(
    ("sequence_ids", "expected"),
    [
        ([None, 0, 0, None, 1, 1, 1, None], (4, 7)),
        ([None, 0, None, None, 1, None, None, None], (4, 5)),  # two separators, then padding
        ([None, None, 0, None, 1, 1], (4, 6)),  # nothing after the context, padding before the question
        ([1, 1, None, 0], (0, 2)),
        ([None, 0, 0, None], (4, 4)),  # no context
        ([None, 0, None, None], (4, 4)),
        ([], (0, 0)),
    ],
)
def test_the_context_is_the_second_text_of_the_pair(sequence_ids, expected):
    assert find_context(sequence_ids) == expected


# "Ada Lovelace (1815) left": pieces Ada | Love | ##lace | ( | 1815 | ) | left
STARTS, ENDS = [0, 4, 8, 13, 14, 18, 20], [3, 8, 12, 14, 18, 19, 24]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 3, (0, 0)),  # Ada
        (0, 12, (0, 2)),  # Ada Lovelace
        (4, 8, (1, 1)),  # Love
        (8, 12, (2, 2)),  # lace
        (14, 18, (4, 4)),  # 1815 without its brackets
        (20, 24, (6, 6)),  # left, at the end of the window
        (0, 24, (0, 6)),
        (6, 8, (1, 1)),  # ve: half a piece is the whole of it
        (6, 10, (1, 2)),  # vela
        (15, 17, (4, 4)),  # 81
        (3, 12, (1, 2)),  # " Lovelace"
        (4, 13, (1, 2)),  # "Lovelace "
        (3, 4, None),  # the space between two pieces belongs to none
        (12, 13, None),
        (20, 25, None),  # one character further than the window
        (24, 26, None),
    ],
)
def test_an_answer_is_the_pieces_that_hold_a_part_of_it(start, end, expected):
    assert locate_answer(STARTS, ENDS, start, end) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(8, 12, (0, 0)), (8, 24, (0, 4)), (7, 12, None), (4, 8, None), (0, 24, None), (0, 3, None)],
)
def test_a_later_window_holds_what_stands_after_its_first_piece(start, end, expected):
    assert locate_answer(STARTS[2:], ENDS[2:], start, end) == expected


def test_a_window_without_context_holds_nothing():
    assert locate_answer([], [], 0, 3) is None


def test_pieces_that_share_a_character_all_belong_to_it():
    """Byte-level tokenizers cut 😀 in "a😀b" into four pieces of the same place."""
    starts, ends = [0, 1, 1, 1, 1, 2], [1, 2, 2, 2, 2, 3]
    assert locate_answer(starts, ends, 1, 2) == (1, 4)
    assert locate_answer(starts, ends, 0, 2) == (0, 4) and locate_answer(starts, ends, 2, 3) == (5, 5)


def test_located_answers_are_those_of_a_search_over_all_pieces():
    generator = random.Random(2)
    located = 0
    for _ in range(3000):
        borders = sorted(generator.sample(range(generator.choice([20, 40])), k=2 * generator.randrange(1, 8)))
        starts, ends = borders[::2], borders[1::2]
        if generator.random() < 0.5:  # no spaces between the pieces
            ends = [*starts[1:], ends[-1]]
        start = generator.randrange(40)
        end = start + generator.randrange(1, 12)
        held = [piece for piece, borders in enumerate(zip(starts, ends, strict=True)) if
                max(start, borders[0]) < min(end, borders[1])]  # fmt: skip
        is_inside = starts[0] <= start and end <= ends[-1]
        expected = (held[0], held[-1]) if is_inside and held else None
        assert locate_answer(starts, ends, start, end) == expected, (starts, ends, start, end)
        located += expected is not None
    assert located > 500


# The best spans of a window


def draw_logits(seed: int, rows: int, pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, pieces, generator=generator) * 3 for _ in range(2))


def draw_labels(seed: int, rows: int, pieces: int) -> torch.Tensor:
    """Gold answer, context and place of "no answer"; the last pieces are padding, some rows are not labelled."""
    generator = random.Random(seed)
    labels = []
    for _ in range(rows):
        first = generator.randrange(1, pieces // 2)
        last = generator.randrange(first, pieces - 1)
        start, end = sorted(generator.choices(range(first, last + 1), k=2))
        answer = generator.choice([(start, end), (0, 0), (-100, -100)])
        labels.append([*answer, first, last, generator.choice([0, 0, pieces - 1])])
    return torch.tensor(labels)


def search_spans(start_logits, end_logits, label, n_best: int, max_answer_length: int) -> list[tuple]:
    """The `n_best` best of all spans of the context."""
    first, last = label[2:4].tolist()
    spans = [
        (float(start_logits[start] + end_logits[end]), start, end)
        for start, end in itertools.combinations_with_replacement(range(first, last + 1), 2)
        if end < start + max_answer_length
    ]
    return sorted(spans, reverse=True)[:n_best]


def list_spans(reduced, row: int) -> list[tuple]:
    """The spans of a window that are none of the missing ones."""
    columns = zip(*(part[row].tolist() for part in reduced[:3]), strict=True)
    return [span for span in columns if span[0] > LOWEST / 2]


@pytest.mark.parametrize(
    ("n_best", "max_answer_length"), [(1, 30), (3, 2), (5, 30), (8, 4), (20, 1), (20, 7), (20, 30), (24, 24)]
)
def test_the_best_spans_are_those_of_a_search_over_all(n_best, max_answer_length):
    logits, labels = draw_logits(0, 60, 24), draw_labels(0, 60, 24)
    reduced = reduce_span_logits(logits, labels, n_best, max_answer_length)
    assert all(part.shape == (60, n_best) for part in reduced[:3])
    compared = 0
    for row in range(60):
        expected = search_spans(logits[0][row], logits[1][row], labels[row], n_best, max_answer_length)
        found = list_spans(reduced, row)
        assert [span[1:] for span in found] == [span[1:] for span in expected]
        assert [span[0] for span in found] == pytest.approx([span[0] for span in expected], abs=1e-5)
        compared += len(found)
    assert compared > 20


@pytest.mark.parametrize("n_best", [8, 20, 50])
def test_more_candidates_than_pieces_give_every_span_there_is(n_best):
    """A context of 4 pieces in a window of 6 has ten spans."""
    start_logits, end_logits = draw_logits(2, 1, 6)
    labels = torch.tensor([[0, 0, 1, 4, 0]])
    reduced = reduce_span_logits((start_logits, end_logits), labels, n_best, 30)
    assert all(part.shape == (1, n_best) for part in reduced[:3])
    expected = search_spans(start_logits[0], end_logits[0], labels[0], n_best, 30)
    assert len(expected) == min(n_best, 10)
    assert [span[1:] for span in list_spans(reduced, 0)] == [span[1:] for span in expected]


@pytest.mark.parametrize("n_best", [3, 6, 8, 20])
def test_the_spans_of_a_window_do_not_depend_on_its_padding(n_best):
    start_logits, end_logits = draw_logits(3, 10, 8)
    labels = torch.tensor([[1, 2, 1, 6, 0]] * 10)
    reduced = reduce_span_logits((start_logits, end_logits), labels, n_best, 4)
    lowest = torch.finfo(torch.bfloat16).min  # as hide_padding leaves it
    padded = [F.pad(part, (0, 24), value=lowest) for part in (start_logits, end_logits)]
    again = reduce_span_logits(padded, labels, n_best, 4)
    for row in range(10):
        assert list_spans(reduced, row) == list_spans(again, row)
    assert torch.equal(reduced[3], again[3])
    torch.testing.assert_close(reduced[4], again[4])


def test_the_best_spans_by_hand():
    start_logits = torch.tensor([[9.0, 9.0, 1.5, 5.0, 2.0, 9.0]])
    end_logits = torch.tensor([[9.0, 9.0, 4.0, 1.0, 3.0, 9.0]])
    # The context is pieces 2 to 4; (3, 2) would have 9 and is no span, (2, 4) is too long.
    reduced = reduce_span_logits((start_logits, end_logits), torch.tensor([[3, 4, 2, 4, 0]]), 6, 2)
    assert list_spans(reduced, 0) == [(8, 3, 4), (6, 3, 3), (5.5, 2, 2), (5, 4, 4), (2.5, 2, 3)]
    assert reduced[3].tolist() == [18]


def test_a_window_without_context_has_no_span():
    logits = draw_logits(4, 2, 6)
    reduced = reduce_span_logits(logits, torch.tensor([[0, 0, 6, 5, 0], [0, 0, 2, 1, 0]]), 5, 30)
    assert list_spans(reduced, 0) == list_spans(reduced, 1) == []
    assert reduced[3].tolist() == [float(part) for part in logits[0][:, 0] + logits[1][:, 0]]


def test_scores_that_are_no_numbers_are_no_spans():
    start_logits, end_logits = torch.zeros(1, 6), torch.zeros(1, 6)
    start_logits[0, 3] = float("nan")
    end_logits[0, 4] = float("inf")
    reduced = reduce_span_logits((start_logits, end_logits), torch.tensor([[2, 2, 2, 4, 0]]), 6, 30)
    assert {span[1:] for span in list_spans(reduced, 0)} == {(2, 2), (2, 3)}


def test_the_score_of_no_answer_is_that_of_its_piece():
    logits, labels = draw_logits(5, 30, 12), draw_labels(5, 30, 12)
    null_scores = reduce_span_logits(logits, labels, 4, 30)[3]
    assert set(labels[:, 4].tolist()) == {0, 11}
    expected = [logits[0][row, place] + logits[1][row, place] for row, place in enumerate(labels[:, 4].tolist())]
    torch.testing.assert_close(null_scores, torch.stack(expected))


def test_the_loss_of_a_window_is_the_cross_entropy_of_torch_summed_over_start_and_end():
    logits, labels = draw_logits(6, 30, 12), draw_labels(6, 30, 12)
    losses = reduce_span_logits(logits, labels, 4, 30)[4]
    expected = sum(F.cross_entropy(logits[side], labels[:, side], reduction="none") for side in (0, 1))
    torch.testing.assert_close(losses, expected)
    assert (losses[labels[:, 0] == -100] == 0).all() and 0 < int((labels[:, 0] == -100).sum()) < 30


def test_logits_of_low_precision_are_added_in_float32():
    start_logits, end_logits = (torch.tensor([[0.0, value, -9.0]], dtype=torch.bfloat16) for value in (256.0, 1.0))
    hidden = torch.zeros(1, 3, 4)  # models may return more than the two
    reduced = reduce_span_logits((start_logits, end_logits, hidden), torch.tensor([[1, 1, 1, 1, 0]]), 2, 30)
    assert list_spans(reduced, 0) == [(257.0, 1, 1)]  # bfloat16 would round it to 256 or 258
    assert {part.dtype for part in reduced if part.is_floating_point()} == {torch.float32}


# Spans of a question over its windows


def build_windows(rows: list[tuple]) -> Dataset:
    """Windows from (row, context_start, starts, ends)."""
    names = ("row", "context_start", "starts", "ends")
    return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])


def build_questions(count: int) -> Dataset:
    return Dataset.from_dict({"id": [str(number) for number in range(count)]})


# "Ada left Paris today" in two windows that share Paris; then a question without a span, and one of a single piece.
WINDOWS = [
    (0, 3, [0, 4, 9], [3, 8, 14]),
    (0, 3, [9, 15], [14, 20]),
    (1, 5, [0], [6]),
    (2, 2, [7], [9]),
]
PREDICTIONS = (
    np.array([[5, 2, LOWEST], [6, 1, LOWEST], [LOWEST] * 3, [-3, LOWEST, LOWEST]], dtype=np.float32),
    np.array([[3, 5, 0], [3, 3, 0], [0, 0, 0], [2, 0, 9]]),
    np.array([[3, 5, 0], [3, 4, 0], [0, 0, 0], [2, 0, 1]]),
    np.array([-1, 0.5, 4, 2], dtype=np.float32),
    np.zeros(4, dtype=np.float32),
)
RANKED = [
    {"spans": [(6, 9, 14), (5, 0, 3), (1, 9, 20)], "null_score": -1},
    {"spans": [], "null_score": 4},
    {"spans": [(-3, 7, 9)], "null_score": 2},
]


def test_the_spans_of_several_windows_are_ranked_once_and_by_characters():
    assert rank_answers(PREDICTIONS, build_windows(WINDOWS), build_questions(3)) == RANKED


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [1, 3, 0, 2]])
def test_selected_windows_in_another_order_give_the_same(order):
    predictions = tuple(part[order] for part in PREDICTIONS)
    assert rank_answers(predictions, build_windows(WINDOWS).select(order), build_questions(3)) == RANKED


def test_of_spans_with_equal_scores_the_first_and_then_the_shortest_is_best():
    """Scores are often equal where logits were computed in bfloat16, which has 8 bits of precision."""
    scores = np.array([[5.0, 5.0, 5.0, 7.0]])
    predictions = (scores, np.array([[4, 3, 3, 5]]), np.array([[4, 5, 4, 5]]), np.array([0.0]))
    ranked = rank_answers(predictions, build_windows(WINDOWS[:1]), build_questions(1))
    assert ranked[0]["spans"] == [(7, 9, 14), (5, 0, 8), (5, 0, 14), (5, 4, 8)]


@pytest.mark.parametrize("size", [1, 3, 4])
def test_windows_that_are_read_in_slices_give_the_same(monkeypatch, size):
    monkeypatch.setattr("common.spans.SLICE", size)
    assert rank_answers(PREDICTIONS, build_windows(WINDOWS), build_questions(3)) == RANKED


def test_a_part_of_the_windows_gives_what_these_hold():
    windows = build_windows(WINDOWS).select(range(1, 3))
    ranked = rank_answers(tuple(part[1:3] for part in PREDICTIONS), windows, build_questions(2))
    assert ranked == [{"spans": [(6, 9, 14), (1, 9, 20)], "null_score": 0.5}, {"spans": [], "null_score": 4}]


def test_a_question_without_windows_has_no_span():
    ranked = rank_answers(PREDICTIONS, build_windows(WINDOWS), build_questions(4))
    assert ranked == [*RANKED, {"spans": [], "null_score": np.inf}]


def test_ranked_spans_are_those_of_a_plain_loop_over_random_windows():
    generator = random.Random(9)
    rows, spans = [], []
    for question in range(60):
        for _ in range(generator.randrange(1, 5)):
            pieces = generator.choice([0, 1, 3, 9])
            borders = sorted(generator.sample(range(14), k=pieces + 1))
            first = generator.randrange(1, 6)
            rows.append((question, first, borders[:-1], borders[1:]))
            found = [LOWEST, 0, 0]
            if pieces:
                drawn = [sorted(generator.choices(range(pieces), k=2)) for _ in range(4)]
                found = [[generator.randrange(-9, 9), first + start, first + end] for start, end in drawn]
            spans.append((found + [[LOWEST, 0, 0]] * 5)[:5] if pieces else [found] * 5)
    order = generator.sample(range(len(rows)), k=len(rows))
    table = np.array([spans[row] for row in order])
    null_scores = np.array([generator.randrange(-9, 9) for _ in order])
    windows = build_windows(rows).select(order)
    predictions = (table[:, :, 0], table[:, :, 1].astype(int), table[:, :, 2].astype(int), null_scores)
    ranked = rank_answers(predictions, windows, build_questions(60))

    shared, ties = 0, 0
    for question, found in enumerate(ranked):
        best, nulls = {}, []
        for position, row in enumerate(order):
            if rows[row][0] == question:
                nulls.append(null_scores[position])
                _, first, starts, ends = rows[row]
                for score, start, end in spans[row]:
                    if score != LOWEST:
                        span = (starts[start - first], ends[end - first])
                        shared += span in best
                        best[span] = max(score, best.get(span, -100))
        assert found["null_score"] == min(nulls)
        assert {(start, end): score for score, start, end in found["spans"]} == best
        assert len(found["spans"]) == len(best)
        scores = [score for score, _, _ in found["spans"]]
        assert scores == sorted(scores, reverse=True)
        ties += len(scores) - len(set(scores))
        ranks = [(-score, start, end) for score, start, end in found["spans"]]
        assert all(rank < following for rank, following in itertools.pairwise(ranks))
    assert shared > 100 and ties > 50


def test_windows_without_any_context_have_no_spans():
    """A context of characters that the tokenizer drops, such as a zero-width space."""
    windows = build_windows([(0, 4, [9], [10]), (0, 4, [], [])]).select([1])
    predictions = (np.full((1, 2), LOWEST), np.zeros((1, 2), int), np.zeros((1, 2), int), np.array([1.0]))
    assert rank_answers(predictions, windows, build_questions(1)) == [{"spans": [], "null_score": 1.0}]


# The loss of all windows


def test_the_mean_loss_is_that_of_all_labelled_starts_and_ends():
    logits, labels = draw_logits(7, 30, 12), draw_labels(7, 30, 12)
    batches = [
        reduce_span_logits([part[rows] for part in logits], labels[rows], 4, 30)
        for rows in (slice(0, 8), slice(8, 16), slice(16, 30))
    ]
    predictions = tuple(torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    expected = F.cross_entropy(torch.stack(logits, dim=1).flatten(0, 1), labels[:, :2].flatten())
    loss = compute_mean_loss(EvalPrediction(predictions=predictions, label_ids=labels.numpy()))
    assert loss == {"loss": pytest.approx(float(expected), rel=1e-5)}


def test_without_labels_there_is_no_loss():
    predictions = (None, None, None, None, np.zeros(2))
    assert compute_mean_loss(EvalPrediction(predictions, np.array([[-100, -100, 1, 4, 0]] * 2))) == {}


# What is shown of a window


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([4, 5], "[CLS] Who [SEP] Tom [[lives in]] [SEP]"),
        ([3, 3, 3, 5, 0], "[CLS] Who [SEP] [[Tom]] lives in [SEP]"),
        ([0, 0], "[[[CLS]]] Who [SEP] Tom lives in [SEP]"),
        ([-100, -100], "[CLS] Who [SEP] Tom lives in [SEP]"),
    ],
)
def test_a_window_is_shown_with_its_answer_and_without_padding(labels, expected):
    tokenizer = build_tokenizer()
    input_ids = tokenizer("Who", "Tom lives in", padding="max_length", max_length=10)["input_ids"]
    assert len(input_ids) == 10
    assert show_window({"input_ids": input_ids, "labels": labels}, tokenizer) == expected
