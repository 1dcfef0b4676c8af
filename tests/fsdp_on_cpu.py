"""Runs a script with FSDP on the CPU, which Accelerate takes for GPUs only: `fsdp_on_cpu.py recipes/ner/run.py ...`.

Processes on GPUs and a launch with FSDP make Accelerate choose FSDP; processes on CPUs make it choose DDP. Here those
on CPUs say that they are on GPUs once they have their device, so that all that follows is Accelerate's own.
"""

import runpy
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType

join_processes = PartialState.__init__


def join_processes_as_on_gpus(state, *args, **kwargs):
    """PartialState.__init__, with the type that leads to FSDP."""
    join_processes(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = join_processes_as_on_gpus
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)  # as when Python runs it: beside this file lies another `common`
runpy.run_path(sys.argv[0], run_name="__main__")
