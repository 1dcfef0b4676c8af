"""A trained model on the disk: whole, merged, without a pickle."""

import copy
import json
from pathlib import Path

from common.adapters import ADAPTER_DIRECTORY, has_ranks_to_prune, mark_kept_ranks, merge_adapter, put_adapter
from common.atomic_files import write_json
from common.fingerprint import MODEL_FILES
from common.models import choose_frozen_dtype, load_weights
from common.sharding import whole_state_dict

import torch
import transformers
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

ARGUMENTS_FILE, PICKLED_ARGUMENTS_FILE = "training_args.json", "training_args.bin"


def list_model_files(output_dir: Path) -> list[Path]:
    """What prediction reads of a result: weights, configurations, tokenizer, adapter; not what people read."""
    names = {path.name for pattern in MODEL_FILES for path in output_dir.glob(pattern)}
    others = [path for path in (output_dir / ADAPTER_DIRECTORY).rglob("*") if path.suffix in (".json", ".safetensors")]
    return [*(output_dir / name for name in names), *others]


def save_model(trainer, model_args) -> None:
    """Write weights and tokenizer so that the Auto class loads them; an adapter merged, and as it is in `adapter/`.

    An adapter alone does not hold the labels of the head, and `pipeline()` would load it wrongly. Virtual tokens cannot
    be merged: then there are no weights at the top, so that nobody takes those of the base for the trained ones.
    """
    output_dir = Path(trainer.args.output_dir)
    if not model_args.use_peft:
        with whole_state_dict(trainer.accelerator):
            trainer.save_model(str(output_dir))
    else:
        if has_ranks_to_prune(trainer.model):
            mark_kept_ranks(trainer.model)
        with whole_state_dict(trainer.accelerator):
            trainer.save_model(str(output_dir / ADAPTER_DIRECTORY))
        if trainer.args.should_save:
            save_adapted(trainer, model_args, output_dir)
            save_arguments(trainer.args, output_dir)


def save_arguments(args, directory: Path) -> None:
    """Write the training arguments as JSON without tokens, and delete the pickle of them all that Trainer leaves."""
    (directory / PICKLED_ARGUMENTS_FILE).unlink(missing_ok=True)
    settings = {name: value for name, value in args.to_dict().items() if not name.endswith("_token")}
    write_json(directory / ARGUMENTS_FILE, json.loads(json.dumps(settings, default=str)))


def save_adapted(trainer, model_args, output_dir: Path) -> None:
    """Write the adapted model whole: the adapter merged into weights that are loaded anew.

    Those in memory may be rounded to 4 bits, or divided between processes; merging would round the adapter off too.
    """
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    live = adapted.get_base_model()
    config = copy.deepcopy(live.config)
    if model_args.quantizes:
        del config.quantization_config
    trainer.processing_class.save_pretrained(output_dir)
    if adapted.active_peft_config.is_prompt_learning:
        config.architectures = [type(live).__name__]
        config.save_pretrained(output_dir)
        if live.can_generate():
            live.generation_config.save_pretrained(output_dir)
        return
    # Else from_pretrained would divide what only this process loads.
    unset_hf_deepspeed_config()
    dtype = torch.float32 if model_args.quantizes else choose_frozen_dtype(trainer.args)
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # that the base has no such head was said when training began
    base = load_weights(type(live), model_args, config, dtype).float()  # bfloat16 would round the adapter off too
    transformers.utils.logging.set_verbosity(verbosity)
    merged = merge_adapter(put_adapter(base, output_dir / ADAPTER_DIRECTORY))
    if live.can_generate():
        merged.generation_config = live.generation_config
    merged.save_pretrained(output_dir)
