"""Faults of the settings: a key, a value, or two that contradict each other (group D)."""

import json
from functools import partial
from pathlib import Path

from tests.conftest import (
    list_sample_flags,
    read_jsonl,
    save_decoder,
    save_encoder,
    save_encoder_decoder,
    write_jsonl,
)
from tests.faults.fault import (
    RECIPES,
    Case,
    Fault,
    Finding,
    Run,
    judge_refusal,
    judge_survival,
    list_flags,
    run_recipe,
)
from tests.multilingual import build_multilingual_model, build_multilingual_tokenizer

from transformers import AutoTokenizer

GENERATING = ("translation", "summarization", "dialogue")
LENGTHS = {"translation": "max_source_length", "summarization": "max_source_length"}  # max_seq_length in the others
EVALUATING = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]


def judge_early(run: Run, pattern: str, folder: Path) -> Finding:
    """As judge_refusal, and neither a directory for the result nor a model was there yet."""
    finding = judge_refusal(run, pattern, absent=[folder / "result"])
    if finding.verdict == "clear" and "parameters, " in run.stdout:
        return Finding("loses", f"the model was loaded first: {run.tail()}")
    return finding


def judge_warning(run: Run, pattern: str) -> Finding:
    """clear where the run ended well and said what `pattern` says on a line of its own."""
    said = [line for line in run.stdout.splitlines() if line.startswith(pattern)]
    return judge_survival(run, bool(said)) if run.code or not said else Finding("clear", said[0])


def refuse_line(recipe: str, folder: Path, line: str, pattern: str, flags: tuple = ()) -> Finding:
    """Put `line` third into a config file, of which the message must name path and line."""
    path = folder / "cfg.yaml"
    path.write_text(f"seed: 7\n\n{line}\n")
    run = run_recipe(recipe, *list_flags(recipe, folder, "--config", path, *flags))
    return judge_early(run, rf"^error: {path}:3: {pattern}", folder)


def refuse_flags(recipe: str, folder: Path, flags: list[object], pattern: str) -> Finding:
    """Add flags that a run must refuse."""
    return judge_early(run_recipe(recipe, *list_flags(recipe, folder, *flags)), rf"^error: {pattern}", folder)


def list_lines(line: str, pattern: str, recipes=("ner", "dialogue"), flags: tuple = ()) -> list[Case]:
    """A case a recipe of one line of a config file, all but the first slow: the same code reads it."""
    return [
        Case(
            f"{recipe}: {line}",
            partial(refuse_line, recipe, line=line, pattern=pattern, flags=flags),
            is_slow=recipe != recipes[0],
        )
        for recipe in recipes
    ]


def list_flag_cases(flags: list[object], pattern: str, recipes=("sentiment", "translation")) -> list[Case]:
    """The same for flags on the command line."""
    name = " ".join(map(str, flags))
    return [
        Case(
            f"{recipe}: {name}",
            partial(refuse_flags, recipe, flags=flags, pattern=pattern),
            is_slow=recipe != recipes[0],
        )
        for recipe in recipes
    ]


def warn_of_long_warmup(recipe: str, folder: Path) -> Finding:
    run = run_recipe(recipe, *list_flags(recipe, folder, "--warmup_steps", "50", "--max_steps", "2", "--dry_run"))
    return judge_warning(run, "warning    warmup_steps is 50, but the run ends after 2: ")


def refuse_lower_score(recipe: str, folder: Path) -> Finding:
    """The headline score, and the lower is said to be the better."""
    score = {"sentiment": "accuracy", "ner": "f1_PER", "qa": "exact_match", "translation": "bleu"}.get(recipe, "rougeL")
    flags = [*EVALUATING, "--load_best_model_at_end", "--metric_for_best_model", score, "--greater_is_better", "false"]
    return refuse_flags(
        recipe, folder, flags, f"greater_is_better false would keep the worst model: .*greater {score} "
    )


def refuse_unknown_class(recipe: str, folder: Path) -> Finding:
    """Which classes there are is known once the data are read."""
    right, wrong = {"ner": ("PER", "PRE"), "sentiment": ("negative", "negativ")}[recipe]
    flags = [*EVALUATING, "--load_best_model_at_end", "--metric_for_best_model", f"f1_{wrong}"]
    return refuse_flags(
        recipe, folder, flags, f'metric_for_best_model f1_{wrong}: there is no class {wrong} .did you mean "{right}"'
    )


