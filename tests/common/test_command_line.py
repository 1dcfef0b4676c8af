import re
import sys
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Literal

from common.arguments import DataArguments, ModelArguments, RunArguments, TrainingArguments
from common.command_line import parse_arguments
from common.errors import UserError
from common.help_text import COMMON_TRAINING_ARGUMENTS
from common.old_names import CURES

import pytest
import transformers
import yaml

ENOUGH = ["--from_scratch", "encoder_tiny", "--train_file", "rows.jsonl"]


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class TaskArguments:
    """What the task of these tests adds."""

    text_column: str = field(default="text", metadata={"help": "Column with 100% of the text."})
    note: str | None = field(default=None, metadata={"help": "Anything."})
    max_length: int = field(default=128, metadata={"help": "Longest input."})
    scheme: Literal["bio", "bioes"] = field(default="bio", metadata={"help": "Tags."})
    level: Level = field(default=Level.LOW, metadata={"help": "Level."})
    words: list[str] | None = field(default=None, metadata={"help": "Words."})
    sizes: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Sizes."})
    label_weights: dict[str, float] | None = field(default=None, metadata={"help": "Weight of each label."})

    def __post_init__(self):
        if self.max_length > 9000:
            raise UserError(f"max_length is at most 9000, not {self.max_length}.")


@dataclass
class Seq2SeqArguments(RunArguments, transformers.Seq2SeqTrainingArguments):
    """Training arguments with generation."""


TYPES = (ModelArguments, DataArguments, TaskArguments, TrainingArguments)


def parse(*args, types=TYPES):
    return parse_arguments(*types, args=list(args))


def parse_task(*args):
    return parse(*ENOUGH, *args)[2]


def read_error(capsys, *args, types=TYPES):
    """What stderr shows of a run that ends with exit code 2: one line."""
    with pytest.raises(SystemExit) as exit_info:
        parse(*args, types=types)
    assert exit_info.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.rstrip("\n")


def read_output(capsys, *args, types=TYPES):
    with pytest.raises(SystemExit) as exit_info:
        parse(*args, types=types)
    assert exit_info.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write_config(here):
    """Writes run.yaml into the current directory: two lines that make a run complete, then the given ones."""

    def write(*lines):
        text = "\n".join(["from_scratch: encoder_tiny", "train_file: rows.jsonl", *lines]) + "\n"
        (here / "run.yaml").write_text(text, encoding="utf-8")
        return "run.yaml"

    return write


# Where values come from


def test_instances_come_in_the_order_of_the_dataclasses():
    instances = parse(*ENOUGH)
    assert [type(instance) for instance in instances] == list(TYPES)
    flipped = (TaskArguments, DataArguments, ModelArguments, TrainingArguments)
    assert [type(instance) for instance in parse(*ENOUGH, types=flipped)] == list(flipped)


def test_the_command_line_beats_the_file_and_the_file_beats_the_default(write_config):
    config = write_config("max_length: 64", "text_column: sentence")
    task = parse("--max_length", "32", "--config", config)[2]
    assert (task.max_length, task.text_column, task.scheme) == (32, "sentence", "bio")
    task = parse(f"--config={config}", "--max_length=16")[2]
    assert (task.max_length, task.text_column, task.scheme) == (16, "sentence", "bio")


def test_snake_case_and_kebab_case_are_the_same_flag():
    assert parse_task("--max_length", "5").max_length == 5
    assert parse_task("--max-length", "5").max_length == 5


def test_a_bare_flag_means_true_and_a_no_flag_false():
    training = parse(*ENOUGH, "--do_train", "--greater_is_better", "--no_remove_unused_columns")[3]
    assert (training.do_train, training.greater_is_better, training.remove_unused_columns) == (True, True, False)
    assert parse(*ENOUGH, "--do_train", "false")[3].do_train is False


def test_arguments_are_read_from_sys_argv_where_none_are_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", *ENOUGH, "--max_length", "7"])
    assert parse_arguments(*TYPES)[2].max_length == 7


def test_no_args_file_beside_the_script_is_read(here, monkeypatch):
    (here / "run.args").write_text("--max_length 3")
    monkeypatch.setattr(sys, "argv", [str(here / "run.py"), *ENOUGH])
    assert parse_arguments(*TYPES)[2].max_length == 128


def test_config_twice_is_refused(write_config, capsys):
    config = write_config()
    assert (
        read_error(capsys, "--config", config, "--config=b.yaml")
        == "error: --config is given 2 times (run.yaml, b.yaml): give it once"
    )


