"""A run that was interrupted at any step, and goes on in another process, is the uninterrupted one to the last bit."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, read_history, save_decoder
from tests.faults.fault import NEEDED_FLAGS, RECIPES, run_recipe
from tests.faults.forked import start_script
from tests.interruption import describe_result, hash_file, list_short_flags, list_steps, restore_step

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
    "shuffled": Setting(("--train_sampling_strategy", "random")),
    # Eleven batches of two rows are four steps, the last of them of two batches.
    "accumulated": Setting(
        ("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 3, *save_every(2)), half=2
    ),
    "grouped": Setting(),
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


def test_batches_of_so_many_pieces_go_on_exactly(models, tmp_path):
    """How many rows a step has, and how many steps an epoch, is the sampler's choice."""
    flags = list_short_flags("ner", models["ner", False], tmp_path / "result", "--max_tokens_per_batch", 300)
    flags += ["--gradient_accumulation_steps", 2, *save_every(2)]
    whole = run_whole("ner", flags, tmp_path)
    steps = list_steps(whole)
    last = json.loads((whole / f"checkpoint-{steps[-1]}" / "trainer_state.json").read_text())
    step = next(step for step in steps if step > 0.6 * last["global_step"])
    restore_step(whole, tmp_path / "result", step)
    resume("ner", flags, tmp_path, step)
    assert describe_result(tmp_path / "result", step) == describe_result(whole, step)


@pytest.mark.parametrize(("recipe", "name"), QUICK)
def test_a_run_interrupted_in_its_second_epoch_goes_on_exactly(recipe, name, models, tmp_path):
    check_points(recipe, name, models[recipe, SETTINGS[name].uses_adapter], tmp_path, (1.5,))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name"), ALL)
def test_a_run_interrupted_in_any_epoch_or_between_two_goes_on_exactly(recipe, name, models, tmp_path):
    check_points(recipe, name, models[recipe, SETTINGS[name].uses_adapter], tmp_path, (0.5, 1.0, 1.5))


def list_flags(folder: Path, *flags: object) -> list[object]:
    """The flags of a run of question answering, which is the fastest."""
    model = [*NEEDED_FLAGS["qa"][:2], "--vocab_size", "600"]
    return list_short_flags("qa", model, folder / "result", *flags)