def refuse_absent_score(folder: Path) -> Finding:
    """There is no ROC-AUC of validation rows that are all of one class: what was trained until then is kept."""
    rows = read_jsonl(Path(list_sample_flags("sentiment", "validation")[1]))
    rows = [row for row in rows if row["label"] == "negative"]
    flags = ["--validation_file", write_jsonl(folder / "validation.jsonl", rows[:8])]
    flags += [*EVALUATING, "--load_best_model_at_end", "--metric_for_best_model", "roc_auc"]
    run = run_recipe("sentiment", *list_flags("sentiment", folder, *flags))
    wanted = r"metric_for_best_model: the validation rows give no roc_auc, they give accuracy, .*checkpoint-2 is saved"
    return judge_refusal(run, wanted, [folder / "result" / "checkpoint-2"], [folder / "result" / "metrics.json"])


def build_model(recipe: str, folder: Path) -> Path:
    """A small model for the recipe, of 128 positions, in a directory."""
    path = folder / "model"
    if recipe in ("sentiment", "ner", "qa"):
        return save_encoder(path)
    if recipe == "dialogue":
        return save_decoder(path, max_position_embeddings=128)
    rows = read_jsonl(Path(list_sample_flags(recipe, "train")[1]))[:100]
    texts = [text for row in rows for text in row.get("translation", row).values()]
    return save_encoder_decoder(path, "bart", texts)


def list_model_flags(recipe: str, folder: Path, model: Path, *flags: object) -> list[object]:
    """As list_flags, with a pretrained model."""
    stride = ["--doc_stride", "32"] if recipe == "qa" else []  # less than the 128 positions of the model
    listed = list_flags(recipe, folder, *stride, *flags)
    listed[listed.index("--from_scratch") : listed.index("--from_scratch") + 2] = ["--model_name_or_path", model]
    return listed


def do_without_pad_token(recipe: str, folder: Path) -> Finding:
    model = build_model(recipe, folder)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(model).pad_token is None
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"pad_token_id": None}))
    run = run_recipe(recipe, *list_model_flags(recipe, folder, model, "--max_steps", "1"))
    said = [line for line in run.stdout.splitlines() if "has no pad token" in line]
    finding = judge_survival(run, bool(said) and (folder / "result" / "metrics.json").is_file())
    # What is wanted is a message, and that the run goes on with it.
    return Finding("clear", said[0]) if finding.verdict == "survives" else finding


def refuse_long_texts(recipe: str, folder: Path) -> Finding:
    name = LENGTHS.get(recipe, "max_seq_length")
    run = run_recipe(recipe, *list_model_flags(recipe, folder, build_model(recipe, folder), f"--{name}", "512"))
    return judge_early(run, f"^error: {name} is 512, but the model takes 128 pieces: set it to 128 or less", folder)


def refuse_missing_model(recipe: str, folder: Path) -> Finding:
    path = folder / "no" / "model"
    run = run_recipe(recipe, *list_model_flags(recipe, folder, path))
    return judge_early(run, f"^error: model_name_or_path {path}: no such model directory", folder)


def refuse_missing_model_of_file(recipe: str, folder: Path) -> Finding:
    flags = list_model_flags(recipe, folder, folder)
    flags[flags.index("--model_name_or_path") : flags.index("--model_name_or_path") + 2] = []
    config = folder / "cfg.yaml"
    config.write_text("seed: 7\nmodel_name_or_path: ./model\n")
    run = run_recipe(recipe, *flags, "--config", config)
    return judge_early(run, f"^error: {config}:2: model_name_or_path {folder}/model: no such model directory", folder)


def refuse_missing_file(recipe: str, folder: Path, flag: str) -> Finding:
    path = folder / "missing.jsonl"
    return refuse_flags(recipe, folder, [flag, path], f"{path}: (there is )?no such file")


def refuse_unknown_language(recipe: str, folder: Path, tokenizer_class: str, code: str, right: str) -> Finding:
    tokenizer = build_multilingual_tokenizer(tokenizer_class, folder / "files")
    for part in (tokenizer, build_multilingual_model(tokenizer)):
        part.save_pretrained(folder / "model")
    rows = Path(list_sample_flags(recipe, "train")[1]).read_text().replace('"de":', f'"{code}":')
    flags = ["--lang", code]
    if recipe == "translation":
        (folder / "train.jsonl").write_text(rows)
        source = "eng_Latn" if tokenizer_class == "NllbTokenizer" else "en_XX"
        flags = ["--train_file", folder / "train.jsonl", "--validation_file", folder / "train.jsonl"]
        flags += ["--source_lang", source, "--target_lang", code]
    run = run_recipe(recipe, *list_model_flags(recipe, folder, folder / "model", *flags))
    name = "lang" if recipe == "summarization" else "target_lang"
    pattern = rf"^error: {name} {code} is no language of {tokenizer_class}.*{right}.*: use one of "
    return judge_early(run, pattern, folder)


def refuse_missing_deepspeed_file(recipe: str, folder: Path) -> Finding:
    path = folder / "zero9.json"
    return refuse_flags(recipe, folder, ["--deepspeed", path], f"deepspeed {path}: no such file")