# What a line of a file means


def test_a_line_means_what_the_flag_of_that_name_means(write_config):
    config = write_config(
        "learning_rate: 1e-5",
        "eval_strategy: no",
        "push_to_hub: false",
        "report_to: none",
        "note: no",
        "text_column: 007",
        "max_length: 12",
        "max_grad_norm: .inf",
        "do_eval: yes",
        "words: [no, 1e-5, null words, 'null', 1.0]",
        "sizes: 3",
    )
    _, data, task, training = parse("--config", config)
    assert data.train_file == ["rows.jsonl"]
    assert (task.note, task.text_column, task.max_length) == ("no", "007", 12)
    assert task.words == ["no", "1e-5", "null words", "null", "1.0"]
    assert task.sizes == [3]
    assert training.learning_rate == 0.00001
    assert training.eval_strategy == "no"
    assert training.max_grad_norm == float("inf")
    assert (training.push_to_hub, training.do_eval, training.report_to) == (False, True, [])


def test_a_list_is_taken_where_the_type_has_one(write_config):
    config = write_config("words:", "- a b", "- c", "report_to: [tensorboard, wandb]", "sizes: []")
    _, _, task, training = parse("--config", config)
    assert (task.words, task.sizes) == (["a b", "c"], [])
    assert training.report_to == ["tensorboard", "wandb"]


def test_several_values_behind_a_flag_are_a_list_and_one_value_of_text_is_text():
    _, _, task, training = parse(*ENOUGH, "--sizes", "4", "5", "--optim_target_modules", "all-linear")
    assert (task.sizes, training.optim_target_modules) == ([4, 5], "all-linear")
    assert parse(*ENOUGH, "--optim_target_modules", "a", "b")[3].optim_target_modules == ["a", "b"]


def test_a_mapping_is_taken_by_dict_fields_with_plain_values_typed(write_config):
    config = write_config(
        "label_weights: {no: 2, B-PER: 1e-1, I-PER: .5}",
        "lr_scheduler_kwargs:",
        "  num_cycles: 3",
        "  nested: {rate: 1e-5, texts: ['3', word], on: true, off: null, version: 1.2.3}",
    )
    _, _, task, training = parse("--config", config)
    assert task.label_weights == {"no": 2, "B-PER": 0.1, "I-PER": 0.5}
    assert training.lr_scheduler_kwargs == {
        "num_cycles": 3,
        "nested": {"rate": 0.00001, "texts": ["3", "word"], "on": True, "off": None, "version": "1.2.3"},
    }


def test_a_dict_field_takes_json_as_a_flag():
    assert parse_task("--label_weights", '{"no": 2.5}').label_weights == {"no": 2.5}


def test_null_and_an_empty_value_are_none_and_quotes_make_them_text(write_config):
    lines = ["max_train_samples: null", "max_eval_samples:", "note: 'null'", "language: ''", "tf32: ~"]
    _, data, task, training = parse("--config", write_config(*lines))
    assert (data.max_train_samples, data.max_eval_samples, data.language) == (None, None, "")
    assert (task.note, training.tf32) == ("null", None)


def test_fsdp_and_token_counting_take_true_as_well_as_text(write_config):
    text = "include_num_input_tokens_seen: non_padding"
    assert parse("--config", write_config(text))[3].include_num_input_tokens_seen == "non_padding"
    assert "fsdp: true\n" in parse("--config", write_config("fsdp: true"))[3].config_text
    assert "fsdp: true\n" in parse(*ENOUGH, "--fsdp")[3].config_text


def test_paths_in_a_file_start_from_the_file_and_flags_from_the_current_directory(here):
    recipe = here / "work" / "ner"
    (recipe / "configs").mkdir(parents=True)
    (recipe / "configs" / "demo.yaml").write_text(
        "from_scratch: encoder_tiny\ntrain_file: ../sample/*.jsonl\nvalidation_file: [./dev.jsonl, other.jsonl]\n"
        "output_dir: ../../../../outside\nnote: ../sample\nlabel_weights: {../a: 1}\nlanguage: ...\n"
    )
    flags = ["--test_file", "./t.jsonl", "../u.jsonl"]
    _, data, task, training = parse("--config", "work/ner/configs/demo.yaml", *flags)
    assert data.train_file == ["work/ner/sample/*.jsonl"]
    assert data.validation_file == ["work/ner/configs/dev.jsonl", "other.jsonl"]
    assert data.test_file == ["t.jsonl", str(here.parent / "u.jsonl")]
    assert training.output_dir == str(here.parent / "outside")
    assert (task.note, task.label_weights, data.language) == ("work/ner/sample", {"../a": 1}, "...")


