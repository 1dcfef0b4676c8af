"""What a launch would silently do otherwise than asked: refused before it starts."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.sharding import uses_fsdp

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, parse_flag_from_env
from torch.utils.cpp_extension import get_default_build_root

LONGEST_BUILD = 20 * 60  # seconds; two to four minutes are usual


def check_launch(training_args) -> None:
    """Raise a UserError where the processes would not train together, or not with what the launch config says."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != training_args.world_size:
        raise UserError(
            f"{started} processes were started, but they do not train together (world size {training_args.world_size}):"
            " each would overwrite the other's results. Check the --config_file of accelerate launch."
        )
    # accelerate launch says where processes find each other, and starts one: MULTI_CPU, --cpu, no --multi_gpu.
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "accelerate launch was asked for several processes, but has started one: set distributed_type: MULTI_GPU, "
            "also for processes on the CPU (see accelerate_configs/multi_cpu.yaml). If you asked for one, unset "
            "MASTER_ADDR."
        )
    uses_deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    if (uses_deepspeed or uses_fsdp(training_args)) and parse_flag_from_env("ACCELERATE_USE_CPU"):
        name = "DeepSpeed" if uses_deepspeed else "FSDP"
        raise UserError(
            f"ACCELERATE_USE_CPU is set, which turns {name} off without a word: unset it. On a machine without GPU the "
            "recipes choose the CPU by themselves; elsewhere add --use_cpu."
        )
    if training_args.auto_find_batch_size and (started > 1 or uses_deepspeed):
        raise UserError(
            "auto_find_batch_size works in one process without DeepSpeed only: of several, one without memory leaves "
            "the others waiting. Set per_device_train_batch_size and gradient_accumulation_steps."
        )
    if uses_fsdp(training_args):
        check_fsdp(training_args)
    if uses_deepspeed:
        refuse_stale_locks(Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()))


def decide_together(function: Callable, *arguments) -> Any:
    """What `function` gives in the first process, in all of them; a UserError that it raises there is raised in all."""
    answer = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = function(*arguments)
        except UserError as error:
            answer[1] = str(error)
    if PartialState().num_processes > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return answer[0]


def share_greatest(number: float, device: torch.device) -> float:
    """The greatest of the numbers that the processes have; all of them call this at the same place."""
    if PartialState().num_processes < 2:
        return number
    greatest = torch.tensor(float(number), device=device)
    torch.distributed.all_reduce(greatest, op=torch.distributed.ReduceOp.MAX)
    return greatest.item()


def check_deepspeed_file(training_args) -> None:
    """UserError where the file of DeepSpeed's settings is missing or no JSON, which DeepSpeed takes for base64."""
    names = {"deepspeed": training_args.deepspeed}
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        names["deepspeed_config_file"] = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")  # of accelerate's config
    for name, path in names.items():
        if not isinstance(path, str) or not path.endswith(".json"):
            continue
        if not Path(path).is_file():
            raise UserError(f"{name} {path}: no such file in {Path.cwd()}; deepspeed_configs/ has some to take.")
        try:
            json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}; mend it.") from None


def check_fsdp(training_args) -> None:
    """UserError for FSDP's first version, and where Accelerate would train with DDP in its place."""
    plugin_args = training_args.fsdp_plugin_args or {}  # those of --fsdp; accelerate's config arrives as variables
    if int(plugin_args.get("fsdp_version", os.environ.get("FSDP_VERSION", "1"))) != 2:
        raise UserError(
            "FSDP's version 1 is deprecated, and evaluates a model wrongly once it has generated: set fsdp_version: 2 "
            "(accelerate to-fsdp2 --config_file FILE --output_file NEW rewrites a config)."
        )
    if training_args.distributed_state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise UserError(
            "FSDP needs GPUs: here Accelerate would train without it, each process with the whole model, and not say "
            "so. On CPUs launch with accelerate_configs/multi_cpu.yaml, or with DeepSpeed "
            "(accelerate_configs/deepspeed_zero3.yaml)."
        )


def refuse_stale_locks(directory: Path) -> None:
    """UserError where a build of DeepSpeed's operations was interrupted: each later run would wait for its end."""
    for lock in sorted(directory.rglob("lock")):
        age = time.time() - lock.stat().st_mtime
        if age > LONGEST_BUILD:
            raise UserError(
                f"{lock} is the lock of a build of DeepSpeed that was interrupted {age / 3600:.1f} hours ago; this run "
                "would wait for it for ever. Delete the file."
            )
