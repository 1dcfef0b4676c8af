"""Every config file is read as its recipe reads it, and says what it is for."""

import re

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
ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
COMMAND = re.compile(r"# Command: accelerate launch (?:--config_file (\S+) )?(recipes/\w+/run\.py)(?: --config (\S+))?")


def test_no_config_is_overlooked():
    assert len(CONFIGS) == 31 and len(ACCELERATE) == 2


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


@pytest.mark.parametrize("path", CONFIGS + ACCELERATE, ids=lambda path: path.stem)
def test_a_config_opens_with_what_it_is_for_and_a_command_that_uses_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# What: ")
    command = next(line for line in lines if line.startswith("# Command: "))
    accelerate_config, recipe, config = COMMAND.match(command).groups()
    assert (ROOT / recipe).is_file()
    used = accelerate_config or config or f"{recipe.rsplit('/', 1)[0]}/configs/demo.yaml"
    assert ROOT / used == path


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_configs(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == (2 if path.stem == "multi_cpu" else 1)
    assert set(yaml.safe_load(path.read_text())) <= set(vars(config))