def test_a_copied_recipe_finds_its_files_from_any_directory(here, monkeypatch):
    (here / "copy" / "configs").mkdir(parents=True)
    config = here / "copy" / "configs" / "demo.yaml"
    config.write_text("from_scratch: encoder_tiny\ntrain_file: ../sample/train.jsonl\n")
    monkeypatch.chdir(here / "copy")
    assert parse("--config", "configs/demo.yaml")[1].train_file == ["sample/train.jsonl"]
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert parse("--config", str(config))[1].train_file == [str(here / "copy" / "sample" / "train.jsonl")]


# Mistakes


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("learning_rat: 1", "unknown key 'learning_rat': did you mean 'learning_rate'?"),
        ("max-length: 1", "unknown key 'max-length': did you mean 'max_length'?"),
        ("zzz: 1", "unknown key 'zzz': see --help_all"),
        ("<<: 1", "unknown key '<<': see --help_all"),
        ("num_train_epochs: three", "num_train_epochs must be a number, not 'three'"),
        ("seed: 1.5", "seed must be a whole number, not '1.5'"),
        ("do_train: on", "do_train must be true or false, not 'on'"),
        ("scheme: iob", "scheme must be one of bio, bioes, not 'iob'"),
        ("level: Level.LOW", "level must be one of low, high, not 'Level.LOW'"),
        ("seed: '1'", "seed must be a whole number, not the text '1': drop the quotes"),
        ('do_train: "true"', "do_train must be true or false, not the text 'true': drop the quotes"),
        ("seed: -1", "seed is -1: it must be at least 0"),
        ("early_stopping_patience: 2", "early_stopping_patience needs load_best_model_at_end: true"),
        ("sizes: &all [1, *all]", "sizes: the list or mapping holds itself: write its values out"),
        ("note: !!python/name:os.system", "note: the tag 'tag:yaml.org,2002:python/name:os.system' is not for"),
        ("note: !mine a", "note: the tag '!mine' is not for a config file: write plain values"),
        ("save_strategy: never", "save_strategy must be one of no, steps, epoch, best, not 'never'"),
        ("seed: [1, 2]", "seed must be a whole number, not a list"),
        ("note: [a]", "note must be text, not a list"),
        ("note: {a: 1}", "note must be text, not a mapping"),
        ("sizes: [1, two]", "each item of sizes must be a whole number, not 'two'"),
        ("words: [a, null]", "each item of words must be text, not null"),
        ("words: [[a]]", "each item of words must be text, not a list"),
        ("words: {a: 1}", "words must be text, not a mapping"),
        ("seed:", "seed has no value: it must be a whole number"),
        ("train_split: null", "train_split has no value: it must be text"),
        ("sizes: ~", "sizes has no value: it must be a whole number"),
        ("label_weights: heavy", "label_weights must be a mapping, or JSON like {\"key\": 1}, not 'heavy'"),
        ("lr_scheduler_kwargs: '{a: 1'", "lr_scheduler_kwargs must be a mapping, or JSON like"),
        ("parallelism_config: 3", "parallelism_config must be a ParallelismConfig, not '3'"),
        ("max_length: 9001", "max_length is at most 9000, not 9001."),
        ("logging_steps: 1.5", "--logging_steps must be an integer if bigger than 1: 1.5"),
        ("? [a, b]", "a config file has lines like 'seed: 42'"),
        ("warmup_ratio: 0.1", "warmup_ratio is gone in transformers 5: use warmup_steps: 0.1"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_line(write_config, capsys, line, sentence):
    config = write_config("# three lines stand before the mistake", line)
    message = read_error(capsys, "--config", config)
    assert message.startswith(f"error: run.yaml:4: {sentence}")
    assert "--seed" not in message


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--learning_rat", "1"], "unknown flag --learning_rat: did you mean --learning_rate?"),
        (["--learning-rat=1"], "unknown flag --learning-rat: did you mean --learning_rate?"),
        (["--num_train", "3"], "unknown flag --num_train: did you mean --num_train_epochs?"),
        (["--zzz"], "unknown flag --zzz: see --help_all"),
        (["--num_train_epochs", "three"], "--num_train_epochs must be a number, not 'three'"),
        (["--num-train-epochs", "three"], "--num_train_epochs must be a number, not 'three'"),
        (["--seed="], "--seed must be a whole number, not ''"),
        (["--do_train", "maybe"], "--do_train must be true or false, not 'maybe'"),
        (["--lr_scheduler_type", "x"], "--lr_scheduler_type must be one of linear, cosine, cosine_with_restarts, "),
        (["--sizes", "1", "b"], "each item of --sizes must be a whole number, not 'b'"),
        (["--seed"], "--seed needs a value"),
        (["--train_file", "--seed", "1"], "--train_file needs a value"),
        (["--config"], "--config needs a value"),
        (["--no_remove_unused_columns=3"], "--no_remove_unused_columns takes no value"),
        (["stray"], "unexpected argument 'stray': a value stands behind its --flag"),
        (["--seed", "1", "2"], "unexpected argument '2': a value stands behind its --flag"),
        (["--from_scratch", "a"], "No data: set dataset_name, or train_file / validation_file / test_file."),
        (["--warmup_ratio", "0.1"], "--warmup_ratio is gone in transformers 5: use --warmup_steps 0.1 (below 1 it is"),
        (["--warmup-ratio=0.2"], "--warmup-ratio is gone in transformers 5: use --warmup_steps 0.2 (below 1 it is"),
        (["--warmup_ratio", "--seed", "1"], "--warmup_ratio is gone in transformers 5: use --warmup_steps ... (below"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(capsys, args, sentence):
    assert read_error(capsys, *args).startswith(f"error: {sentence}")


def test_a_mistake_in_the_file_is_found_in_a_line_that_a_flag_overrides(write_config, capsys):
    config = write_config("seed: x")
    assert read_error(capsys, "--config", config, "--seed", "1").startswith("error: run.yaml:3: seed must be")


def test_no_line_is_blamed_for_the_value_of_a_flag(write_config, capsys):
    config = write_config("max_length: 5")
    message = read_error(capsys, "--config", config, "--max_length", "9001")
    assert message == "error: max_length is at most 9000, not 9001."


def test_a_repeated_key_names_both_lines(write_config, capsys):
    config = write_config("seed: 1", "max_length: 5", "seed: 2")
    assert read_error(capsys, "--config", config) == "error: run.yaml:5: seed is given twice: it is already on line 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "run.yaml:1: the config file is empty: write lines like 'seed: 42'"),
        (b"# nothing\n", "run.yaml:1: the config file is empty: write lines like 'seed: 42'"),
        (b"# a list\n- a\n", "run.yaml:2: a config file has lines like 'seed: 42'"),
        (b"seed 42\n", "run.yaml:1: a config file has lines like 'seed: 42'"),
        (b"seed: 42\nnote: [a\n", "run.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']', "),
        (b"seed: 42\n\tnote: a\n", "run.yaml:2: not valid YAML: "),
        (b"seed: 42\n---\nseed: 43\n", "run.yaml:2: not valid YAML: expected a single document in the stream, but"),
        (b"seed: 42\nnote: \xe9t\xe9\n", "run.yaml:2: the config file is not UTF-8 text"),
        (b"seed: 42\nnote: a\x00b\n", "run.yaml:2: not valid YAML: U+0000 is no text"),
        (b"note: " + 1000 * b"[", "run.yaml:1: not valid YAML: brackets within brackets, a thousand deep"),
        (b'"a\\nb\\e[2J": 1\n', "run.yaml:1: unknown key 'a\\nb\\x1b[2J'"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_sentence(here, capsys, content, message):
    (here / "run.yaml").write_bytes(content)
    assert read_error(capsys, "--config", "run.yaml").startswith(f"error: {message}")


def test_a_missing_file_and_a_directory_are_refused(here, capsys):
    cannot = "the config file cannot be read:"
    assert read_error(capsys, "--config", "no.yaml") == f"error: no.yaml: {cannot} No such file or directory"
    assert read_error(capsys, "--config", str(here)) == f"error: {here}: {cannot} Is a directory"


def test_a_byte_order_mark_is_no_part_of_the_first_key(here):
    (here / "run.yaml").write_bytes(b"\xef\xbb\xbffrom_scratch: encoder_tiny\ntrain_file: \xe6\x97\xa5.jsonl\n")
    assert parse("--config", "run.yaml")[1].train_file == ["日.jsonl"]


def test_a_required_argument_that_is_missing_is_named(capsys):
    @dataclass
    class StrictArguments:
        source_lang: str = field(metadata={"help": "Language."})

    types = (ModelArguments, DataArguments, StrictArguments, TrainingArguments)
    message = read_error(capsys, *ENOUGH, types=types)
    assert message == "error: --source_lang is missing: give it as a flag or as a line of the config file"
    assert parse(*ENOUGH, "--source_lang", "de", types=types)[2].source_lang == "de"
    assert "Language. (required)" in read_output(capsys, "--help", types=types)


def test_only_the_first_process_of_a_machine_reports_a_mistake(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit):
        parse("--zzz")
    assert capsys.readouterr().err == ""


def test_an_error_that_is_no_mistake_of_the_user_keeps_its_traceback():
    @dataclass
    class BrokenArguments:
        size: int = 3

        def __post_init__(self):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        parse(*ENOUGH, types=(ModelArguments, DataArguments, BrokenArguments, TrainingArguments))


def test_one_name_in_two_dataclasses_is_our_own_mistake():
    @dataclass
    class ClashingArguments:
        language: str = "en"

    with pytest.raises(AssertionError, match="language is a field of both DataArguments and ClashingArguments"):
        parse(*ENOUGH, types=(ModelArguments, DataArguments, ClashingArguments, TrainingArguments))


# Names of transformers 4


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("warmup_ratio: 0.06", "use warmup_steps: 0.06 (below 1 it is the share of all steps)"),
        ("group_by_length: true", "use train_sampling_strategy: group_by_length"),
        ("evaluation_strategy: epoch", "use eval_strategy: epoch"),
        ("overwrite_output_dir: true", "choose a new output_dir or delete the old one"),
        ("no_cuda: true", "use use_cpu: true"),
        ("logging_dir: logs", "set TENSORBOARD_LOGGING_DIR in the environment"),
        ("save_safetensors: true", "leave it out, weights are always saved as safetensors"),
        ("include_inputs_for_metrics: true", "use include_for_metrics: inputs"),
        ("per_gpu_train_batch_size: 4", "use per_device_train_batch_size: 4"),
        ("per_gpu_eval_batch_size: 4", "use per_device_eval_batch_size: 4"),
        ("fp16_backend: auto", "leave it out, dtype sets the precision"),
        ("half_precision_backend: auto", "leave it out, dtype sets the precision"),
        ("fp16_opt_level: O1", "leave it out, dtype sets the precision"),
        ("use_mps_device: true", "leave it out, MPS is used where there is one"),
        ("adafactor: true", "use optim: adafactor"),
        ("push_to_hub_model_id: a/b", "use hub_model_id: a/b"),
    ],
)
def test_a_name_that_transformers_5_dropped_comes_with_its_cure(write_config, capsys, line, cure):
    name = line.split(":")[0]
    message = read_error(capsys, "--config", write_config(line))
    assert message == f"error: run.yaml:3: {name} is gone in transformers 5: {cure}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokenizer_name: a/b", "tokenizer_name has another name here: use tokenizer_name_or_path: a/b"),
        ("torch_dtype: bfloat16", "torch_dtype has another name here: use dtype: bfloat16"),
        (
            "gradient_checkpointing: true",
            "gradient_checkpointing is deprecated in transformers 5: use activation_checkpointing: true",
        ),
        (
            "gradient_checkpointing_kwargs: {a: 1}",
            "gradient_checkpointing_kwargs is deprecated in transformers 5: use activation_checkpointing_kwargs: ...",
        ),
    ],
)
def test_a_name_that_is_another_one_here_comes_with_its_cure(write_config, capsys, line, message):
    assert read_error(capsys, "--config", write_config(line)) == f"error: run.yaml:3: {message}"


