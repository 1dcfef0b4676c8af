"""Hugging Face's Trainers with evaluation in dataset order and a log that people can read."""

from common.callbacks import RunLog
from common.errors import UserError
from common.losses import IGNORED
from common.sampling import BalancedSampler, LengthGroupedSampler

import torch
import transformers
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import has_length


class RecipeTrainer:
    """Mixed into a Trainer.

    `train_sampling_strategy: balanced` draws each class as often as any other. `group_by_length` groups the training
    batches only: Trainer groups the evaluation rows as well, and gives their predictions back in that other order
    (transformers 5.23).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(RunLog())
        # Tied weights are saved once. Unless these say so, loading the best model warns that the others are missing.
        tied = getattr(self.model, "all_tied_weights_keys", None)
        if tied:
            self.model._keys_to_ignore_on_save = set(tied)

    def _get_train_sampler(self, train_dataset=None):
        train_dataset = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        if strategy not in ("group_by_length", "balanced") or not has_length(train_dataset):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if strategy == "balanced":
            labels = train_dataset["labels"]
            if len(labels) == 0 or not isinstance(labels[0], int):
                raise UserError("train_sampling_strategy balanced needs one class a row: use class_weights here.")
            return BalancedSampler(labels, seed)
        rows_per_step = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler([self.measure_row(row) for row in train_dataset], rows_per_step, seed)

    def measure_row(self, row: dict) -> int:
        """The pieces that a row fills in a batch, to group rows by."""
        return len(row["input_ids"])

    def _get_eval_sampler(self, eval_dataset):
        return torch.utils.data.SequentialSampler(eval_dataset) if has_length(eval_dataset) else None


class Trainer(RecipeTrainer, transformers.Trainer):
    """Hugging Face's Trainer, with predictions in dataset order."""


class Seq2SeqTrainer(RecipeTrainer, transformers.Seq2SeqTrainer):
    """Hugging Face's Seq2SeqTrainer; evaluation gives, for each row once, generated ids and the loss of its target.

    Predictions are (ids [rows, longest] padded with -100, summed loss [rows]), or the losses alone where
    `predict_with_generate` is off; in place of labels come their numbers, [rows].
    """

    def measure_row(self, row: dict) -> int:
        """The pieces of source and target."""
        return len(row["input_ids"]) + len(row["labels"])

    def evaluation_loop(self, *args, **kwargs):
        # evaluate() and predict() have just chosen a gather that keeps the rows that fill up the last batch of several
        # processes, so that there are more predictions than rows (transformers 5.23).
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels", None)
        decoder_input_ids = inputs.pop("decoder_input_ids", None)
        losses, numbers, loss = inputs["input_ids"].new_zeros(len(inputs["input_ids"]), dtype=torch.float32), None, None
        if labels is not None:
            # The library's own step takes the mean that the model itself computes, over the pieces of this batch.
            with torch.no_grad(), self.compute_loss_context_manager():
                logits = model(**inputs, decoder_input_ids=decoder_input_ids)["logits"]
            losses = self.compute_loss_func.per_item(logits, labels).sum(-1)
            numbers = labels.ne(IGNORED).sum(-1)
            loss = losses.sum() / numbers.sum().clamp(min=1)
        if prediction_loss_only or not self.args.predict_with_generate:
            return loss, None if prediction_loss_only else losses, numbers
        generated = super().prediction_step(model, inputs, False, ignore_keys, **gen_kwargs)[1]
        pad_token_id = self.processing_class.pad_token_id
        return loss, (generated.masked_fill(generated == pad_token_id, IGNORED), losses), numbers
