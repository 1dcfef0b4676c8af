"""Hugging Face's Trainers with evaluation in dataset order and a log that people can read."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from common.adapters import (
    compute_orthogonality,
    has_ranks_to_prune,
    hides_state,
    load_hidden_state,
    save_hidden_state,
)
from common.callbacks import AllocateRanks, RunLog
from common.cpu_functions import choose_functions
from common.evaluation_batches import EvaluationBatches
from common.greedy import add_search, generate, has_virtual_tokens
from common.losses import IGNORED, find_learnt, only_learnt_logits, take_learnt
from common.nonfinite import ROW_NUMBER, NonFiniteGuard, collate_numbered
from common.optimization import decays_by_layer, forget_overrides, group_by_rate
from common.resumable import ResumableTrainer
from common.sampling import choose_sampler, draw_block, measure_rows
from common.saving import save_arguments
from common.sharding import divide_untrained_model, prepare_for_generation
from common.streaming import StreamedDataset, StreamedRows
from common.survival import SurvivingTrainer
from common.tracking import place_trackers
from common.upload import create_repository

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import has_length


class RecipeTrainer(ResumableTrainer, SurvivingTrainer):
    """Mixed into a Trainer.

    `train_sampling_strategy: balanced` draws each class as often as any other. `group_by_length` is about the training
    batches only: Trainer groups the evaluation rows as well, and gives their predictions back in that other order
    (transformers 5.23). Here they stay in the order of the evaluation's dataset.
    """

    SIDES = ("input_ids",)  # the columns that batches are padded in

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(RunLog())
        set_pad_token_id(self.model, self.processing_class)
        self.tracked_run = place_trackers(self)
        self.guard = NonFiniteGuard(self, self.args.max_nonfinite_steps)
        self.train_origins = None  # path:line of each training row, told by describe_run
        if has_ranks_to_prune(self.model):
            self.add_callback(AllocateRanks())
        # Tied weights are saved once. Unless these say so, loading the best model warns that the others are missing.
        tied = getattr(self.model, "all_tied_weights_keys", None)
        if tied:
            self.model._keys_to_ignore_on_save = set(tied)

    def _get_train_sampler(self, train_dataset=None):
        train_dataset = self.train_dataset if train_dataset is None else train_dataset
        if not has_length(train_dataset):
            return super()._get_train_sampler(train_dataset)
        sampler = choose_sampler(self.args, train_dataset, self.SIDES, self._train_batch_size)
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    def _draw_block(self, block: Dataset, number: int, before: int) -> Iterable[int]:
        return draw_block(self.args, measure_rows(block, self.SIDES), self._train_batch_size, number, before)

    def get_train_dataloader(self):
        rows, collator = self.train_dataset, self.data_collator
        if not isinstance(rows, Dataset):
            return super().get_train_dataloader()
        self._set_signature_columns_if_needed()
        if ROW_NUMBER not in self._signature_columns:  # training may begin again in this process
            self._signature_columns.append(ROW_NUMBER)
        # Only the batches of training carry the numbers of their rows.
        if isinstance(rows, StreamedDataset):
            self.train_dataset = StreamedRows(rows, self._draw_block)
        else:
            self.train_dataset = rows.add_column(ROW_NUMBER, range(len(rows)))
        self.data_collator = partial(collate_numbered, collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = rows, collator

    def locate_rows(self, numbers: list[int]) -> Iterator[str]:
        """Yield path:line of these training rows, those of each dialogue where several are packed into one row."""
        for number in numbers:
            if isinstance(self.train_dataset, StreamedDataset):
                yield self.train_dataset.locate(number)
                continue
            rows = self.train_dataset[number].get("row", number)
            for row in rows if isinstance(rows, list) else [rows]:
                yield self.train_origins[row] if self.train_origins else f"row {row}"

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.guard.begin_batch(inputs.pop(ROW_NUMBER, None))
        with choose_functions(self.args):
            return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self.guard.check_step(model, grad_norm)
        return grad_norm

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.guard.note_loss(loss)
        if model.training and has_ranks_to_prune(self.model):
            loss = loss + compute_orthogonality(self.model) / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            save_arguments(self.args, Path(output_dir or self.args.output_dir))

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self._hides_state() and self.args.should_save:
            save_hidden_state(self.model, output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not self._hides_state():
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        return load_hidden_state(self.model, resume_from_checkpoint)

    def _load_best_weights(self):
        # Trainer would put the virtual tokens that PEFT has computed in front of the network that computes them.
        if not self._hides_state():
            return super()._load_best_weights()
        return load_hidden_state(self.model, self.state.best_model_checkpoint)

    def _hides_state(self) -> bool:
        """Whether a checkpoint of the adapter would lack what training goes on from; DeepSpeed and FSDP save it all."""
        return hides_state(self.model) and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def create_optimizer(self, model=None):
        forget_overrides()
        if self.optimizer is None and decays_by_layer(self.args):
            trained = self.model if model is None else model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
            groups = group_by_rate(trained, self.args, self.get_decay_parameter_names(trained))
            # Trainer takes these groups for its own, and the rate of the first into its log.
            self.optimizer_cls_and_kwargs = optimizer_class, settings | {"params": groups}
        return super().create_optimizer(model)

    def _get_eval_sampler(self, eval_dataset):
        if not has_length(eval_dataset):
            return None
        # Several processes need as many rows as each other in every batch.
        if isinstance(eval_dataset, Dataset) and self.args.world_size < 2:
            lengths = measure_rows(eval_dataset, self.SIDES)
            if (np.diff(lengths[:, 0]) <= 0).all():  # sorted by sort_for_evaluation
                return EvaluationBatches(lengths, self.args.eval_batch_size, self.count_generated())
        return torch.utils.data.SequentialSampler(eval_dataset)

    def count_generated(self) -> int:
        """The most pieces that an evaluation writes behind those of a row."""
        return 0

    def init_hf_repo(self, token=None, private=None):
        if self.is_world_process_zero():
            self.hub_model_id = create_repository(self.args)
        self.push_in_progress = None

    def push_to_hub(self, *args, **kwargs):
        # Called by save_model, before card and scores are there: what is whole is uploaded by finish_run.
        pass

    def evaluation_loop(self, *args, **kwargs):
        divide_untrained_model(self)
        with self.keep_casts():
            return super().evaluation_loop(*args, **kwargs)

    def keep_casts(self) -> contextlib.AbstractContextManager:
        """Within it a weight is cast to the dtype that is computed in once, not in each batch and for each piece that
        is generated: autocast forgets its casts where the outermost context ends, and each call of the model is one.
        FSDP's weights are divided, and those of a layer whole for as long as it computes: their casts are not kept.
        """
        if self.is_fsdp_enabled:
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, enabled=False)


class Trainer(RecipeTrainer, transformers.Trainer):
    """Hugging Face's Trainer, with predictions in dataset order."""