@pytest.mark.parametrize("name", ["hub_token", "push_to_hub_token"])
def test_a_token_is_refused_and_never_repeated(write_config, capsys, name):
    cure = "is refused: log in with `hf auth login`, or set HF_TOKEN in the environment; "
    cure += "a token must never be written to disk"
    assert read_error(capsys, *ENOUGH, f"--{name}", "hf_secret") == f"error: --{name} {cure}"
    assert read_error(capsys, "--config", write_config(f"{name}: hf_secret")) == f"error: run.yaml:3: {name} {cure}"


def test_a_flag_is_cured_by_a_flag(capsys):
    gone = "is gone in transformers 5:"
    assert read_error(capsys, "--no_cuda") == f"error: --no_cuda {gone} use --use_cpu true"
    assert read_error(capsys, "--adafactor", "true") == f"error: --adafactor {gone} use --optim adafactor"
    assert read_error(capsys, "--gradient_checkpointing").endswith("use --activation_checkpointing true")


def test_every_cure_is_about_a_dropped_name_and_points_to_a_living_one():
    training = {each.name for each in fields(Seq2SeqArguments)}
    living = training | {each.name for each in fields(ModelArguments)}
    refused = {"hub_token", "enable_jit_checkpoint", "gradient_checkpointing", "gradient_checkpointing_kwargs"}
    assert CURES.keys() & living == refused
    targets = {match[1] for cure in CURES.values() if (match := re.search(r"use (\w+):", cure))}
    assert len(targets) == 17
    assert targets <= living - CURES.keys()


