"""Faults of security: code in files that are only to be read, and secrets in files that are written (group E)."""

import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

from common.checkpoints import MANIFEST
from tests.conftest import ROOT, launch, list_sample_flags
from tests.faults.config import build_model, judge_early, list_cases, list_model_flags
from tests.faults.fault import RECIPES, Case, Fault, Finding, Run, judge_refusal, list_flags, run_recipe

import torch

# Made up, and put together here, so that this file holds none.
HUB_TOKEN = "hf_" + "CaNaRy" * 6
TRACKER_KEY = "c0ffee" * 6 + "beef"
SAVING = ["--save_strategy", "steps", "--save_steps", "2"]


class Canary:
    """Makes a file when it is read by pickle."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def plant_pickle(path: Path, marker: Path) -> None:
    """Put code into a file that torch.load reads; that it would be run is tried first."""
    torch.save({"state": Canary(marker)}, path)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the pickle is harmless"
    marker.unlink()


def judge_code(run: Run, finding: Finding, marker: Path) -> Finding:
    """lets in where the code was run, else what else was found."""
    return Finding("lets in", f"{marker} was made: {run.tail()}") if marker.exists() else finding


def judge_secrets(finding: Finding, run: Run, folder: Path, *secrets: str) -> Finding:
    """lets in where one of the secrets stands in what the run has said or written, else what else was found."""
    texts = {"the output": (run.stdout + run.stderr).encode()}
    texts |= {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    found = [name for name, text in texts.items() if any(secret.encode() in text for secret in secrets)]
    return Finding("lets in", f"a secret is in {', '.join(found)}") if found else finding


def refuse_model_code(recipe: str, folder: Path, *flags: object, said: str) -> Finding:
    """A model of a kind that its own code defines."""
    model, marker = build_model(recipe, folder), folder / "marker"
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Foreign", "AutoModel": "code.Foreign"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    run = run_recipe(recipe, *list_model_flags(recipe, folder, model, *flags), HF_MODULES_CACHE=str(folder / "modules"))
    return judge_code(run, judge_early(run, said.format(model=model), folder), marker)


def refuse_moving_code(recipe: str, folder: Path) -> Finding:
    """Code from the hub, at whatever is there by now."""
    flags = list_model_flags(recipe, folder, "someone/model", "--trust_remote_code")
    run = run_recipe(recipe, *flags)
    said = "^error: trust_remote_code runs what .*someone/model.*set model_revision to the commit .40 hexadecimal"
    return judge_early(run, said, folder)


def refuse_data_script(recipe: str, folder: Path, flag: str) -> Finding:
    """A data set that comes as a script, in a directory or named as a file."""
    script, marker = folder / "rows" / "rows.py", folder / "marker"
    script.parent.mkdir()
    script.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    flags = list_flags(recipe, folder)
    for name in ("--train_file", "--validation_file"):
        flags[flags.index(name) : flags.index(name) + 2] = []
    path = script.parent if flag == "--dataset_name" else script
    run = run_recipe(recipe, *flags, flag, path)
    said = "^error: No train rows: put train.jsonl" if flag == "--dataset_name" else f"^error: {script}: .*jsonl"
    return judge_code(run, judge_early(run, said, folder), marker)


def refuse_pickled_weights(recipe: str, folder: Path, is_allowed: bool) -> Finding:
    """A model without safetensors."""
    model, marker = build_model(recipe, folder), folder / "marker"
    (model / "model.safetensors").unlink()
    plant_pickle(model / "pytorch_model.bin", marker)
    flags = ["--allow_pickle"] if is_allowed else []
    run = run_recipe(recipe, *list_model_flags(recipe, folder, model, *flags))
    said = "pytorch_model.bin .*is not loaded" if is_allowed else "set allow_pickle to load pytorch_model.bin, if you"
    return judge_code(run, judge_early(run, f"^error: {model}: .*{said}", folder), marker)


@cache
def train_until_stopped(recipe: str) -> Path:
    """The output_dir of a run of four steps that was stopped after two: a checkpoint and config.yaml."""
    folder = Path(tempfile.mkdtemp(prefix="stopped-"))
    run = run_recipe(recipe, *list_flags(recipe, folder, *SAVING))
    assert run.code == 0, run.tail()
    for path in (folder / "result").iterdir():
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
        elif path.is_dir() and path.name != "checkpoint-2":
            shutil.rmtree(path)
    return folder / "result"


def seal_again(checkpoint: Path, name: str) -> None:
    """Put size and SHA-256 of a changed file into the manifest, as one would who knows of it."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    content = (checkpoint / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.get("files", manifest)[name] = entry
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def resume_from_pickle(recipe: str, folder: Path, name: str, is_sealed: bool) -> Finding:
    """Code in a file of the newest checkpoint."""
    shutil.copytree(train_until_stopped(recipe), folder / "result")
    checkpoint, marker = folder / "result" / "checkpoint-2", folder / "marker"
    plant_pickle(checkpoint / name, marker)
    if is_sealed:
        seal_again(checkpoint, name)
    run = run_recipe(recipe, *list_flags(recipe, folder, *SAVING))
    if is_sealed:
        finding = judge_refusal(
            run, "^error: .*checkpoint-2 holds more than numbers, and is not loaded: that could run"
        )
        return judge_code(run, finding, marker)
    said = [line for line in run.stdout.splitlines() if "checkpoint-2" in line and name in line]
    is_whole = run.code == 0 and (folder / "result" / "metrics.json").is_file()
    finding = Finding("clear", said[0]) if is_whole and said else Finding("obscure", run.tail())
    return judge_code(run, finding, marker)


