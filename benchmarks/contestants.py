"""What the benchmarks compare: the recipes, and plain scripts with upstream's defaults or their best flags."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.chat_templates import set_chat_template
from common.console import say
from common.errors import UserError
from common.from_scratch import build_config, train_tokenizer

import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
CONTESTANTS = ("ours", "default", "best")
VOCAB_SIZE = 8000
# Importing `common` makes the imports behind it faster, which scripts that do not know it have to do without.
TIMED_PLAINLY = """
import runpy
from common.garbage import search_as_usual
search_as_usual()
runpy.run_module("benchmarks.timed", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Task:
    """One of the six recipes, and how it is run here: lengths are those of upstream's script, for all contestants."""

    name: str
    rows: str  # <task>/<set> below the data directory
    preset: str  # of the model, where none is given
    model_class: type
    score: str  # in metrics.json
    samples: tuple[int, int]  # rows of training and of validation that take about half a minute on two cores
    flags: tuple[str, ...]  # of the recipe
    learning_rate: str


TASKS = {
    task.name: task
    for task in (
        Task("sentiment", "sentiment/sst2", "encoder_small", transformers.AutoModelForSequenceClassification,
             "validation_accuracy", (768, 768), ("--max_seq_length", "128"), "1e-4"),
        Task("ner", "ner/wnut17", "encoder_small", transformers.AutoModelForTokenClassification,
             "validation_f1", (1024, 1024), (), "2e-4"),
        Task("qa", "qa/squad_v1", "encoder_small", transformers.AutoModelForQuestionAnswering,
             "validation_f1", (256, 256), ("--max_seq_length", "384", "--doc_stride", "128"), "2e-4"),
        Task("translation", "translation/multi30k_en_de", "encoder_decoder_small", transformers.AutoModelForSeq2SeqLM,
             "validation_bleu", (1536, 256), ("--source_lang", "en", "--target_lang", "de",
             "--max_source_length", "1024", "--max_target_length", "128", "--num_beams", "1"), "1e-3"),
        Task("summarization", "summarization/dialogsum", "encoder_decoder_small", transformers.AutoModelForSeq2SeqLM,
             "validation_rougeL", (384, 96), ("--max_source_length", "1024", "--max_target_length", "128",
             "--num_beams", "1"), "1e-3"),
        Task("dialogue", "dialogue/sgd", "decoder_small", transformers.AutoModelForCausalLM,
             "validation_rougeL", (256, 32), ("--max_seq_length", "1024", "--max_new_tokens", "64",
             "--num_beams", "1"), "1e-3"),
    )
}  # fmt: skip


def prepare_rows(task: Task, data: Path | None, folder: Path, samples: tuple[int | None, int | None]) -> dict[str, int]:
    """Write the first rows of both splits into the folder; says how many there are of each."""
    source = data / task.rows if data else ROOT / "recipes" / task.name / "sample"
    counts = {}
    for split, most in zip(("train", "validation"), samples, strict=True):
        path = source / f"{split}.jsonl"
        if not path.is_file():
            raise UserError(f"{path} is missing: --data must hold {task.rows}/{split}.jsonl.")
        with path.open(encoding="utf-8") as file:
            lines = list(itertools.islice(file, most))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        counts[split] = len(lines)
    return counts


def prepare_model(task: Task, encoder: str | None, folder: Path) -> str:
    """The directory of the model that every contestant starts from: the encoder given, or a new model of the preset."""
    if encoder and task.preset == "encoder_small":
        return encoder
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        texts = [text for line in file for text in _list_texts(json.loads(line))]
    tokenizer = train_tokenizer(task.preset, texts, VOCAB_SIZE)
    if task.name == "dialogue":
        set_chat_template(tokenizer, None)
    transformers.set_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel if task.preset == "encoder_small" else task.model_class
    model = model.from_config(build_config(task.preset, tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def _list_texts(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in _list_texts(part)]


def run_contestant(
    contestant: str, task: Task, model: str, folder: Path, settings: dict[str, str], only_counts: bool = False
) -> dict:
    """Run it in a process of its own; what the clock measured, and the score. Its output is kept in the folder."""
    output = folder / f"{contestant}-{time.time_ns()}"
    flags = ["--model_name_or_path", model, "--output_dir", str(output)]
    flags += ["--train_file", str(folder / "train.jsonl"), "--validation_file", str(folder / "validation.jsonl")]
    flags += itertools.chain.from_iterable((f"--{name}", value) for name, value in settings.items())
    if contestant == "ours":
        script = ROOT / "recipes" / task.name / "run.py"
        flags += ["--do_train", "--do_eval", *task.flags]
    else:
        script = ROOT / "benchmarks" / "plain.py"
        flags += ["--task", task.name, *(["--best_flags"] if contestant == "best" else [])]
    measures = output.with_suffix(".json")
    timed = ["-m", "benchmarks.timed"] if contestant == "ours" else ["-c", TIMED_PLAINLY]
    command = [sys.executable, *timed, "--measures", str(measures), "--begun", str(time.time())]
    command += ["--count"] if only_counts else []
    with output.with_suffix(".log").open("w") as log:
        code = subprocess.run(
            [*command, str(script), *flags], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code or not measures.is_file():
        log = output.with_suffix(".log").read_text(errors="replace")
        raise UserError(f"{contestant} of {task.name} ended with exit code {code}:\n{log[-3000:]}")
    found = json.loads(measures.read_text())
    if not only_counts:
        found["score"] = json.loads((output / "metrics.json").read_text()).get(task.score)
    return found


def describe_data(data: Path | None) -> None:
    """Say where the rows are from, if not from the data sets."""
    if data is None:
        say("No --data: these are the recipes' own sample rows, which are made up, short and much alike.")


def describe_machine() -> dict:
    """What the figures depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": len(names),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