class Seq2SeqTrainer(RecipeTrainer, transformers.Seq2SeqTrainer):
    """Hugging Face's Seq2SeqTrainer; evaluation gives, for each row once, generated ids and the loss of its target.

    Predictions are (ids [rows, longest], IGNORED behind the end of a text, summed loss [rows]), or the losses alone
    where `predict_with_generate` is off; in place of labels come their numbers, [rows].
    """

    SIDES = ("input_ids", "labels")

    def evaluation_loop(self, *args, **kwargs):
        # evaluate() and predict() have just chosen a gather that keeps the rows that fill up the last batch of several
        # processes, so that there are more predictions than rows (transformers 5.23).
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        inputs = self._prepare_inputs(inputs)
        losses, numbers, loss = inputs["input_ids"].new_zeros(len(inputs["input_ids"]), dtype=torch.float32), None, None
        if "labels" in inputs:
            # The library's own step takes the mean that the model itself computes, over the pieces of this batch.
            with torch.no_grad(), self.compute_loss_context_manager():
                losses, numbers = self.sum_row_losses(model, inputs)
            loss = losses.sum() / numbers.sum().clamp(min=1)
        if prediction_loss_only or not self.args.predict_with_generate:
            return loss, None if prediction_loss_only else losses, numbers
        generated = self.generate_rows(model, inputs, ignore_keys, **gen_kwargs)
        ends = self.model.generation_config.eos_token_id
        is_end = torch.isin(generated, torch.tensor([] if ends is None else ends, device=generated.device))
        # Not by the id of padding: it is that of the end in many models, and beam search fills texts up with ends.
        generated = generated.masked_fill((is_end.cumsum(-1) - is_end.int()) > 0, IGNORED)
        return loss, (generated, losses), numbers

    def count_generated(self) -> int:
        """The most pieces that an evaluation writes for a row; also where it writes none, so that its batches, and so
        the last digits of its loss, are the same."""
        config = self.model.generation_config
        return config.max_new_tokens or config.max_length or 0

    def sum_row_losses(self, model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss of the labels of each row, and their number."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        losses = self.compute_loss_func.per_item(model(**inputs)["logits"], labels)
        return losses.sum(-1), labels.ne(IGNORED).sum(-1)

    def generate_rows(self, model, inputs, ignore_keys=None, **gen_kwargs) -> torch.Tensor:
        """What the model writes for each row, without the piece that starts the decoder."""
        prepare_for_generation(self.model)
        inputs = {name: values for name, values in inputs.items() if name not in ("labels", "decoder_input_ids")}
        settings = add_search(self.model, **(gen_kwargs or getattr(self, "_gen_kwargs", {})))
        # generate() calls the encoder by itself, and Accelerate has only calls of the whole model compute in autocast.
        with contextlib.nullcontext() if self.is_fsdp_enabled else self.accelerator.autocast():
            return super().prediction_step(model, inputs, False, ignore_keys, **settings)[1][:, 1:]


class CausalTrainer(Seq2SeqTrainer):
    """The same for models that go on with their input: a row is a prompt and the reply to it, which are its labels."""

    SIDES = ("input_ids",)  # prompt and reply stand in one row

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # With a cache, which training has no use for, a model does not keep packed dialogues apart.
        inputs = {**inputs, "use_cache": False}
        with self.only_learnt(inputs["labels"]):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def only_learnt(self, labels: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        """What the model computes its logits in: those of what is learnt alone, where their number may vary."""
        if has_virtual_tokens(self.model) or self.args.torch_compile:
            return contextlib.nullcontext()
        return only_learnt_logits(self.model, labels)

    def sum_row_losses(self, model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss of the labels of each row, and their number."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        with self.only_learnt(labels):
            logits = model(**inputs, use_cache=False)["logits"]
        losses = self.compute_loss_func.per_item(*take_learnt(logits, labels))
        is_learnt = find_learnt(labels)
        sums = losses.new_zeros(len(labels)).index_add(0, is_learnt.nonzero()[:, 0], losses)
        return sums, is_learnt.sum(-1)

    def generate_rows(self, model, inputs, ignore_keys=None, **gen_kwargs) -> torch.Tensor:
        """What the model writes behind the prompt of each row."""
        prepare_for_generation(self.model)
        prompts = take_prompts(inputs, self.processing_class.pad_token_id)
        with torch.no_grad(), self.compute_loss_context_manager():
            return generate(self.model, **prompts, **gen_kwargs)


def set_pad_token_id(model, tokenizer) -> None:
    """Give a model that names no piece to fill rows up with that of its tokenizer: decoders look for it in config."""
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None and config.pad_token_id is None and tokenizer is not None:
            config.pad_token_id = tokenizer.pad_token_id


def take_prompts(inputs: dict[str, torch.Tensor], pad_token_id: int) -> dict[str, torch.Tensor]:
    """What stands before the first label of each row, padded on the left, as generation goes on from the right."""
    mask = inputs["attention_mask"].bool() & (inputs["labels"].ne(IGNORED).cumsum(-1) == 0)
    lengths = mask.sum(-1)
    places = torch.arange(int(lengths.max()), device=mask.device) - (lengths.max() - lengths)[:, None]
    ids = inputs["input_ids"].gather(1, places.clamp(min=0)).masked_fill(places < 0, pad_token_id)
    return {"input_ids": ids, "attention_mask": (places >= 0).long()}
