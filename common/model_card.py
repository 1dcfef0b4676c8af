"""README.md of a result directory: the model card, with scores and a usage snippet that runs."""

from pathlib import Path

from common.adapters import find_unmerged_adapter
from common.arguments import PROMPT_METHODS
from common.intervals import format_interval
from common.languages import shorten_code
from common.models import name_precision
from common.overview import count_devices, count_rows_per_step
from common.tallies import name_unit

from huggingface_hub import EvalResult, ModelCard, ModelCardData

_GENERATION = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = AutoModelForSeq2SeqLM.from_pretrained("{path}")
text = "<text>"
inputs = tokenizer(model.config.source_prefix + text, return_tensors="pt")
outputs = model.generate(**inputs)  # beams, lengths and language as in the evaluation: generation_config.json
print(tokenizer.decode(outputs[0], skip_special_tokens=True))"""
USAGE = {
    "token-classification": """from transformers import pipeline

find_entities = pipeline("token-classification", model="{path}", aggregation_strategy="first")
print(find_entities("Ada Lovelace lives in Paris."))""",
    "text-classification": """from transformers import pipeline

classify = pipeline("text-classification", model="{path}", top_k=None)
print(classify("A wonderful stay, we will come back."))""",
    "question-answering": """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = AutoModelForQuestionAnswering.from_pretrained("{path}")
question, context = "Where does Ada live?", "Ada Lovelace lives in Paris."
inputs = tokenizer(question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="pt")
offsets = inputs.pop("offset_mapping")[0]
with torch.no_grad():
    outputs = model(**inputs)
in_context = torch.tensor([part == 1 for part in inputs.sequence_ids()])
allowed = (in_context[:, None] & in_context).triu()  # an answer ends where it starts or later
scores = (outputs.start_logits[0][:, None] + outputs.end_logits[0]).masked_fill(~allowed, float("-inf"))
start, end = divmod(scores.argmax().item(), len(offsets))
print(context[offsets[start][0] : offsets[end][1]])""",
    "text-generation": """from transformers import pipeline

chat = pipeline("text-generation", model="{path}")
messages = [{{"role": "user", "content": "Hello! Who are you?"}}]
print(chat(messages)[0]["generated_text"][-1]["content"])""",
    "translation": _GENERATION.replace("<text>", "The dog finds a red ball in the garden."),
    "summarization": _GENERATION.replace(
        "<text>", "The bridge of Marlow was closed on Monday. Nobody knows yet when it will open again."
    ),
}
MODEL_CLASSES = {
    "token-classification": "AutoModelForTokenClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "translation": "AutoModelForSeq2SeqLM",
    "summarization": "AutoModelForSeq2SeqLM",
}
UNMERGED_USAGE = """from peft import PeftModel
from transformers import AutoConfig, {model_class}, AutoTokenizer

# Virtual tokens cannot be merged: they are put before the input of the model that they were trained for.
config = AutoConfig.from_pretrained("{path}")
base = {model_class}.from_pretrained("{base}", config=config)
model = PeftModel.from_pretrained(base, "{path}/adapter")
tokenizer = AutoTokenizer.from_pretrained("{path}")"""
# What the Hub calls metrics whose name here says more, or something else.
METRIC_TYPES = {
    "f1_macro": "f1",
    "mcc": "matthews_correlation",
    "rougeL": "rouge",
    "rouge1": "rouge",
    "rouge2": "rouge",
}


def write_model_card(output_dir: Path, outcome, recipe: dict, model_args, training_args, hub_id: str | None) -> None:
    """Write the card with the headline scores of every split; the snippet loads `hub_id` if there is one."""
    dataset = recipe["dataset"] if isinstance(recipe["dataset"], str) else "local files"
    is_hub_model = recipe["base_model"].count("/") == 1 and not Path(recipe["base_model"]).exists()
    languages = list_languages(recipe)
    name = (hub_id or output_dir.name).split("/")[-1]
    data = ModelCardData(
        language=languages or None,
        license=model_args.license,
        library_name="transformers",
        pipeline_tag=outcome.task,
        base_model=recipe["base_model"] if is_hub_model else None,
        datasets=dataset if dataset.count("/") == 1 else None,
        tags=["trainer-recipes", "generated_from_trainer"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=outcome.task,
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type=METRIC_TYPES.get(score, score),
                metric_name=score,
                metric_value=value,
            )
            for split, scores in outcome.list_headline_scores().items()
            for score, value in scores.items()
        ],
    )
    usage = USAGE[outcome.task] if find_unmerged_adapter(output_dir) is None else UNMERGED_USAGE
    places = {"path": hub_id or output_dir, "base": recipe["base_model"], "model_class": MODEL_CLASSES[outcome.task]}
    predict = f"`python -m common.predict {name if hub_id else output_dir} rows.jsonl`"
    if hub_id:
        predict = f"after `hf download {hub_id} --local-dir {name}`, {predict}"
    settings = "\n".join(f"- {line}" for line in list_settings(recipe, model_args, training_args))
    text = f"""---
{data.to_yaml()}
---