def assert_agrees(found: Path, whole: Path, without: Iterable[str] = ()) -> None:
    """What came of a run that was interrupted is what came of the whole one; it may have left more checkpoints."""
    described, expected = describe_result(found), describe_result(whole)
    names = expected.keys() - set(without)
    assert {name: described.get(name) for name in names} == {name: expected[name] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_is_the_same_each_time(recipe, models, tmp_path):
    flags = list_short_flags(recipe, models[recipe, False], tmp_path / "result")
    whole = run_whole(recipe, flags, tmp_path)
    run = run_recipe(recipe, *flags)
    assert run.code == 0, run.tail()
    assert describe_result(tmp_path / "result") == describe_result(whole)


def test_a_run_killed_when_it_had_stopped_early_trains_no_further(tmp_path):
    # No evaluation is better by 9, so that the third one ends the run.
    stops = ("--early_stopping_patience", "2", "--early_stopping_threshold", "9", "--metric_for_best_model", "loss")
    flags = list_flags(tmp_path, *stops)
    whole = run_whole("qa", flags, tmp_path)
    assert list_steps(whole) == [3, 6, 9]
    restore_step(whole, tmp_path / "result", 9)
    resume("qa", flags, tmp_path, 9)
    assert list_steps(tmp_path / "result") == [3, 6, 9]
    assert_agrees(tmp_path / "result", whole)


EACH_EPOCH = ("--eval_strategy", "epoch", "--save_strategy", "epoch")
# The signal comes within this step: nothing is due after it; an evaluation is; the same at the end of the training.
STOPS = [
    pytest.param(4, (), marks=pytest.mark.slow), pytest.param(6, (), marks=pytest.mark.slow), (6, EACH_EPOCH),
    (15, ()), pytest.param(15, EACH_EPOCH, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> dict[tuple, Path]:
    """The folder of a run that nothing interrupts, for each way to save; its result is in `whole`."""
    folders = {flags: tmp_path_factory.mktemp("left_alone") for flags in ((), EACH_EPOCH)}
    for flags, folder in folders.items():
        run_whole("qa", list_flags(folder, *flags), folder)
    return folders


@pytest.mark.parametrize(("step", "saving"), STOPS)
def test_a_run_stopped_before_an_evaluation_makes_up_for_it(step, saving, left_alone, tmp_path):
    folder = left_alone[saving]
    shutil.rmtree(folder / "result", ignore_errors=True)
    script = tmp_path / "stop.py"
    script.write_text(
        "import runpy, signal, sys\n"
        "from transformers.trainer_callback import DefaultFlowCallback\n"
        "def stop(self, args, state, control, **kwargs):\n"
        f"    if state.global_step + 1 == {step}:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "DefaultFlowCallback.on_step_begin = stop\n"
        f"runpy.run_path({str(ROOT / 'recipes' / 'qa' / 'run.py')!r}, run_name='__main__')\n"
    )
    flags = list_flags(folder, *saving)
    stopped = start_script(script, *flags).finish()
    assert stopped.code == 143 and f"Stopped by SIGTERM at step {step}: " in stopped.stderr, stopped.tail()
    assert not (folder / "result" / "metrics.json").exists()
    resume("qa", flags, folder, step)
    # That checkpoint was saved before the evaluation, which draws from the random state.
    assert_agrees(folder / "result", folder / "whole", without=[f"{step}/rng_state.pth"])


@pytest.mark.slow
def test_a_run_killed_between_a_save_and_the_evaluation_of_its_epoch_makes_up_for_it(tmp_path):
    # Without the best model, evaluation and saving need not go together; each draws from the random state.
    flags = list_flags(tmp_path, "--load_best_model_at_end", "false", "--eval_strategy", "epoch")
    whole = run_whole("qa", flags, tmp_path)
    restore_step(whole, tmp_path / "result", 6)
    resume("qa", flags, tmp_path, 6)
    evaluated = [line["step"] for line in read_history(tmp_path / "result", "eval_loss")]
    assert evaluated == [6, 12, 15]
    assert_agrees(tmp_path / "result", whole)


@pytest.mark.slow
def test_an_evaluation_before_the_first_step_is_not_done_again(tmp_path):
    flags = list_flags(tmp_path, "--eval_on_start", "--max_steps", 9)
    whole = run_whole("qa", flags, tmp_path)
    restore_step(whole, tmp_path / "result", 3)
    resume("qa", flags, tmp_path, 3)
    assert [line["step"] for line in read_history(tmp_path / "result", "eval_loss")] == [0, 3, 6, 9]
    assert_agrees(tmp_path / "result", whole)


@pytest.mark.slow
def test_the_best_model_of_a_directory_that_was_moved_is_found(tmp_path):
    # The three have the same score, though other weights: the first one stays the best.
    flags = list_flags(tmp_path, "--metric_for_best_model", "exact_match", "--learning_rate", "0.3", "--max_steps", 9)
    whole = run_whole("qa", flags, tmp_path)
    best = json.loads((whole / "checkpoint-9" / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert best == str(tmp_path / "result" / "checkpoint-3")
    restore_step(whole, tmp_path / "moved", 6)
    run = run_recipe("qa", *flags, "--output_dir", tmp_path / "moved")
    assert run.code == 0, run.tail()
    assert hash_file(tmp_path / "moved" / "model.safetensors") == hash_file(whole / "model.safetensors")


@pytest.mark.parametrize(
    "flags",
    [
        ("--ignore_data_skip",), ("--save_only_model",), ("--restore_callback_states_from_checkpoint", "false"),
        ("--accelerator_config", '{"use_seedable_sampler": false}'),
    ],
)  # fmt: skip
def test_settings_under_which_no_resume_is_exact_are_refused(flags, tmp_path):
    run = run_recipe("qa", *list_flags(tmp_path, *flags))
    assert run.code == 1 and run.stderr.startswith(f"error: {flags[0][2:]}: ") and "Leave it out" in run.stderr
    assert not (tmp_path / "result").exists()


def test_a_run_killed_before_its_result_is_written_trains_no_further_step(left_alone):
    # The last step lies within an epoch: Hugging Face's Trainer would train the next step of that epoch.
    folder = left_alone[()]
    restore_step(folder / "whole", folder / "result", 15)
    resume("qa", list_flags(folder), folder, 15)
    assert list_steps(folder / "result")[-1] == 15
    assert_agrees(folder / "result", folder / "whole")


WRITTEN = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "manifest.json")


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_killed_within_any_file_of_a_checkpoint_goes_on_from_an_older_one(tmp_path):
    flags = list_flags(tmp_path, "--save_steps", 2, "--eval_steps", 2, "--max_steps", 14)
    whole = run_whole("qa", flags, tmp_path)
    restore_step(whole, tmp_path / "result", 14)
    for place, name in enumerate(WRITTEN):
        folder = tmp_path / "result" / f"checkpoint-{14 - 2 * place}"
        assert {path.name for path in folder.iterdir()} >= set(WRITTEN)
        for later in WRITTEN[place + 1 :]:
            (folder / later).unlink()
        if name == "manifest.json":  # has another name until it is whole
            (folder / name).rename(folder / "manifest.json.tmp")
            name = "manifest.json.tmp"
        cut(folder / name)
    resume("qa", flags, tmp_path, 2)
    assert_agrees(tmp_path / "result", whole)


def restore_all(whole: Path, output: Path) -> None:
    """Make `output` what it was when the run had ended."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(whole, output)


def test_a_run_killed_within_its_result_writes_it_again(left_alone):
    folder = left_alone[()]
    output = folder / "result"
    restore_all(folder / "whole", output)
    for name in ("predictions_validation.jsonl", "recipe.json", "history.csv", "metrics.json"):
        (output / name).rename(output / f"{name}.tmp")  # have another name until they are whole
        cut(output / f"{name}.tmp")
    for name in ("model.safetensors", "tokenizer.json", "plots/learning_curve.png", "report.html", "README.md"):
        cut(output / name)
    resume("qa", list_flags(folder), folder, 15)
    assert_agrees(output, folder / "whole")
    assert not [*output.rglob("*.tmp")]


@pytest.mark.parametrize("name", ["metrics.json", pytest.param("recipe.json", marks=pytest.mark.slow)])
def test_a_result_that_cannot_be_read_is_written_again(name, left_alone):
    folder = left_alone[()]
    restore_all(folder / "whole", folder / "result")
    cut(folder / "result" / name)
    resume("qa", list_flags(folder), folder, 15)
    assert_agrees(folder / "result", folder / "whole")


def test_a_run_killed_within_its_first_file_starts_again(left_alone):
    folder = left_alone[()]
    shutil.rmtree(folder / "result", ignore_errors=True)
    (folder / "result").mkdir()
    (folder / "result" / "config.yaml.tmp").write_text("# Which model is tra")
    run = run_recipe("qa", *list_flags(folder))
    assert run.code == 0, run.tail()
    assert_agrees(folder / "result", folder / "whole")