def write_no_pickle(recipe: str, folder: Path, *flags: object) -> Finding:
    """What stands in for training_args.bin in every checkpoint and in the result."""
    if flags:
        listed = list_model_flags(recipe, folder, build_model(recipe, folder), *SAVING, *flags)
    else:
        listed = list_flags(recipe, folder, *SAVING)
    run = run_recipe(recipe, *listed)
    folders = [folder / "result", *(folder / "result" / f"checkpoint-{step}" for step in (2, 4))]
    folders += [folder / "result" / "adapter"] if flags else []
    if run.code != 0:
        return Finding("obscure", run.tail())
    if list((folder / "result").rglob("training_args.bin")):
        return Finding("lets in", "training_args.bin was written")
    found = [json.loads((path / "training_args.json").read_text()) for path in folders]
    is_right = all(part["max_steps"] == 4 and "hub_token" not in part for part in found)
    listed = [json.loads((path / MANIFEST).read_text()) for path in folders[1:3]]
    is_right &= all("training_args.json" in part.get("files", part) for part in listed)
    return Finding("survives" if is_right else "silently wrong", run.tail())


def refuse_foreign_deepspeed(recipe: str, folder: Path) -> Finding:
    """A DeepSpeed checkpoint that someone else has made and sealed."""
    stopped, marker = train_until_stopped(recipe), folder / "marker"
    checkpoint = folder / "downloaded" / "checkpoint-2"
    shutil.copytree(stopped / "checkpoint-2", checkpoint)
    (checkpoint / "global_step2").mkdir()
    (checkpoint / "latest").write_text("global_step2")
    for name in ("latest", "global_step2/mp_rank_00_model_states.pt"):
        if name != "latest":
            plant_pickle(checkpoint / name, marker)
        seal_again(checkpoint, name)
    run = run_recipe(recipe, *list_flags(recipe, folder, "--resume_from_checkpoint", checkpoint))
    finding = judge_refusal(run, f"^error: {checkpoint} is a checkpoint of DeepSpeed from another place than ")
    return judge_code(run, finding, marker)


def resume_deepspeed(recipe: str, folder: Path, name: str) -> Finding:
    """Code in a file of this run's own newest DeepSpeed checkpoint, changed or put beside the others."""
    marker, result = folder / "marker", folder / "result"
    flags = list_flags(recipe, folder, *SAVING, "--deepspeed", ROOT / "deepspeed_configs" / "zero2.json")
    command = [sys.executable, *(str(word) for word in (ROOT / "recipes" / recipe / "run.py", *flags))]
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trainer-recipes" / "extensions"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # One process, as a launcher would start it.
    environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    environment |= {"TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", str(kept))}
    first = launch(command, **environment)
    assert first.returncode == 0, first.stdout[-500:] + first.stderr[-2000:]
    (result / "metrics.json").unlink()
    (path,) = (result / "checkpoint-4").glob(name) if "*" in name else [result / "checkpoint-4" / name]
    plant_pickle(path, marker)
    second = launch(command, **environment)
    run = Run(second.returncode, second.stdout, second.stderr)
    said = [line for line in run.stdout.splitlines() if "checkpoint-4" in line and path.name in line]
    is_whole = run.code == 0 and (result / "metrics.json").is_file()
    finding = Finding("clear", said[0]) if is_whole and said else Finding("obscure", run.tail())
    return judge_code(run, finding, marker)


