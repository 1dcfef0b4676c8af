"""Arguments of a run that is broken off, resumed or breaks: what may have changed, and when it gives up."""

from dataclasses import dataclass, fields

from common.options import option
from common.tracking_arguments import TrackingArguments


@dataclass
class RecoveryArguments:
    """How a run goes on after it was stopped, and when it stops by itself."""

    resume_from_checkpoint: str = option(
        "auto",
        "auto: go on from the newest whole checkpoint in output_dir, or start; must: the same, but never start; "
        "never: start at step 0; or the path of a checkpoint.",
    )
    allow_change: list[str] | None = option(
        None,
        "What may differ from the run that is resumed: names of settings, or data, model, rows_per_step, processes. "
        "The new value holds from the next step on.",
    )
    max_nonfinite_steps: int = option(
        3,
        "End the run after this many steps in a row whose loss or gradient is NaN or infinite. None of them changes a "
        "weight.",
    )
    watchdog_seconds: float = option(
        900.0,
        "End the run, and show where it stands, when a batch of a step or an evaluation, or a save, takes longer than "
        "this; workers that load a batch for half of it are started anew, once. 0: never.",
    )


# What may differ between two starts of one run: where it is watched from, and how fast its data are prepared.
NOT_PART_OF_A_RUN = {
    "output_dir", "dry_run", "per_device_eval_batch_size",
    "report_to", "run_name", "disable_tqdm", "log_level", "log_level_replica",
    "preprocessing_num_workers", "overwrite_cache", "dataloader_num_workers", "save_total_limit", "cache_dir",
    "license", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_revision", "hub_always_push",
    *(setting.name for setting in fields(TrackingArguments)), *(setting.name for setting in fields(RecoveryArguments)),
}  # fmt: skip
