"""`python sabotage.py run.py KIND FIRST LAST flags`: a recipe whose batches FIRST to LAST go wrong.

Those of training are counted, with "nan evaluation" those of evaluations; "KIND in rank 1" spoils those of one process.
A real fault of the arithmetic cannot be ordered for a step: the model's own output is spoilt on its way to the loss.
"""

import os
import runpy
import sys

import torch
from transformers import PreTrainedModel

KINDS = ("nan loss", "inf gradient", "nan evaluation", "exception")


def spoil(kind: str, first: int, last: int) -> None:
    """Have the output of the model spoilt in these batches, counted from 1."""
    assert kind in KINDS
    seen = 0

    def hook(module, inputs, output):
        nonlocal seen
        is_counted = module.training == (kind != "nan evaluation")
        if not isinstance(module, PreTrainedModel) or not is_counted:
            return None
        name = next((name for name in ("logits", "start_logits") if name in output), None)
        if name is None:
            return None
        seen += 1
        if first <= seen <= last and kind in ("nan loss", "nan evaluation"):
            output[name] = output[name] * float("nan")
        elif first <= seen <= last and kind == "inf gradient":
            output[name].register_hook(lambda gradient: gradient * float("inf"))
        elif first <= seen <= last:
            raise RuntimeError("something broke in this batch")
        return output

    torch.nn.modules.module.register_module_forward_hook(hook)


if __name__ == "__main__":
    path, kind, first, last = sys.argv[1:5]
    kind, _, rank = kind.partition(" in rank ")
    if not rank or os.environ["RANK"] == rank:
        spoil(kind, int(first), int(last))
    sys.argv = [path, *sys.argv[5:]]
    runpy.run_path(path, run_name="__main__")
