"""Answers as spans: gold ones from characters to pieces, predicted ones from pieces back to characters."""

from collections.abc import Sequence

from common.losses import IGNORED, CrossEntropy

import numpy as np
import torch
from datasets import Dataset


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
    context_starts = _get_column(windows, "context_start")[:, None]
    starts = _pick(windows, "starts", firsts - context_starts)
    ends = _pick(windows, "ends", lasts - context_starts)
    possible = scores > np.finfo(np.float32).min / 2
    ranked = [{"spans": {}, "null_score": np.inf} for _ in range(len(questions))]
    for row, question in enumerate(_get_column(windows, "row")):
        found = ranked[question]
        found["null_score"] = min(found["null_score"], float(null_scores[row]))
        chosen = possible[row]
        for score, start, end in zip(
            scores[row, chosen].tolist(), starts[row, chosen].tolist(), ends[row, chosen].tolist(), strict=True
        ):
            if score > found["spans"].get((start, end), -np.inf):
                found["spans"][start, end] = score
    for found in ranked:
        spans = [(score, *span) for span, score in found["spans"].items()]
        found["spans"] = sorted(spans, key=lambda span: (-span[0], *span[1:]))
    return ranked


def _get_column(windows: Dataset, name: str) -> np.ndarray:
    return windows.with_format("numpy", columns=[name])[:][name]


def _pick(windows: Dataset, name: str, positions: np.ndarray) -> np.ndarray:
    """The values at `positions` [windows, n] of a column of lists; positions outside a list give its nearest value."""
    column = windows.with_format("arrow", columns=[name])[:][name].combine_chunks()
    values, borders = column.flatten().to_numpy(), column.offsets.to_numpy() - column.offsets[0].as_py()
    lengths = np.diff(borders)[:, None]
    if len(values) == 0:
        return np.zeros_like(positions)
    return values[borders[:-1, None] + np.clip(positions, 0, lengths - 1)]


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