# The demo


def test_no_arguments_run_the_demo_beside_the_script_and_say_so(here, capsys, monkeypatch):
    (here / "recipes" / "ner" / "configs").mkdir(parents=True)
    demo = here / "recipes" / "ner" / "configs" / "demo.yaml"
    demo.write_text("from_scratch: encoder_tiny\ntrain_file: ../sample/train.jsonl\n")
    monkeypatch.setattr(sys, "argv", ["recipes/ner/run.py"])
    assert parse_arguments(*TYPES)[1].train_file == ["recipes/ner/sample/train.jsonl"]
    assert capsys.readouterr().out == "No arguments: running recipes/ner/configs/demo.yaml (see --help)\n"
    monkeypatch.setenv("RANK", "1")
    assert parse_arguments(*TYPES)[1].train_file == ["recipes/ner/sample/train.jsonl"]
    assert capsys.readouterr().out == ""


def test_no_arguments_and_no_demo_is_an_error(here, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    message = "error: no arguments, and there is no configs/demo.yaml: give --config FILE (see --help)"
    assert read_error(capsys) == message


# Help


def list_entries(text):
    """The flags of each group, in order."""
    groups = {}
    for line in text.splitlines():
        if re.fullmatch(r"\w+:", line):
            group = groups.setdefault(line[:-1], [])
        elif match := re.match(r"  --(\w+)", line):
            group.append(match[1])
    return groups


def test_help_shows_the_task_first_and_the_common_training_arguments_last(capsys):
    groups = list_entries(read_output(capsys, "--help"))
    assert list(groups) == ["Task", "Model", "Data", "Run", "Tracking", "Training", "Other"]
    names = ["text_column", "note", "max_length", "scheme", "level", "words", "sizes", "label_weights"]
    assert groups["Task"] == names
    assert groups["Model"][0] == "model_name_or_path"
    assert groups["Data"][0] == "dataset_name"
    assert groups["Run"] == [each.name for each in fields(RunArguments)]
    # Generation belongs to Seq2SeqTrainingArguments, which this parser does not have.
    generation = {"predict_with_generate", "generation_max_length", "generation_num_beams"}
    assert groups["Training"] == [name for name in COMMON_TRAINING_ARGUMENTS if name not in generation]
    assert groups["Other"] == ["config", "print_config", "help_all"]


def test_help_counts_the_arguments_that_only_help_all_shows(capsys):
    short = read_output(capsys, "-h")
    shown = len(list_entries(short)["Training"])
    everything = list_entries(read_output(capsys, "--help_all"))["Training"]
    count = int(re.search(r"Show the (\d+) other training arguments", short)[1])
    assert count == len(everything) - shown > 60
    assert everything[:2] == ["output_dir", "per_device_train_batch_size"]


def test_help_shows_generation_where_the_training_arguments_have_it(capsys):
    types = (ModelArguments, DataArguments, TaskArguments, Seq2SeqArguments)
    assert "predict_with_generate" in list_entries(read_output(capsys, "--help", types=types))["Training"]


def test_help_starts_with_the_first_paragraph_of_the_script(capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "Trains a tagger\non words.\n\nCommands: none.\n")
    monkeypatch.setattr(sys, "argv", ["recipes/ner/run.py"])
    usage = "usage: run.py [--config FILE] [--flag value ...]\n\nTrains a tagger\non words.\n\nTask:\n"
    assert read_output(capsys, "--help").startswith(usage)


def test_help_shows_defaults_choices_and_percent_signs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "119")
    text = read_output(capsys, "--help")
    for line in (
        "  --text_column TEXT                Column with 100% of the text. (default: text)",
        "  --note TEXT                       Anything.",
        "  --max_length N                    Longest input. (default: 128)",
        "  --scheme NAME                     Tags. (one of bio, bioes; default: bio)",
        "  --level NAME                      Level. (one of low, high; default: low)",
        "  --words TEXT ...                  Words.",
        "  --sizes N ...                     Sizes. (default: [1, 2])",
        "  --label_weights JSON              Weight of each label.",
        "  --do_train [BOOL]                 Whether to run training. (default: false)",
        "  --learning_rate X                 The initial learning rate for the optimizer. (default: 5e-05)",
        "  --eval_strategy NAME              When to run evaluation. Options: 'no', 'steps', 'epoch'. (default: no)",
    ):
        assert f"\n{line}\n" in text
    assert "cost of ~20% slower training." in text


