"""What people read of a finished run: intervals and slices of its scores, pictures, report and model card."""

from pathlib import Path

from common.model_card import write_model_card
from common.plots import name_plot, plot_learning_curve, plot_outcome
from common.report import write_report
from common.result_files import read_predictions
from common.results import Outcome
from common.slices import add_intervals, report_slices
from common.tallies import tally_predictions


def present_result(trainer, outcome: Outcome, recipe: dict, model_args) -> None:
    """Add intervals and slices to the outcome, and write `plots/`, `report.html` and, of a training, the model card."""
    args = trainer.args
    output_dir = Path(args.output_dir)
    for split in outcome.list_headline_scores():
        tallied = tally_predictions(recipe, read_predictions(output_dir, split))
        add_intervals(outcome, split, tallied)
        report_slices(outcome, split, tallied)
    plots = []
    if args.do_train:
        path = name_plot(output_dir / "plots", "learning curve")
        plots += plot_learning_curve(trainer.state.log_history, path, outcome.headline)
    plots += plot_outcome(outcome, output_dir / "plots")
    write_report(output_dir / "report.html", outcome, recipe, plots, args)
    if args.do_train:
        write_model_card(output_dir, outcome, recipe, model_args, args, trainer.hub_model_id)