def refuse_token(recipe: str, folder: Path, name: str, is_line: bool) -> Finding:
    """A token as a flag, or as a line of a config file."""
    flags = [f"--{name}", HUB_TOKEN]
    if is_line:
        (folder.parent / "cfg.yaml").write_text(f"seed: 1\n{name}: {HUB_TOKEN}\n")
        flags = ["--config", folder.parent / "cfg.yaml"]
    run = run_recipe(recipe, *list_flags(recipe, folder, *flags))
    place = f"{folder.parent}/cfg.yaml:2: " if is_line else "--"
    said = f"^error: {place}{name} is refused: log in with `hf auth login`, or set HF_TOKEN"
    finding = judge_early(run, said, folder)
    shown = run_recipe(recipe, "--help_all")
    if "--hub_model_id" not in shown.stdout or f"--{name}" in shown.stdout:
        return Finding("lets in", "--help_all lists it")
    return judge_secrets(finding, run, folder, HUB_TOKEN)


def keep_secrets(recipe: str, folder: Path, tracker: str) -> Finding:
    """A whole run with both secrets in the environment."""
    flags = list_flags(recipe, folder, *SAVING, "--do_predict", *list_sample_flags(recipe, "test"))
    flags += ["--report_to", tracker]
    secrets = {"HF_TOKEN": HUB_TOKEN, "WANDB_API_KEY": TRACKER_KEY, "WANDB_MODE": "offline"}
    run = run_recipe(recipe, *flags, **secrets)
    is_whole = run.code == 0 and (folder / "result" / "metrics.json").is_file()
    finding = Finding("survives") if is_whole else Finding("obscure", run.tail())
    return judge_secrets(finding, run, folder, HUB_TOKEN, TRACKER_KEY)


def refuse_path(recipe: str, folder: Path, kind: str) -> Finding:
    """A config file whose paths lead out of the directories that they are allowed in."""
    inside, outside = folder / "inside", folder / "outside"
    for path in (inside, outside):
        path.mkdir()
    sample = ROOT / "recipes" / recipe / "sample" / "train.jsonl"
    shutil.copy(sample, outside / "train.jsonl")
    (inside / "link.jsonl").symlink_to(outside / "train.jsonl")
    (inside / "rows").symlink_to(outside)
    line = {
        "up": "dataset_name: ../outside", "absolute": f"train_file: [{outside}/train.jsonl]",
        "link": "train_file: ./link.jsonl", "glob": "train_file: ./*.jsonl", "directory": "dataset_name: ./rows",
    }[kind]  # fmt: skip
    (inside / "cfg.yaml").write_text(f"seed: 7\n{line}\n")
    flags = list_flags(recipe, inside)
    for name in ("--train_file", "--validation_file"):
        flags[flags.index(name) : flags.index(name) + 2] = []
    run = run_recipe(recipe, *flags, "--config", inside / "cfg.yaml", TRAINER_RECIPES_ROOTS=str(inside))
    name = line.split(":")[0]
    said = f"^error: {inside}/cfg.yaml:2: {name} .*leads to {outside}.*, which is in no directory of TRAINER_RECIPES"
    return judge_early(run, said, inside)


def refuse_tagged_yaml(recipe: str, folder: Path, where: str) -> Finding:
    """A config file that would make Python objects."""
    marker, path = folder / "marker", folder / "cfg.yaml"
    tag = f"!!python/object/apply:os.system ['touch {marker}']"
    path.write_text({"value": f"seed: 7\nreport_to: {tag}\n", "whole": f"# a run\n{tag}\n"}[where])
    run = run_recipe(recipe, *list_flags(recipe, folder, "--config", path))
    return judge_code(run, judge_early(run, f"^error: {path}:2: .*(the tag|a config file has lines)", folder), marker)