def refuse_missing_file_of_launch(recipe: str, folder: Path) -> Finding:
    """What `accelerate launch` hands on from the deepspeed_config_file of its own config."""
    path = folder / "zero9.json"
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    run = run_recipe(recipe, *list_flags(recipe, folder), **environment)
    return judge_early(run, f"^error: .*deepspeed_config_file {path}: no such file", folder)


def refuse_unequal_strategies(recipe: str, folder: Path) -> Finding:
    flags = ["--load_best_model_at_end", "--save_strategy", "steps", "--save_steps", "2"]
    return refuse_flags(recipe, folder, flags, "load_best_model_at_end needs .* eval_strategy is no and save_strategy")


def list_cases(attempt, recipes=RECIPES, **settings) -> list[Case]:
    """A case a recipe; where all six are tried, one for each kind of model is quick."""
    quick = ("ner", "translation", "dialogue") if recipes == RECIPES else recipes
    return [Case(recipe, partial(attempt, recipe, **settings), is_slow=recipe not in quick) for recipe in recipes]


BEST = (*EVALUATING, "--load_best_model_at_end")
FAULTS = [
    Fault(
        "D1", "an unknown key", plain="clear", wanted="clear",
        cases=(
            *list_lines("learning_rat: 1e-4", "unknown key 'learning_rat': did you mean 'learning_rate'"),
            *list_flag_cases(["--learning_rat", "1e-4"], "unknown flag --learning_rat: did you mean --learning_rate"),
            *list_lines("max_seq_lenght: 64", "unknown key .*: did you mean 'max_seq_length'", ("sentiment", "qa")),
        ),
    ),
    Fault(
        "D2", "a wrong type on the command line", plain="clear", wanted="clear",
        cases=(
            *list_flag_cases(["--learning_rate", "fast"], "--learning_rate must be a number, not 'fast'"),
            *list_flag_cases(["--num_train_epochs", "three"], "--num_train_epochs must be a number, not 'three'"),
            *list_flag_cases(["--max_train_samples", "1.5"], "--max_train_samples must be a whole number, not '1.5'"),
        ),
    ),
    Fault(
        "D3", "a wrong type in a file", plain="obscure", wanted="clear",
        cases=(
            *list_lines("learning_rate: fast", "learning_rate must be a number, not 'fast'"),
            *list_lines("num_train_epochs: three", "num_train_epochs must be a number, not 'three'"),
            *list_lines("learning_rate: '5e-5'", "learning_rate must be a number, not the text '5e-5'"),
            *list_lines("learning_rate: [1e-5]", "learning_rate must be a number, not a list"),
        ),
    ),
    Fault(
        "D4", "a text for a switch", plain="silently wrong", wanted="clear",
        cases=(
            *list_lines('do_predict: "false"', "do_predict must be true or false, not the text 'false'"),
            *list_lines("do_predict: never", "do_predict must be true or false, not 'never'"),
        ),
    ),
    Fault(
        "D5", "a batch of 0 or -4 rows, a learning rate of -1", plain="clear", wanted="clear",
        cases=(
            *list_lines("per_device_train_batch_size: 0", "per_device_train_batch_size is 0: it must be at least 1"),
            *list_lines("per_device_eval_batch_size: -4", "per_device_eval_batch_size is -4: it must be at least 1"),
            *list_lines("learning_rate: -1", "learning_rate is -1: it must be at least 0 and at most 1"),
            *list_lines("learning_rate: 5e5", "learning_rate is 500000: it must be at least 0 and at most 1"),
            *list_lines("learning_rate: nan", "learning_rate is nan: it must be at least 0 and at most 1"),
            *list_flag_cases(["--learning_rate", "-1"], "--learning_rate is -1: it must be at least 0"),
        ),
    ),
    Fault(
        "D6", "no step to accumulate", plain="obscure", wanted="clear",
        cases=tuple(
            list_lines(
                "gradient_accumulation_steps: 0", "gradient_accumulation_steps is 0: it must be at least 1", RECIPES
            )
        ),
    ),
    Fault(
        "D7", "less than no epoch", plain="silently wrong", wanted="clear",
        cases=(
            *list_lines("num_train_epochs: -1", "num_train_epochs is -1: it must be above 0; to evaluate", RECIPES),
            *list_lines("num_train_epochs: 0", "num_train_epochs is 0: it must be above 0; to evaluate"),
            *list_lines("max_steps: 0", "max_steps is 0: it must be at least 1, or -1"),
        ),
    ),
    Fault(
        "D8", "label smoothing of 5, a warmup longer than the run", plain="silently wrong", wanted="clear",
        cases=(
            *list_lines("label_smoothing_factor: 5", "label_smoothing_factor is 5: it must be at least 0 and below 1"),
            *list_lines("label_smoothing_factor: -0.1", "label_smoothing_factor is -0.1: it must be at least 0"),
            *list_lines("lora_dropout: 1.5", "lora_dropout is 1.5: it must be at least 0 and below 1"),
            Case("sentiment, warmup", partial(warn_of_long_warmup, "sentiment")),
            Case("translation, warmup", partial(warn_of_long_warmup, "translation")),
        ),
    ),
    Fault(
        "D9", "an unknown metric_for_best_model", plain="loses", wanted="clear",
        cases=(
            *list_lines(
                "metric_for_best_model: f1_score_", "metric_for_best_model f1_score_ is no score of this recipe",
                ("qa", "translation", "summarization", "dialogue"), BEST,
            ),
            *list_lines(
                "metric_for_best_model: accurracy",
                'metric_for_best_model accurracy is no score of this recipe .did you mean "accuracy"',
                ("sentiment", "ner"), BEST,
            ),
            *(Case(f"{recipe}, a class", partial(refuse_unknown_class, recipe)) for recipe in ("sentiment", "ner")),
            Case("sentiment, a score that the rows do not give", refuse_absent_score),
        ),
    ),
    Fault(
        "D10", "the greatest loss as the best", plain="silently wrong", wanted="clear",
        cases=(
            *list_lines(
                "greater_is_better: true", "greater_is_better true would keep the worst model: the lower loss", RECIPES,
                (*BEST, "--metric_for_best_model", "loss"),
            ),
            *(
                Case(f"{recipe}, the lowest score", partial(refuse_lower_score, recipe), is_slow=recipe != "ner")
                for recipe in RECIPES
            ),
        ),
    ),
    Fault(
        "D11", "the best model without evaluations to choose it by", plain="clear", wanted="clear",
        cases=tuple(list_cases(refuse_unequal_strategies, ("sentiment", "dialogue"))),
    ),
    Fault(
        "D12", "no pad token", plain="clear", wanted="clear",
        cases=tuple(
            Case(recipe, partial(do_without_pad_token, recipe), is_slow=recipe not in ("ner", "translation"))
            for recipe in RECIPES
        ),
    ),
    Fault(
        "D13", "longer texts than the model has positions", plain="obscure", wanted="clear",
        cases=tuple(list_cases(refuse_long_texts)),
    ),
    Fault(
        "D14", "a length of 0", plain="obscure", wanted="clear",
        cases=tuple(
            case
            for recipe in RECIPES
            for name in [LENGTHS.get(recipe, "max_seq_length")]
            for case in list_lines(f"{name}: 0", f"{name} is 0: it must be at least 1", (recipe,))
        ),
    ),
    Fault(
        "D15", "float16 on a CPU", plain="survives", wanted="clear",
        cases=tuple(list_flag_cases(["--dtype", "float16"], "float16 has no use on a CPU: set dtype to bfloat16")),
    ),
    Fault(
        "D16", "a model that is not there", plain="obscure", wanted="clear",
        cases=(
            *list_cases(refuse_missing_model),
            Case("ner, in a file", partial(refuse_missing_model_of_file, "ner")),
        ),
    ),
    Fault(
        "D17", "data that are not there", plain="clear", wanted="clear",
        cases=(
            *list_cases(refuse_missing_file, flag="--train_file"),
            Case("ner, validation", partial(refuse_missing_file, "ner", flag="--validation_file")),
        ),
    ),
    Fault(
        "D18", "an unknown target language", plain="silently wrong", wanted="clear",
        cases=tuple(
            Case(
                f"{recipe}, {name}, {code}",
                partial(refuse_unknown_language, recipe, tokenizer_class=name, code=code, right=right),
            )
            for name, code, right in (
                ("MBart50Tokenizer", "xx_XX", ""), ("MBart50Tokenizer", "dd_DE", "de_DE"),
                ("NllbTokenizer", "deuu_Latn", "deu_Latn"), ("NllbTokenizer", "qq", ""),
            )
            for recipe in ("translation", "summarization")
        ),
    ),
    Fault(
        "D19", "4-bit weights without PEFT", plain="clear", wanted="clear",
        cases=tuple(
            list_flag_cases(["--load_in_4bit"], "load_in_4bit: 4-bit weights cannot be trained .*: set use_peft too")
            + list_lines("load_in_8bit: true", "load_in_8bit: 8-bit weights cannot be trained .*: set use", ("qa",))
        ),
    ),
    Fault(
        "D20", "a DeepSpeed file that is not there", plain="obscure", wanted="clear",
        cases=(
            *list_cases(refuse_missing_deepspeed_file, ("ner", "translation")),
            *(
                Case(f"{recipe}, of accelerate launch", partial(refuse_missing_file_of_launch, recipe))
                for recipe in ("ner", "translation")
            ),
        ),
    ),
]  # fmt: skip
