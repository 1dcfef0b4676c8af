"""common/callbacks.py: what the log and the progress bar of a run show."""

import io
import sys
from types import SimpleNamespace

from common.callbacks import RunLog

import pytest
from transformers import TrainerState


class Terminal(io.StringIO):
    """A stream that says that somebody looks at it."""

    def isatty(self) -> bool:
        return True


def make_arguments(**settings) -> SimpleNamespace:
    return SimpleNamespace(
        **{"disable_tqdm": False, "metric_for_best_model": None, "greater_is_better": None} | settings
    )


def show(monkeypatch, stream, args, *events: dict, state: TrainerState | None = None) -> str:
    """What is left on the stream after a training with these logs and evaluations, one step each."""
    monkeypatch.setattr(sys, "stderr", stream)
    state = state or TrainerState(max_steps=10, is_world_process_zero=True)
    log = RunLog()
    log.on_train_begin(args, state, None)
    for event in events:
        state.global_step += 1
        log.on_step_end(args, state, None)
        if "loss" in event:
            log.on_log(args, state, None, logs=event)
        else:
            log.on_evaluate(args, state, None, event)
    log.on_train_end(args, state, None)
    return stream.getvalue()


def evaluate(f1: float, accuracy: float = 0.5, loss: float = 1.0) -> dict[str, float]:
    return {"eval_loss": loss, "eval_f1": f1, "eval_accuracy": accuracy, "eval_runtime": 9.0}


def list_postfixes(shown: str) -> list[str]:
    """What stood behind the bar, each text once."""
    behind = [line.rsplit("]", 1)[0].split(", ", 2)[2:] for line in shown.split("\r") if "/10 [" in line]
    return list(dict.fromkeys(part[0] for part in behind if part))


def test_the_bar_shows_the_last_loss_and_the_best_of_the_first_score(monkeypatch, capsys):
    events = [{"loss": 0.5}, evaluate(0.75), {"loss": 0.25}, evaluate(0.5), evaluate(0.875)]
    shown = show(monkeypatch, Terminal(), make_arguments(), *events)
    assert list_postfixes(shown) == [
        "loss 0.5000",
        "loss 0.5000, best f1 0.7500",
        "loss 0.2500, best f1 0.7500",
        "loss 0.2500, best f1 0.8750",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0] == "step 1/10  epoch 0.00  loss 0.5000"
    assert lines[1] == "step 2/10  epoch 0.00  validation  loss 1.0000  f1 0.7500  accuracy 0.5000"


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({"metric_for_best_model": "accuracy", "greater_is_better": True}, "best accuracy 0.7500"),
        ({"metric_for_best_model": "eval_loss", "greater_is_better": False}, "best loss 0.5000"),
        ({"metric_for_best_model": "f1", "greater_is_better": False}, "best f1 0.2500"),
    ],
)
def test_the_best_is_that_of_metric_for_best_model(settings, best, monkeypatch):
    events = [evaluate(0.5, 0.25, 2.0), evaluate(0.25, 0.75, 0.5), evaluate(0.5, 0.5, 1.0)]
    assert list_postfixes(show(monkeypatch, Terminal(), make_arguments(**settings), *events))[-1] == best


def test_a_loss_without_scores_is_the_best_when_it_is_lowest(monkeypatch):
    events = [
        {"eval_loss": 1.5, "eval_runtime": 0.1, "epoch": 1.0},
        {"eval_loss": 2.5, "eval_runtime": 0.1, "epoch": 2.0},
    ]
    assert list_postfixes(show(monkeypatch, Terminal(), make_arguments(), *events)) == ["best loss 1.5000"]


def test_a_resumed_run_knows_the_best_of_before(monkeypatch):
    state = TrainerState(max_steps=10, is_world_process_zero=True, global_step=4, best_metric=0.75)
    args = make_arguments(metric_for_best_model="f1", greater_is_better=True)
    shown = list_postfixes(show(monkeypatch, Terminal(), args, {"loss": 0.5}, evaluate(0.5), state=state))
    assert shown == ["best f1 0.7500", "loss 0.5000, best f1 0.7500"]


def test_without_a_terminal_or_in_another_process_there_is_no_bar(monkeypatch, capsys):
    assert show(monkeypatch, io.StringIO(), make_arguments(), {"loss": 0.5}, evaluate(0.75)) == ""
    assert show(monkeypatch, Terminal(), make_arguments(disable_tqdm=True), {"loss": 0.5}) == ""
    assert len(capsys.readouterr().out.splitlines()) == 3
    state = TrainerState(max_steps=10, is_world_process_zero=False)
    assert show(monkeypatch, Terminal(), make_arguments(), {"loss": 0.5}, evaluate(0.75), state=state) == ""
    assert capsys.readouterr().out == ""