def refuse_foreign_vocabulary(recipe: str, folder: Path, key: str, tokenizer_class: str) -> Finding:
    """A tokenizer_config.json that names a file outside of its directory as the vocabulary."""
    model, secret = build_model(recipe, folder), "CANARY=hunter2hunter2"
    (folder.parent / "outside.env").write_text("\n".join([secret, "[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "the"]))
    for path in model.glob("tokenizer*"):
        path.unlink()
    settings = {"tokenizer_class": tokenizer_class, key: "../../outside.env", "unk_token": "[UNK]"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    run = run_recipe(recipe, *list_model_flags(recipe, folder, model))
    finding = judge_early(run, f"^error: {model}: .*tokenizer", folder)
    return judge_secrets(finding, run, folder, secret)


STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
FAULTS = [
    Fault(
        "E1", "a model with code of its own", plain="clear", wanted="clear",
        cases=(
            *list_cases(refuse_model_code, said="^error: {model}: the model brings its own Python code.*trust_remote"),
            *(Case(f"{recipe}, moving", partial(refuse_moving_code, recipe)) for recipe in ("ner", "dialogue")),
        ),
    ),
    Fault(
        "E2", "a data set that is a script", plain="clear", wanted="clear",
        cases=tuple(
            Case(f"{recipe}, {flag}", partial(refuse_data_script, recipe, flag=flag))
            for recipe in ("sentiment", "summarization")
            for flag in ("--dataset_name", "--train_file")
        ),
    ),
    Fault(
        "E3", "code in pytorch_model.bin", plain="clear", wanted="clear",
        cases=(
            *list_cases(refuse_pickled_weights, is_allowed=False),
            *(
                Case(f"{recipe}, allowed", partial(refuse_pickled_weights, recipe, is_allowed=True))
                for recipe in ("sentiment", "translation", "dialogue")
            ),
        ),
    ),
    Fault(
        "E4", "code in what a checkpoint keeps of optimizer, schedule and random numbers", plain="clear",
        wanted="clear",
        cases=tuple(
            Case(
                f"{recipe}, {name}, {'sealed again' if is_sealed else 'changed'}",
                partial(resume_from_pickle, recipe, name=name, is_sealed=is_sealed),
                is_slow=(recipe, name) != ("ner", "optimizer.pt"),
            )
            for recipe in ("ner", "dialogue")
            for name in STATES
            for is_sealed in (False, True)
        ),
    ),
    Fault(
        "E5", "code in training_args.bin", plain="survives", wanted="survives",
        cases=(
            Case("qa", partial(write_no_pickle, "qa")),
            *(Case(r, partial(write_no_pickle, r), is_slow=True) for r in RECIPES if r != "qa"),
            Case("ner, an adapter", lambda folder: write_no_pickle("ner", folder, "--use_peft"), is_slow=True),
        ),
    ),
    Fault(
        "E6", "code in a DeepSpeed checkpoint", plain="lets in", wanted="clear",
        cases=(
            *(Case(f"{recipe}, from elsewhere", partial(refuse_foreign_deepspeed, recipe)) for recipe in ("ner",)),
            Case("dialogue, from elsewhere", partial(refuse_foreign_deepspeed, "dialogue"), is_slow=True),
            *(
                Case(f"ner, {name}", partial(resume_deepspeed, "ner", name=name), is_slow=True)
                for name in ("*/*model_states.pt", "*/*optim_states.pt", "global_step4/mp_rank_01_model_states.pt")
            ),
        ),
    ),
    Fault(
        "E7", "a token among the arguments", plain="lets in", wanted="clear",
        cases=tuple(
            Case(
                f"{recipe}, {name}{' in a file' if is_line else ''}",
                partial(refuse_token, recipe, name=name, is_line=is_line),
            )
            for recipe in ("sentiment", "translation")
            for name, is_line in (("hub_token", False), ("hub_token", True), ("push_to_hub_token", False))
        ),
    ),
    Fault(
        "E8", "secrets in the environment", plain="survives", wanted="survives",
        cases=(
            Case("ner", partial(keep_secrets, "ner", tracker="none")),
            *(Case(r, partial(keep_secrets, r, tracker="none"), is_slow=True) for r in RECIPES if r != "ner"),
            Case("ner, W&B", partial(keep_secrets, "ner", tracker="wandb"), is_slow=True),
            Case("dialogue, TensorBoard", partial(keep_secrets, "dialogue", tracker="tensorboard"), is_slow=True),
        ),
    ),
    Fault(
        "E9", "a config file whose paths lead elsewhere", plain="survives", wanted="clear",
        cases=tuple(
            Case(f"{recipe}, {kind}", partial(refuse_path, recipe, kind=kind))
            for recipe, kind in (
                ("ner", "up"), ("ner", "link"), ("ner", "directory"), ("dialogue", "absolute"), ("dialogue", "glob"),
            )
        ),
    ),
    Fault(
        "E10", "YAML that makes objects", plain="survives", wanted="clear",
        cases=tuple(
            Case(f"{recipe}, {where}", partial(refuse_tagged_yaml, recipe, where=where))
            for recipe in ("ner", "summarization")
            for where in ("value", "whole")
        ),
    ),
    Fault(
        "E11", "a tokenizer whose vocabulary is a file elsewhere", plain="not measured", wanted="clear",
        cases=tuple(
            Case(
                f"{recipe}, {key} of {name}",
                partial(refuse_foreign_vocabulary, recipe, key=key, tokenizer_class=name),
            )
            for recipe, key, name in (
                ("ner", "vocab_file", "BertTokenizer"), ("ner", "tokenizer_file", "PreTrainedTokenizerFast"),
                ("dialogue", "vocab_file", "GPT2Tokenizer"), ("summarization", "vocab_file", "BertTokenizer"),
            )
        ),
    ),
]  # fmt: skip
