"""A run that was interrupted at any step, and goes on in another process, is the uninterrupted one to the last bit."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import save_decoder
from tests.faults.fault import NEEDED_FLAGS, RECIPES, run_recipe
from tests.interruption import describe_result, list_short_flags, list_steps, restore_step

import pytest


@dataclass(frozen=True)
class Setting:
    """What a resume has to put back, and where an epoch's middle is."""

    flags: tuple[object, ...] = ()
    half: int = 3  # steps
    recipes: tuple[str, ...] = RECIPES
    uses_adapter: bool = False


def save_every(steps: int) -> tuple[object, ...]:
    return ("--save_steps", steps, "--eval_steps", steps, "--max_steps", 5 * steps)


SETTINGS = {
    "shuffled": Setting(),
    # Eleven batches of two rows are four steps, the last of them of two batches.
    "accumulated": Setting(
        ("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 3, *save_every(2)), half=2
    ),
    "grouped": Setting(("--train_sampling_strategy", "group_by_length")),
    # This sampler leaves out rows that do not fill a step.
    "rebalanced": Setting(("--train_sampling_strategy", "batch_rebalance", "--max_train_samples", 24)),
    "workers": Setting(("--dataloader_num_workers", 2)),
    "plateau": Setting(("--lr_scheduler_type", "reduce_lr_on_plateau")),
    "adapter": Setting(("--use_peft", "--lora_dropout", "0.1"), uses_adapter=True),
    "balanced": Setting(("--train_sampling_strategy", "balanced"), recipes=("sentiment",)),
    # Twelve rows are left of the dialogues.
    "packed": Setting(
        ("--packing", "--max_seq_length", 256, "--per_device_train_batch_size", 2), recipes=("dialogue",)
    ),
}
# Each recipe, and each setting that somebody chose for speed or memory.
QUICK = [
    ("ner", "accumulated"), ("qa", "adapter"), ("sentiment", "balanced"), ("translation", "workers"),
    ("summarization", "grouped"), ("dialogue", "packed"),
]  # fmt: skip
ALL = [(recipe, name) for name, setting in SETTINGS.items() for recipe in setting.recipes]


@pytest.fixture(scope="module")
def forgetful_decoder(tmp_path_factory) -> Path:
    """The directory of a small untrained Llama with dropout, which from_scratch's has none of."""
    return save_decoder(tmp_path_factory.mktemp("forgetful"), attention_dropout=0.1)


@pytest.fixture(scope="module")
def models(forgetful_decoder, encoder, encoder_decoder) -> dict[tuple[str, bool], list[object]]:
    """The flags of the model of each recipe, whole or with an adapter; all of them have dropout somewhere."""
    adapted = dict.fromkeys(("sentiment", "ner", "qa"), encoder)
    adapted |= dict.fromkeys(("translation", "summarization"), encoder_decoder)
    adapted["dialogue"] = forgetful_decoder
    whole = {recipe: [*NEEDED_FLAGS[recipe][:2], "--vocab_size", "600"] for recipe in RECIPES}
    whole["dialogue"] = ["--model_name_or_path", forgetful_decoder]
    flags = {(recipe, False): model for recipe, model in whole.items()}
    flags |= {(recipe, True): ["--model_name_or_path", model] for recipe, model in adapted.items()}
    flags["qa", True] += ["--max_seq_length", "128", "--doc_stride", "32"]
    return flags


def run_whole(recipe: str, flags: list[object], folder: Path) -> Path:
    """The result of a run that nothing interrupts, put aside, so that another can have its place."""
    run = run_recipe(recipe, *flags)
    assert run.code == 0, run.tail()
    return (folder / "result").rename(folder / "whole")


def resume(recipe: str, flags: list[object], folder: Path, step: int) -> None:
    """Go on in `folder`/result, from the checkpoint of this step."""
    run = run_recipe(recipe, *flags)
    assert run.code == 0, run.tail()
    assert f"Resuming from {folder}/result/checkpoint-{step}." in run.stdout


def check_points(recipe: str, name: str, model: list[object], folder: Path, points: tuple[float, ...]) -> None:
    """Interrupt a run after so many epochs, and compare what comes of each with the run left alone."""
    setting = SETTINGS[name]
    flags = list_short_flags(recipe, model, folder / "result", *setting.flags)
    whole = run_whole(recipe, flags, folder)
    assert list_steps(whole) == [setting.half * number for number in (1, 2, 3, 4, 5)]
    for epochs in points:
        step = int(epochs * 2 * setting.half)
        state = json.loads((whole / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert round(state["epoch"], 1) == epochs
        restore_step(whole, folder / "result", step)
        resume(recipe, flags, folder, step)
        assert describe_result(folder / "result", step) == describe_result(whole, step), f"{name}: step {step}"


@pytest.mark.parametrize(("recipe", "name"), QUICK)
def test_a_run_interrupted_in_its_second_epoch_goes_on_exactly(recipe, name, models, tmp_path):
    check_points(recipe, name, models[recipe, SETTINGS[name].uses_adapter], tmp_path, (1.5,))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name"), ALL)
def test_a_run_interrupted_in_any_epoch_or_between_two_goes_on_exactly(recipe, name, models, tmp_path):
    check_points(recipe, name, models[recipe, SETTINGS[name].uses_adapter], tmp_path, (0.5, 1.0, 1.5))


def run_small(*flags: object, folder: Path) -> list[object]:
    """The flags of a run of question answering, which is the fastest."""
    model = [*NEEDED_FLAGS["qa"][:2], "--vocab_size", "600"]
    return list_short_flags("qa", model, folder / "result", *flags)


def test_a_run_killed_before_its_result_is_written_trains_no_further_step(tmp_path):
    # The last step lies within an epoch: Hugging Face's Trainer would train the next step of that epoch.
    flags = run_small(folder=tmp_path)
    whole = run_whole("qa", flags, tmp_path)
    restore_step(whole, tmp_path / "result", 15)
    resume("qa", flags, tmp_path, 15)
    assert list_steps(tmp_path / "result")[-1] == 15
    assert describe_result(tmp_path / "result") == describe_result(whole)


def test_a_run_killed_when_it_had_stopped_early_trains_no_further(tmp_path):
    # No evaluation is better by 9, so that the third one ends the run.
    stops = ("--early_stopping_patience", "2", "--early_stopping_threshold", "9", "--metric_for_best_model", "loss")
    flags = run_small(*stops, folder=tmp_path)
    whole = run_whole("qa", flags, tmp_path)
    assert list_steps(whole) == [3, 6, 9]
    restore_step(whole, tmp_path / "result", 9)
    resume("qa", flags, tmp_path, 9)
    assert list_steps(tmp_path / "result") == [3, 6, 9]
    assert describe_result(tmp_path / "result") == describe_result(whole)
