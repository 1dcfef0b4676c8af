"""README.md of a result directory: the model card, with scores and a usage snippet that runs."""

from pathlib import Path

from common.adapters import find_unmerged_adapter

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


def write_model_card(output_dir: Path, outcome, recipe: dict, training_args) -> None:
    """Write the card with the scores of the test split or, without one, of the validation split."""
    scores_of_splits = outcome.list_headline_scores()
    split = "test" if "test" in scores_of_splits else "validation"
    headline = scores_of_splits.get(split, {})
    dataset = recipe["dataset"] if isinstance(recipe["dataset"], str) else "local files"
    is_hub_model = recipe["base_model"].count("/") == 1 and not Path(recipe["base_model"]).exists()
    data = ModelCardData(
        language=recipe["language"],
        library_name="transformers",
        pipeline_tag=outcome.task,
        base_model=recipe["base_model"] if is_hub_model else None,
        datasets=dataset if dataset.count("/") == 1 else None,
        tags=["trainer-recipes", "generated_from_trainer"],
        model_name=output_dir.name,
        eval_results=[
            EvalResult(
                task_type=outcome.task,
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type=METRIC_TYPES.get(name, name),
                metric_name=name,
                metric_value=value,
            )
            for name, value in headline.items()
        ],
    )
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in headline.items())
    effective = (
        training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    )
    usage = USAGE[outcome.task] if find_unmerged_adapter(output_dir) is None else UNMERGED_USAGE
    places = {"path": output_dir, "base": recipe["base_model"], "model_class": MODEL_CLASSES[outcome.task]}
    text = f"""---
{data.to_yaml()}
---

# {output_dir.name}

{recipe["base_model"]}, fine-tuned for {outcome.task} with the Trainer Recipes.

## Scores ({split})

| metric | value |
|---|---|
{scores}

## Use

```python
{usage.format(**places)}
```

Whole files and long texts, as in the evaluation: `python -m common.predict {output_dir} rows.jsonl` (Trainer Recipes).

## Training

- data: {dataset}, language {recipe["language"] or "not stated"}
- learning rate {training_args.learning_rate}, {training_args.lr_scheduler_type.value} schedule, \
{training_args.num_train_epochs} epochs, seed {training_args.seed}
- effective batch {effective}: {training_args.per_device_train_batch_size} rows x \
{training_args.gradient_accumulation_steps} accumulation steps x {training_args.world_size} processes
- computed in {training_args.mixed_precision if training_args.mixed_precision != "no" else "fp32"}, weights in float32
- versions: {", ".join(f"{name} {number}" for name, number in recipe["versions"].items())}

Every setting is in `config.yaml`; this command made the model:

```bash
{recipe["command"]}
```

## Limits

The scores hold for texts like those it was scored on. Look at what it gets wrong (`report.html`) before you rely on it.
"""
    ModelCard(text).save(output_dir / "README.md")
