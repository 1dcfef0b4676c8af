"""The score that says which model is the best: checked before anything is loaded, not after the first epoch."""

from fnmatch import fnmatchcase

from common.errors import UserError
from common.lines import suggest


def check_best_model(training_args) -> None:
    """UserError where no evaluation belongs to the checkpoints that the best is to be chosen from."""
    training_args.direction_is_given = training_args.greater_is_better is not None
    evaluates, saves = (
        getattr(strategy, "value", strategy) for strategy in (training_args.eval_strategy, training_args.save_strategy)
    )
    if training_args.load_best_model_at_end and saves != "best" and evaluates != saves:
        raise UserError(
            f"load_best_model_at_end needs a checkpoint for each evaluation, but eval_strategy is {evaluates} and "
            f"save_strategy {saves}: set both to epoch, or both to steps."
        )


def check_best_score(training_args, scores: dict[str, bool | None]) -> None:
    """UserError for a metric_for_best_model that the recipe has no such score for, or that is taken the wrong way.

    `scores` are those of the recipe: whether the greater one is the better, None where neither is. f1_* stands for the
    F1 of each class, whose names are known once the data are read: see `check_best_class`.
    """
    if training_args.metric_for_best_model is None:
        return
    wanted = training_args.metric_for_best_model.removeprefix("eval_")
    pattern = next((name for name in scores if fnmatchcase(wanted, name)), None)
    if pattern is None:
        place = find_place(training_args, "metric_for_best_model")
        known = ", ".join(name.replace("*", "<class>") for name in scores)
        raise UserError(
            f"{place}metric_for_best_model {wanted} is no score of this recipe{suggest(wanted, scores)}: "
            f"use one of {known}."
        )
    if "*" in pattern:
        training_args.best_class = wanted.removeprefix(pattern.rstrip("*"))
    is_greater_better = scores[pattern]
    if is_greater_better is None:
        return
    if training_args.direction_is_given and training_args.greater_is_better != is_greater_better:
        place = find_place(training_args, "greater_is_better")
        raise UserError(
            f"{place}greater_is_better {str(training_args.greater_is_better).lower()} would keep the worst model: the "
            f"{'greater' if is_greater_better else 'lower'} {wanted} is the better one; leave greater_is_better out."
        )
    # Unless it is given, Hugging Face takes every score but a loss for better the greater it is.
    training_args.greater_is_better = is_greater_better


def check_best_class(training_args, label_names: list[str]) -> None:
    """UserError where metric_for_best_model is the score of a class that the data do not have."""
    wanted = getattr(training_args, "best_class", None)
    known = [name.removeprefix("B-") for name in label_names if name != "O" and not name.startswith("I-")]
    if wanted is not None and wanted.removeprefix("class_") not in known and wanted not in known:
        place = find_place(training_args, "metric_for_best_model")
        raise UserError(
            f"{place}metric_for_best_model {training_args.metric_for_best_model}: there is no class {wanted}"
            f"{suggest(wanted, known)}; the data have {', '.join(known)}."
        )


def find_place(training_args, name: str) -> str:
    """The file and line that an argument was read from, "" for a flag."""
    return getattr(training_args, "places", {}).get(name, "")
