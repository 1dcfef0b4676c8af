"""Answers as spans: gold ones from characters to pieces, predicted ones from pieces back to characters."""

from collections.abc import Sequence

from common.losses import IGNORED, CrossEntropy

import numpy as np
import torch
from datasets import Dataset

SLICE = 1000  # windows whose pieces are in memory at once


def find_context(sequence_ids: Sequence[int | None]) -> tuple[int, int]:
    """The first piece of the second text of a pair, and the piece after its last one."""
    if 1 not in sequence_ids:
        return len(sequence_ids), len(sequence_ids)
    return sequence_ids.index(1), len(sequence_ids) - sequence_ids[::-1].index(1)


def locate_answer(
    starts: Sequence[int], ends: Sequence[int], answer_start: int, answer_end: int
) -> tuple[int, int] | None:
    """First and last piece of the characters [answer_start, answer_end); None where the window does not hold them all.

    `starts` and `ends` are the characters where the pieces of the window's context begin and end.
    """
    if not starts or answer_start < starts[0] or answer_end > ends[-1]:
        return None
    first = int(np.searchsorted(ends, answer_start, side="right"))
    last = int(np.searchsorted(starts, answer_end, side="left")) - 1
    return (first, last) if first <= last else None


def reduce_span_logits(logits, labels: torch.Tensor, n_best: int, max_answer_length: int):
    """The `n_best` spans of each window, found where the logits are: scores, first, last pieces, null score, loss.

    Given to Trainer as preprocess_logits_for_metrics, it keeps 3 n + 2 numbers a window instead of two for each piece.
    All spans of up to `max_answer_length` pieces compete, not only those between the best starts and the best ends.
    `labels` are [windows, 5]: first and last piece of the gold answer, first and last piece of the context, and the
    piece that stands for "no answer". A span's score is the sum of its start and end logits (Devlin et al. 2019, 4.3).
    """
    start_logits, end_logits = (part.float() for part in logits[:2])
    positions = torch.arange(start_logits.size(1), device=start_logits.device)
    outside = (positions < labels[:, 2:3]) | (positions > labels[:, 3:4])
    lowest = torch.finfo(torch.float32).min
    starts = start_logits.masked_fill(outside, lowest / 4)
    ends = torch.nn.functional.pad(
        end_logits.masked_fill(outside, lowest / 4), (0, max_answer_length - 1), value=lowest / 4
    )
    # [windows, first piece, length - 1]
    scores = (starts[:, :, None] + ends.unfold(1, max_answer_length, 1)).flatten(1)
    kept = min(n_best, scores.size(1))
    scores, spans = torch.where(torch.isfinite(scores), scores, lowest).topk(kept, dim=1)
    # The number of columns must not depend on the batch. Spans that lie outside of the context are no spans.
    scores = torch.nn.functional.pad(scores.masked_fill(scores < lowest / 8, lowest), (0, n_best - kept), value=lowest)
    spans = torch.nn.functional.pad(spans, (0, n_best - kept))
    firsts = spans // max_answer_length
    lasts = firsts + spans % max_answer_length
    null = labels[:, 4:5]
    null_scores = (start_logits.gather(1, null) + end_logits.gather(1, null)).squeeze(1)
    losses = CrossEntropy().per_item(torch.stack([start_logits, end_logits], dim=1), labels[:, :2]).sum(1)
    return scores, firsts, lasts, null_scores, losses


def rank_answers(predictions, windows: Dataset, questions: Dataset) -> list[dict]:
    """For each question its spans, best first, over all its windows: `spans` [(score, start, end)] and `null_score`.

    Starts and ends are characters of the context. A span that two windows found counts once, with its higher score.
    Of spans with equal scores, of which logits in half precision give many, the first is the best, then the shortest.
    `null_score` is the lowest of the windows (a window without the answer says "no answer" rightly).
    """
    scores, firsts, lasts, null_scores = predictions[:4]
    rows = _get_column(windows, "row")
    context_starts = _get_column(windows, "context_start")[:, None]
    starts = _pick(windows, "starts", firsts - context_starts)
    ends = _pick(windows, "ends", lasts - context_starts)
    possible = scores > np.finfo(np.float32).min / 2
    of_question = np.broadcast_to(rows[:, None], scores.shape)[possible]
    scores, starts, ends = scores[possible], starts[possible], ends[possible]
    # Equal spans side by side, of which the first, with the highest score, is kept.
    order = np.lexsort((-scores, ends, starts, of_question))
    keys = np.stack([of_question, starts, ends])[:, order]
    kept = order[np.concatenate([np.ones(len(order[:1]), bool), (keys[:, 1:] != keys[:, :-1]).any(0)])]
    kept = kept[np.lexsort((ends[kept], starts[kept], -scores[kept], of_question[kept]))]
    spans = list(zip(scores[kept].tolist(), starts[kept].tolist(), ends[kept].tolist(), strict=True))
    borders = np.searchsorted(of_question[kept], np.arange(len(questions) + 1)).tolist()
    lowest = np.full(len(questions), np.inf)
    np.fmin.at(lowest, rows, null_scores)
    return [
        {"spans": spans[start:end], "null_score": null_score}
        for start, end, null_score in zip(borders[:-1], borders[1:], lowest.tolist(), strict=True)
    ]


def _get_column(windows: Dataset, name: str) -> np.ndarray:
    return windows.with_format("numpy", columns=[name])[:][name]


def _pick(windows: Dataset, name: str, positions: np.ndarray) -> np.ndarray:
    """The values at `positions` [windows, n] of a column of lists; positions outside a list give its nearest value.

    The column, which has a number for each piece, is read in slices.
    """
    column = windows.with_format("arrow", columns=[name])
    picked = np.zeros_like(positions)
    for first in range(0, len(picked), SLICE):
        lists = column[first : first + SLICE][name].combine_chunks()
        values, borders = lists.flatten().to_numpy(), lists.offsets.to_numpy() - lists.offsets[0].as_py()
        if len(values):
            places = np.clip(positions[first : first + SLICE], 0, np.diff(borders)[:, None] - 1)
            picked[first : first + SLICE] = values[borders[:-1, None] + places]
    return picked


def compute_mean_loss(evaluated) -> dict[str, float]:
    """{"loss": the mean over start and end of all labelled windows}, from what `reduce_span_logits` kept."""
    labels = int((evaluated.label_ids[:, :2] != IGNORED).sum())
    return {"loss": float(evaluated.predictions[4].sum() / labels)} if labels else {}


def show_window(row: dict[str, list], tokenizer) -> str:
    """The pieces of a window as the model gets them, the answer in [[ ]]."""
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    start, end = row["labels"][:2]
    if start >= 0:
        pieces[start] = f"[[{pieces[start]}"
        pieces[end] += "]]"
    return " ".join(piece for piece in pieces if piece != tokenizer.pad_token)
