"""Hugging Face's Trainers with evaluation in dataset order and a log that people can read."""

from common.callbacks import RunLog
from common.errors import UserError
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
        return LengthGroupedSampler([len(row["input_ids"]) for row in train_dataset], rows_per_step, seed)

    def _get_eval_sampler(self, eval_dataset):
        return torch.utils.data.SequentialSampler(eval_dataset) if has_length(eval_dataset) else None


class Trainer(RecipeTrainer, transformers.Trainer):
    """Hugging Face's Trainer, with predictions in dataset order."""


class Seq2SeqTrainer(RecipeTrainer, transformers.Seq2SeqTrainer):
    """Hugging Face's Seq2SeqTrainer, with predictions in dataset order."""
