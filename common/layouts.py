"""How a launch divides a model between its processes: read from its config file, or from the launch that runs."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from common.errors import UserError

import yaml
from torch.distributed.fsdp import CPUOffloadPolicy


class Layout(NamedTuple):
    """Which parts of a training lie on each device."""

    name: str
    engine: Literal["none", "ddp", "deepspeed", "fsdp"] = "none"
    processes: int = 1
    stage: int = 0  # of DeepSpeed's ZeRO: 1 divides the optimizer's state, 2 the gradients too, 3 the weights too
    offloads_optimizer: bool = False
    offloads_weights: bool = False


def list_layouts(processes: int) -> list[Layout]:
    """One device, and every way in which this many processes can share a model."""
    zero = {"engine": "deepspeed", "processes": processes}
    return [
        Layout("one device"),
        Layout("DDP", "ddp", processes),
        Layout("ZeRO 1", stage=1, **zero),
        Layout("ZeRO 2", stage=2, **zero),
        Layout("ZeRO 2 offload", stage=2, offloads_optimizer=True, **zero),
        Layout("ZeRO 3", stage=3, **zero),
        Layout("ZeRO 3 offload", stage=3, offloads_optimizer=True, offloads_weights=True, **zero),
        Layout("FSDP 2", "fsdp", processes),
    ]


def read_layout(launch: dict, path: str, num_processes: int | None = None) -> Layout:
    """The layout that a config of accelerate asks for; `num_processes` wins over its own, as in accelerate launch.

    `launch` is what read_launch has read from `path`.
    """
    kind = str(launch.get("distributed_type", "")).upper()
    processes = num_processes or launch.get("num_processes")
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"{path}: num_processes is missing: write how many processes train, or give --num_processes.")
    if kind == "DEEPSPEED":
        return _name_zero(_read_zero(launch, path), processes, path)
    if kind == "FSDP":
        return _name_fsdp(_require_mapping(launch.get("fsdp_config"), f"{path}: fsdp_config"), processes)
    if kind not in ("NO", "MULTI_GPU"):
        raise UserError(
            f"{path}: distributed_type is {kind or 'missing'}: NO, MULTI_GPU, DEEPSPEED and FSDP are known here."
        )
    return Layout("DDP", "ddp", processes) if processes > 1 else Layout("one device")


def read_launch(path: str) -> dict:
    """The lines of a config file of accelerate."""
    try:
        launch = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: the accelerate config cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that is none
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(launch, dict):
        raise UserError(f"{path}: a config of accelerate has lines like 'num_processes: 2'.")
    # A bare NO is false in YAML.
    return launch | ({"distributed_type": "NO"} if launch.get("distributed_type") is False else {})


def find_layout(accelerator) -> Layout:
    """The layout of the launch that runs."""
    kind, processes = accelerator.distributed_type.value, accelerator.num_processes
    if kind == "DEEPSPEED":
        return _name_zero(accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"], processes)
    if kind == "FSDP":
        offloads = isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy)
        return _name_fsdp({"fsdp_offload_params": offloads}, processes)
    return Layout("DDP", "ddp", processes) if processes > 1 else Layout("one device")


def _read_zero(launch: dict, path: str) -> dict:
    """zero_optimization as in a config of DeepSpeed, wherever the config of accelerate has it."""
    settings = _require_mapping(launch.get("deepspeed_config"), f"{path}: deepspeed_config")
    file = settings.get("deepspeed_config_file")
    if file is None:
        if "zero_stage" not in settings:
            raise UserError(f"{path}: deepspeed_config has neither deepspeed_config_file nor zero_stage: write one.")
        devices = {part: settings.get(f"offload_{part}_device") for part in ("optimizer", "param")}
        return {"stage": settings["zero_stage"]} | {f"offload_{part}": {"device": devices[part]} for part in devices}
    try:
        config = json.loads(Path(str(file)).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: deepspeed_config_file {file} cannot be read: {error.strerror}; its path is relative to where you "
            "launch from."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON: {error}") from None
    config = _require_mapping(config, f"{file}: it")
    return _require_mapping(config.get("zero_optimization"), f"{file}: zero_optimization")


def _require_mapping(value, name: str) -> dict:
    """The mapping, an empty one where there is none."""
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name} is {str(value)[:60]!r}: write lines of settings, or leave it out.")
    return value or {}


def _name_zero(zero: dict, processes: int, path: str = "zero_optimization") -> Layout:
    stage = zero.get("stage", 0)
    if str(stage) not in ("0", "1", "2", "3"):
        raise UserError(f"{path}: the stage of ZeRO is {str(stage)[:60]!r}: write 0, 1, 2 or 3.")
    stage = int(stage)
    offloads = [
        _require_mapping(zero.get(f"offload_{part}"), f"{path}: offload_{part}").get("device") not in (None, "none")
        for part in ("optimizer", "param")
    ]
    return Layout(f"ZeRO {stage}" + " offload" * any(offloads), "deepspeed", processes, stage, *offloads)


def _name_fsdp(settings: dict, processes: int) -> Layout:
    offloads = bool(settings.get("fsdp_offload_params"))
    return Layout("FSDP 2" + " offload" * offloads, "fsdp", processes, 0, offloads, offloads)
