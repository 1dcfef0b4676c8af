"""Every config file is read as its recipe reads it, and says what it is for."""

import json
import re
from dataclasses import fields

from common.arguments import (
    DataArguments,
    GenerationArguments,
    ModelArguments,
    Seq2SeqTrainingArguments,
    TrainingArguments,
)
from common.command_line import parse_arguments
from recipes.dialogue import run as dialogue
from recipes.ner import run as ner
from recipes.qa import run as qa
from recipes.sentiment import run as sentiment
from recipes.summarization import run as summarization
from recipes.translation import run as translation
from tests.conftest import ROOT

import pytest
import yaml

GENERATING = (GenerationArguments, Seq2SeqTrainingArguments)
# What each recipe takes beside ModelArguments and DataArguments.
OWN_ARGUMENTS = {
    "dialogue": (dialogue.DialogueArguments, *GENERATING),
    "ner": (ner.NerArguments, TrainingArguments),
    "qa": (qa.QaArguments, TrainingArguments),
    "sentiment": (sentiment.SentimentArguments, TrainingArguments),
    "summarization": (summarization.SummarizationArguments, *GENERATING),
    "translation": (translation.TranslationArguments, *GENERATING),
}
CONFIGS = sorted((ROOT / "recipes").rglob("configs/*.yaml"))
SWEEPS = sorted((ROOT / "recipes").glob("*/sweep.yaml"))
ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
DEEPSPEED = sorted((ROOT / "deepspeed_configs").glob("*.json"))
COMMAND = re.compile(r"# Command: accelerate launch (?:--config_file (\S+) )?(recipes/\w+/run\.py)(?: --config (\S+))?")


def test_no_config_is_overlooked():
    assert len(CONFIGS) == 31 and len(SWEEPS) == 6 and len(ACCELERATE) == 11 and len(DEEPSPEED) == 5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_config_is_what_its_recipe_accepts(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = path.parts[-3]
    name = path.relative_to(ROOT).as_posix()
    types = (ModelArguments, DataArguments, *OWN_ARGUMENTS[recipe])
    _, data, *_, training = parse_arguments(*types, args=["--config", name, "--dtype", "float32"])
    stem = path.stem.replace("_", "-")
    assert training.output_dir == f"outputs/{recipe}-{stem}"
    assert training.do_train and training.do_eval and training.metric_for_best_model
    if stem == "demo":
        assert data.train_file == [f"recipes/{recipe}/sample/train.jsonl"]
    else:
        assert data.dataset_name.count("/") == 1 and data.language


@pytest.mark.parametrize("recipe", OWN_ARGUMENTS)
def test_help_shows_the_arguments_of_the_task_before_those_of_every_run(recipe, capsys):
    types = (ModelArguments, DataArguments, *OWN_ARGUMENTS[recipe])
    with pytest.raises(SystemExit, match="0"):
        parse_arguments(*types, args=["--help"])
    shown = capsys.readouterr().out
    own = fields(OWN_ARGUMENTS[recipe][0])[0].name
    generating = ["--num_beams"] if GenerationArguments in types else []
    names = (f"--{own}", *generating, "--model_name_or_path", "--train_file", "--dry_run")
    places = [shown.index(name) for name in names]
    assert places == sorted(places)
    assert str(ROOT) not in shown


@pytest.mark.parametrize("path", CONFIGS + ACCELERATE, ids=lambda path: path.stem)
def test_a_config_opens_with_what_it_is_for_and_a_command_that_uses_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# What: ")
    command = next(line for line in lines if line.startswith("# Command: "))
    accelerate_config, recipe, config = COMMAND.match(command).groups()
    assert (ROOT / recipe).is_file()
    used = accelerate_config or config or f"{recipe.rsplit('/', 1)[0]}/configs/demo.yaml"
    assert ROOT / used == path


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
def test_every_value_of_a_sweep_is_what_its_recipe_accepts(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe, sweep = path.parent.name, yaml.safe_load(path.read_text())
    assert sweep["program"] == f"recipes/{recipe}/run.py" and (ROOT / sweep["program"]).is_file()
    assert f"# Command: wandb sweep --project trainer-recipes-{recipe} recipes/{recipe}/sweep.yaml" in path.read_text()
    head, flags = sweep["command"][:4], sweep["command"][4:-1]
    assert head == ["${env}", "accelerate", "launch", "${program}"] and sweep["command"][-1] == "${args}"
    choices = [
        (name, value)
        for name, parameter in sweep["parameters"].items()
        for value in parameter.get("values") or (parameter["min"], parameter["max"])
    ]
    assert len(choices) >= 10 and not any(isinstance(value, str) for _, value in choices)  # PyYAML: 1e-5 is a text
    types = (ModelArguments, DataArguments, *OWN_ARGUMENTS[recipe])
    for name, value in choices:
        *_, training = parse_arguments(*types, args=[*flags, f"--{name}={value}", "--dtype=float32"])
        assert getattr(training, name) == value
    assert training.output_dir == f"outputs/{recipe}-sweep" and training.report_to == ["wandb"]
    split, score = sweep["metric"]["name"].split("/")
    assert split == "validation" and score == training.metric_for_best_model
    assert sweep["metric"]["goal"] == ("maximize" if training.greater_is_better else "minimize")


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_configs(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))
    assert config.num_processes == {"cpu": 1, "single_gpu": 1, "multi_node": 16}.get(path.stem, 2)
    assert config.mixed_precision in (None, "no"), "the recipe's dtype decides, and the two would contradict each other"
    written = yaml.safe_load(path.read_text())
    assert set(written) <= set(vars(config))
    # Nested keys are checked by nobody else: a mistyped one would be ignored.
    assert set(written.get("deepspeed_config", {})) <= {"deepspeed_config_file", "zero3_init_flag"}
    assert set(written.get("fsdp_config", {})) <= {action.dest for action in launch_command_parser()._actions}
    assert written.get("fsdp_config", {}).get("fsdp_version", 2) == 2
    if "deepspeed_config" in written:
        file = written["deepspeed_config"]["deepspeed_config_file"]
        assert file == f"deepspeed_configs/{path.stem.removeprefix('deepspeed_')}.json" and (ROOT / file).is_file()
        assert written["deepspeed_config"]["zero3_init_flag"] == ("zero3" in path.stem)


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_reads_its_configs_and_leaves_batch_and_precision_to_the_recipe(path):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = json.loads(path.read_text())
    left_to_the_recipe = {
        "gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu",
    }  # fmt: skip
    assert all(config.pop(name) == "auto" for name in left_to_the_recipe)
    assert all(config.pop(name) == {"enabled": "auto"} for name in ("bf16", "fp16"))
    zero = config.pop("zero_optimization")
    # DeepSpeed itself checks no name at the top level.
    assert set(config) == {"steps_per_print", "wall_clock_breakdown"}
    parsed = DeepSpeedZeroConfig(**{name: value for name, value in zero.items() if value != "auto"})
    assert parsed.stage == int(path.stem[4]) and {"overlap_comm", "contiguous_gradients"} <= set(zero)
    assert (parsed.offload_optimizer is not None) == ("offload" in path.stem)
    assert (parsed.offload_param is not None) == (path.stem == "zero3_offload")
    assert "stage3_gather_16bit_weights_on_model_save" in zero or parsed.stage < 3, "no model would be saved"
