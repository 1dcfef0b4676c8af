"""The arguments that say where a run is watched from; changing them does not make it another run."""

from dataclasses import dataclass

from common.errors import UserError
from common.options import option


@dataclass
class TrackingArguments:
    """What Weights & Biases gets to know, with report_to wandb; the WANDB_ variables of the environment win."""

    wandb_project: str | None = option(None, "Project of the run. Default: trainer-recipes-<folder of run.py>.")
    wandb_entity: str | None = option(None, "Team or user that owns the project. Default: that of the API key.")
    wandb_group: str | None = option(None, "Group of runs that belong together, like the seeds of one setting.")
    wandb_tags: list[str] | None = option(None, "Tags of the run.")
    wandb_notes: str | None = option(None, "A longer description of the run.")
    wandb_log_model: bool = option(False, "Upload the saved model at the end.")
    wandb_table_rows: int = option(200, "Most predictions of a split that its table shows.")
    tracker_seconds: float = option(
        60.0, "Most seconds that a call of any tracker may take, at the end 30 times as many; then it is left out."
    )

    wandb_mode = None  # no setting: where check_trackers says that the run is logged to

    def __post_init__(self):
        if self.wandb_table_rows < 0:
            raise UserError(f"wandb_table_rows is {self.wandb_table_rows}: it must be 0 (no table) or more.")
        if self.tracker_seconds <= 0:
            raise UserError(f"tracker_seconds is {self.tracker_seconds}: it must be above 0.")
        super().__post_init__()
