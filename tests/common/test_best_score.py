"""common/best_score.py: the score that chooses the best model is known, and taken the right way."""

from types import SimpleNamespace

from common.best_score import check_best_class, check_best_model, check_best_score
from common.errors import UserError

import pytest

SCORES = {"accuracy": True, "ece": False, "f1_macro": True, "f1_*": True, "support_*": None, "loss": False}


def make_arguments(metric_for_best_model=None, greater_is_better=None, **settings) -> SimpleNamespace:
    """What check_best_model leaves of the arguments, and what Hugging Face makes of them."""
    is_given = greater_is_better is not None
    if metric_for_best_model and not is_given:
        greater_is_better = not metric_for_best_model.endswith("loss")
    return SimpleNamespace(
        metric_for_best_model=metric_for_best_model, greater_is_better=greater_is_better, direction_is_given=is_given,
        **settings,
    )  # fmt: skip


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "eval_"])
@pytest.mark.parametrize(
    ("name", "is_greater_better"), [("accuracy", True), ("ece", False), ("loss", False), ("f1_PER", True)]
)
def test_a_known_score_gets_its_own_direction(name, is_greater_better, prefix):
    args = make_arguments(prefix + name)
    check_best_score(args, SCORES)
    assert args.greater_is_better is is_greater_better


def test_a_direction_is_left_where_neither_is_the_better():
    for direction in (True, False):
        args = make_arguments("support_PER", direction)
        check_best_score(args, SCORES)
        assert args.greater_is_better is direction


def test_an_unknown_score_is_named_with_its_place_and_the_known_ones():
    args = make_arguments("eval_accurracy", places={"metric_for_best_model": "run.yaml:3: "})
    assert error_of(check_best_score, args, SCORES) == (
        'run.yaml:3: metric_for_best_model accurracy is no score of this recipe (did you mean "accuracy"?): use one of '
        "accuracy, ece, f1_macro, f1_<class>, support_<class>, loss."
    )


@pytest.mark.parametrize(("name", "direction", "better"), [("loss", True, "lower"), ("accuracy", False, "greater")])
def test_the_wrong_direction_is_refused(name, direction, better):
    message = error_of(check_best_score, make_arguments(name, direction), SCORES)
    assert f"would keep the worst model: the {better} {name} is the better one" in message


@pytest.mark.parametrize(
    ("labels", "right", "wrong", "hint"),
    [
        (["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], "PER", "PRE", '(did you mean "PER"?); the data have LOC, PER.'),
        (["good", "bad"], "bad", "B-bad", '(did you mean "bad"?); the data have good, bad.'),
        (["macro", "bad"], "class_macro", "x", "; the data have macro, bad."),
    ],
)
def test_the_score_of_a_class_needs_the_class(labels, right, wrong, hint):
    for name in (right, wrong):
        args = make_arguments(f"f1_{name}")
        check_best_score(args, SCORES)
        if name == right:
            check_best_class(args, labels)
        else:
            expected = f"metric_for_best_model f1_{wrong}: there is no class {wrong}{' ' if hint[0] == '(' else ''}"
            assert error_of(check_best_class, args, labels) == expected + hint


@pytest.mark.parametrize(
    ("evaluates", "saves", "is_refused"),
    [("no", "steps", True), ("epoch", "steps", True), ("steps", "steps", False), ("epoch", "best", False)],
)
def test_the_best_model_needs_a_checkpoint_for_each_evaluation(evaluates, saves, is_refused):
    args = SimpleNamespace(
        load_best_model_at_end=True, eval_strategy=evaluates, save_strategy=saves, greater_is_better=None
    )
    if is_refused:
        assert f"eval_strategy is {evaluates} and save_strategy {saves}" in error_of(check_best_model, args)
    else:
        check_best_model(args)