def test_help_shows_each_flag_once_and_nothing_that_is_refused(capsys):
    text = read_output(capsys, "--help-all")
    names = [name for group in list_entries(text).values() for name in group]
    assert len(names) == len(set(names)) > 140
    assert not set(names) & set(CURES)
    assert not [name for name in names if name.startswith("no_")]
    assert "--learning-rate" not in text


def test_help_wins_over_mistakes_elsewhere(capsys):
    assert read_output(capsys, "--zzz", "--help").startswith("usage: ")


# The resolved config


def test_print_config_holds_every_argument_before_anything_is_derived(capsys, write_config):
    config = write_config("max_length: 64", "learning_rate: 2e-5", "label_weights: {no: 0.5}")
    text = read_output(capsys, "--config", config, "--seed", "7", "--print_config")
    task = (
        "# Task\ntext_column: text\nnote: null\nmax_length: 64\nscheme: bio\nlevel: low\nwords: null\nsizes: [1, 2]\n"
        'label_weights: {"no": 0.5}\n# Model\nmodel_name_or_path: null\nfrom_scratch: encoder_tiny\n'
    )
    assert text.startswith(task)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Task",
        "# Model",
        "# Data",
        "# Run",
        "# Tracking",
        "# Training",
    ]
    written = yaml.safe_load(text)
    names = {each.name for dataclass_type in TYPES for each in fields(dataclass_type)}
    assert written.keys() == names - CURES.keys()
    assert (written["seed"], written["learning_rate"], written["logging_steps"]) == (7, 0.00002, 500.0)
    # __post_init__ would say true, [] and trainer_output.
    assert (written["eval_strategy"], written["report_to"], written["output_dir"]) == ("no", "none", None)