# {name}

{recipe["base_model"]}, fine-tuned for {outcome.task} with the Trainer Recipes.

- data: {dataset}
- languages: {", ".join(languages) or "not stated"}
- licence: {model_args.license or "not stated"}

## Scores

{draw_scores(outcome)}

The intervals are of 95 %, by the bootstrap over the {name_unit(outcome.task)}.

## Use

```python
{usage.format(**places)}
```

Whole files and long texts, as in the evaluation: {predict} (Trainer Recipes).

## Training

{settings}

Every setting is in `config.yaml`; this command made the model:

```bash
{recipe["command"]}
```

## Limits

The scores hold for texts like those that were scored; the intervals tell how far they would vary with other such texts,
not with another seed. `report.html` has scores by length and the like, the worst mistakes and suspected label errors:
look at it before you rely on the model. It shows rows of the data, and is therefore not uploaded.
"""
    ModelCard(text).save(output_dir / "README.md")


def list_languages(recipe: dict) -> list[str]:
    """The languages that are stated, by two letters: of the texts, or of source and target."""
    codes = [recipe.get("source_lang"), recipe.get("target_lang")]
    codes = codes if any(codes) else [recipe.get("language")]
    return list(dict.fromkeys(shorten_code(code) for code in codes if code))


def draw_scores(outcome) -> str:
    """A table in Markdown of the headline scores with their intervals, test first."""
    splits = [split for split in ("test", "validation") if split in outcome.list_headline_scores()]
    if not splits:
        return "It was not scored: there was no validation file, and no test file with answers."
    head = ["metric", *(cell for split in splits for cell in (split, f"{split} interval"))]
    rows = [head, ["---"] * len(head)]
    for name in outcome.headline:
        cells = []
        for split in splits:
            value = outcome.metrics.get(f"{split}_{name}")
            cells.append("-" if value is None else f"{value:.4f}")
            cells.append(format_interval(outcome.list_intervals(split).get(name)).strip() or "-")
        rows.append([name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def list_settings(recipe: dict, model_args, training_args) -> list[str]:
    """How the model was trained, a sentence each; what was left at its default as far as it matters."""
    args = training_args
    rows, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
    filled = f"{count_rows_per_step(args)}: {rows} rows"
    if args.max_tokens_per_batch:
        filled = f"of up to {args.max_tokens_per_batch} pieces with their padding"
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    lines = [
        f"learning rate {args.learning_rate}, {args.lr_scheduler_type.value} schedule, {args.optim.value}, {length}, "
        f"seed {args.seed}",
        f"effective batch {filled} x {steps} accumulation steps x {count_devices(args)} devices",
        f"computed in {name_precision(args)}, weights in float32",
    ]
    if args.layerwise_lr_decay is not None:
        lines.append(f"each layer with {args.layerwise_lr_decay} times the learning rate of the one above it")
    if model_args.freeze:
        lines.append(f"not trained: {model_args.freeze}")
    if model_args.use_peft:
        bits = 8 if model_args.load_in_8bit else 4
        frozen = f", the frozen weights in {bits} bits" if model_args.quantizes else ""
        merged = "" if model_args.peft_method in PROMPT_METHODS else ", merged into the weights"
        lines.append(f"an adapter ({model_args.peft_method}{frozen}){merged}; by itself it is in `adapter/`")
    if "parameters" in recipe:
        trained, total = recipe["parameters"]["trained"], recipe["parameters"]["total"]
        lines.append(f"{trained:,} of {total:,} weights trained in {recipe['train_seconds'] or 0:,.0f} seconds")
    return [*lines, f"versions: {', '.join(f'{name} {number}' for name, number in recipe['versions'].items())}"]
