"""A result directory that predicts new rows, with nothing else needed:

from common.prediction import load_predictor

predictor = load_predictor("outputs/ner-demo")
rows = predictor.predict(["Ada Lovelace lives in Paris.", {"tokens": ["小", "林", "住", "在", "大", "连"]}])
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from common.adapters import ADAPTER_DIRECTORY, find_unmerged_adapter
from common.atomic_files import read_json
from common.errors import UserError
from common.evaluation_batches import cut_batches
from common.garbage import search_as_usual
from common.hub import HUB_ERRORS
from common.inputs import Fault, Input, check_inputs, read_inputs
from common.models import choose_device, load_result
from common.predictors import TASKS
from common.result_files import CONFIG_FILE, METRICS_FILE, RECIPE_FILE

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, DataCollatorWithPadding

CHUNK = 1000  # rows whose windows are in memory at once
BATCH_SIZE = 32


class _Facts(dict):
    """What recipe.json says; a UserError where it does not."""

    def __init__(self, path: Path):
        super().__init__(read_json(path))
        self.path = path

    def __missing__(self, name: str):
        raise UserError(
            f"{self.path}: it says nothing of {name}: another version or an edited recipe wrote it; predict with "
            "that recipe's --do_predict."
        )


def load_task(directory: str | Path):
    """What predicts rows of the run's task, without its model; a UserError where this is no finished run's directory.

    It is one of `common.predictors`.
    """
    path = Path(directory).expanduser()
    _refuse_other_directories(str(directory), path)
    try:
        facts = _Facts(path / RECIPE_FILE)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path / RECIPE_FILE}: it cannot be read ({error}); restore it, or train again.") from error
    if facts["recipe"] not in TASKS:
        raise UserError(
            f"{path}: its recipe {facts['recipe']!r} is none of {', '.join(TASKS)}; predict with that recipe's "
            "--do_predict."
        )
    has_weights = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))
    if not has_weights and find_unmerged_adapter(path) is None:
        model = facts.get("base_model")
        raise UserError(
            f"{path}: this run trained no model, it has none to predict with; give the directory of the one that it "
            f"used ({model})."
        )
    tokenizer = _load(AutoTokenizer.from_pretrained, path)
    tokenizer.padding_side = "right"
    return TASKS[facts["recipe"]](facts, tokenizer)


def _refuse_other_directories(name: str, path: Path) -> None:
    if not path.is_dir():
        if not path.exists() and name.count("/") == 1 and name[0] not in "./~":
            raise UserError(
                f"{name}: no such directory; of a model on the hub, download all files first "
                f"(hf download {name} --local-dir my_model), then give my_model."
            )
        what = "a file" if path.exists() else "no such directory"
        raise UserError(f"{name}: {what}; give the output_dir of a finished run.")
    if (path / RECIPE_FILE).is_file() and (path / METRICS_FILE).is_file():
        return
    if (path / "adapter_config.json").is_file() and not (path / "trainer_state.json").is_file():
        above = f" ({path.parent})" if path.name == ADAPTER_DIRECTORY else ""
        raise UserError(f"{name}: an adapter alone, without its run; give the output_dir of the run{above}.")
    if (path / "trainer_state.json").is_file():
        raise UserError(
            f"{name}: a checkpoint of a run; give the output_dir of the run when it is finished ({path.parent})."
        )
    if (path / CONFIG_FILE).is_file():
        raise UserError(f"{name}: the run is not finished; the same command goes on with it.")
    raise UserError(f"{name}: not the output_dir of a run, it has no {RECIPE_FILE} and {METRICS_FILE}; give one.")


def _load(loader: Callable, path: Path, **settings):
    try:
        return loader(path, **settings)
    except UserError:
        raise
    except (*HUB_ERRORS, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: it cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def load_predictor(
    directory: str | Path, batch_size: int = BATCH_SIZE, dtype: str | torch.dtype = "float32"
) -> "Predictor":
    """The model of a result directory, ready to predict, on the accelerator where there is one."""
    search_as_usual()
    return Predictor(load_task(directory), directory, batch_size, dtype)


class Predictor:
    """A task with its model. `dtype` is that of the weights: bfloat16 takes half the memory, and rounds."""

    def __init__(self, task, directory: str | Path, batch_size: int = BATCH_SIZE, dtype: str | torch.dtype = "float32"):
        self.task, self.batch_size = task, batch_size
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        model = _load(lambda path: load_result(task.model_class, path, dtype=dtype), Path(directory).expanduser())
        self.model = model.eval().to(choose_device())

    def predict(self, inputs: Iterable[dict | list | str], on_error: str = "stop") -> list[dict]:
        """A row for each input, in their order, as the recipe writes it to predictions_<split>.jsonl.

        An input is a row as the recipe reads it or, where that says all, a text. Labels are not looked at. Inputs that
        cannot be predicted are listed in a UserError or, with `on_error` keep, get {"id": ..., "error": ...}.
        """
        if isinstance(inputs, dict | str):
            raise UserError(f"predict takes a list of inputs, not {str(inputs)[:60]!r}; put it in [ ].")
        items = [(f"input {number}", item) for number, item in enumerate(inputs)]
        check_inputs(items, self.task, on_error)
        return list(self.predict_inputs(read_inputs(items, self.task)))

    def predict_inputs(
        self, inputs: Iterable[Input], report: Callable[[float], None] = lambda rows: None
    ) -> Iterator[dict]:
        """Yield a row for each input that was read; `report(rows)` is told how many rows more are predicted."""
        inputs = iter(inputs)
        while chunk := list(itertools.islice(inputs, CHUNK)):
            rows = [{"id": row.id, **row.values} for row in chunk if row.fault is None]
            report(len(chunk) - len(rows))
            predicted = iter(self.task.predict(rows, _Compute(self, len(rows), report)) if rows else [])
            for row in chunk:
                yield next(predicted) if row.fault is None else make_error_row(row.id, row.fault)


def make_error_row(row_id: str, fault: Fault) -> dict:
    """The row of an input that cannot be predicted."""
    return {"id": row_id, "error": f"{fault.place}: {fault.text}"}


class _Compute:
    """Runs the model over the windows of a chunk, those of similar length together; see `common.predictors`."""

    def __init__(self, predictor: Predictor, rows: int, report: Callable[[float], None]):
        self.predictor, self.rows, self.report = predictor, rows, report

    def __call__(self, windows: dict[str, list], function: Callable) -> list[tuple[np.ndarray, ...]]:
        model, tokenizer = self.predictor.model, self.predictor.task.tokenizer
        names = [name for name in (*tokenizer.model_input_names, "labels") if name in windows]
        collate = DataCollatorWithPadding(tokenizer)
        lengths = np.array([len(ids) for ids in windows["input_ids"]])
        order = np.argsort(-lengths, kind="stable")  # the longest first: too large a batch fails at once
        results = [None] * len(order)
        for places in cut_batches(lengths[order][:, None], self.predictor.batch_size):
            chosen = order[places].tolist()
            batch = collate([{name: windows[name][index] for name in names} for index in chosen])
            with torch.no_grad():
                outputs = function(model, {name: values.to(model.device) for name, values in batch.items()})
            for index, *values in zip(chosen, *(part.cpu().numpy() for part in outputs), strict=True):
                results[index] = tuple(values)
            self.report(self.rows * len(chosen) / len(order))
        return results