def test_print_config_needs_no_complete_run(capsys):
    assert "from_scratch: null\n" in read_output(capsys, "--print-config")


NASTY_TEXTS = [
    *[
        "no",
        "1e-5",
        "null",
        "~",
        "",
        "a: b",
        "#x",
        "a #b",
        "日本",
        " lead",
        "trail ",
        "true",
        "007",
        "'",
        '"',
        "{",
        "[a",
    ],
    *["- a", "-x", "a\nb", "\n", "a\tb", "a\r\nb", "\x85", "\U0001f600", "*a", "&a", "!a", "%a", "@a", "`a`", "a, b"],
    *["? a", "---", "...", "<<", "=", "2024-01-01", "0x1F", "1_000", ".inf", "\\n", "x" * 300 + " y" * 300],
]


def test_any_list_survives_being_written_and_read_again(here):
    first = parse(*ENOUGH, "--words", *[text for text in NASTY_TEXTS if not text.startswith("-")])
    assert len(first[2].words) == 40
    Path("again.yaml").write_text(first[3].config_text, encoding="utf-8")
    assert parse("--config", "again.yaml")[:3] == first[:3]


@pytest.mark.parametrize("text", NASTY_TEXTS)
def test_any_text_survives_being_written_and_read_again(here, text):
    flags = [*ENOUGH, f"--note={text}", f"--text_column={text}"]
    first = parse(*flags, "--label_weights", '{"no": 1e-05, "b": null, "c": ["1e-5", "no", true]}')
    assert (first[2].note, first[2].text_column) == (text, text)
    Path("again.yaml").write_text(first[3].config_text, encoding="utf-8")
    again = parse("--config", "again.yaml")
    assert again[:3] == first[:3]
    assert again[3].config_text == first[3].config_text


@pytest.mark.parametrize("types", [TYPES, (ModelArguments, DataArguments, TaskArguments, Seq2SeqArguments)])
def test_a_printed_config_gives_the_same_arguments_from_another_place(here, capsys, types):
    (here / "configs").mkdir()
    (here / "configs" / "run.yaml").write_text(
        "from_scratch: encoder_tiny\ntrain_file: [../rows.jsonl, ../../up.jsonl]\nlearning_rate: 1e-5\n"
        "lr_scheduler_kwargs: {num_cycles: 2, a: 1e-7, b: '1', c: no, d: [x, '2']}\nwords: [no, '', ~x, 1e-5]\n"
        "sizes: []\nadam_epsilon: 1e-12\nmax_grad_norm: .inf\neval_steps: 0.1\ndebug: underflow_overflow\n"
        "include_num_input_tokens_seen: true\nlanguage: ''\nlevel: high\nreport_to: [tensorboard]\n"
    )
    args = ["--config", "configs/run.yaml", "--seed", "3", "--output_dir", "../out", "--test_file", "./t.jsonl"]
    first = parse(*args, types=types)
    assert read_output(capsys, *args, "--print_config", types=types) == first[3].config_text
    (here / "results").mkdir()
    (here / "results" / "config.yaml").write_text(first[3].config_text, encoding="utf-8")
    again = parse("--config", "results/config.yaml", types=types)
    assert again == first
    assert again[3].config_text == first[3].config_text


def test_the_defaults_alone_survive_being_written_and_read_again(here):
    first = parse(*ENOUGH)
    Path("config.yaml").write_text(first[3].config_text, encoding="utf-8")
    again = parse("--config", "config.yaml")
    assert again == first
    assert again[3].config_text == first[3].config_text


def test_the_config_text_is_no_argument_of_the_trainer():
    training = parse(*ENOUGH)[3]
    assert training.config_text.startswith("# Task\n")
    assert "config_text" not in training.to_dict()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("debug: nonsense", "run.yaml:3: debug: nonsense is not a valid DebugOption, please select one of "),
        ("debug: none\nreport_to: none", "run.yaml:3: debug: none is not a valid DebugOption, please select one of "),
        (
            "hub_strategy: none\nreport_to: none",
            "run.yaml:3: hub_strategy must be one of end, every_save, checkpoint, all_checkpoints, not 'none'",
        ),
        (
            "accelerator_config: none.json",
            "run.yaml:3: accelerator_config: [Errno 2] No such file or directory: 'none.j",
        ),
        ("dataset_name: glue/sst2", "run.yaml:3: dataset_name and train_file / validation_file exclude each other"),
        ("max_tokens_per_batch: 0", "run.yaml:3: max_tokens_per_batch is 0: it must be at least 1."),
        ("pad_to_multiple_of: 0", "run.yaml:3: pad_to_multiple_of is 0: it must be at least 1."),
        ("length_groups_per_step: 0", "run.yaml:3: length_groups_per_step is 0: it must be at least 1."),
        (
            "length_groups_per_step: 2",
            "run.yaml:3: length_groups_per_step is 2, but gradient_accumulation_steps 1 does not divide by it. "
            "As many rows a step are read by multiplying gradient_accumulation_steps and dividing "
            "per_device_train_batch_size 8 by 2.",
        ),
        (
            "max_tokens_per_batch: 512\ntrain_sampling_strategy: random",
            "run.yaml:3: max_tokens_per_batch and train_sampling_strategy random exclude each other: leave one ",
        ),
        (
            "length_groups_per_step: 2\ntrain_sampling_strategy: random",
            "run.yaml:3: length_groups_per_step is read by train_sampling_strategy group_by_length, not by random: ",
        ),
        (
            "length_groups_per_step: 2\nmax_tokens_per_batch: 512",
            "run.yaml:3: length_groups_per_step divides a number of rows: leave it or max_tokens_per_batch out.",
        ),
        (
            "auto_find_batch_size: true\nmax_tokens_per_batch: 512",
            "run.yaml:3: auto_find_batch_size changes a number of rows: leave it or max_tokens_per_batch out.",
        ),
        ('label_weights: \'{"a": ' + 2000 * "[" + "'", "run.yaml:3: label_weights must be a mapping, or JSON like"),
    ],
)
def test_a_mistake_that_only_the_arguments_themselves_find_has_its_line(write_config, capsys, line, sentence):
    config = write_config(line)
    assert read_error(capsys, "--config", config).startswith(f"error: {sentence}")


def test_flags_without_a_model_are_told_where_the_demos_is(capsys):
    assert read_error(capsys, "--num_train_epochs", "1") == (
        "error: No model: set model_name_or_path to a hub id or directory, from_scratch to a preset, or config to a "
        "file with one, as configs/demo.yaml."
    )
