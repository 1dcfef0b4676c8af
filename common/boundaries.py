"""The moments between two steps of a training, to which it can go back."""

import random
from typing import NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback


class Boundary(NamedTuple):
    """A moment between two steps, at which weights, optimizer and schedule belong together."""

    step: int
    random_states: tuple
    floating_point_operations: float
    best: tuple  # metric, step and checkpoint of the best model so far


class NoteUpdate(TrainerCallback):
    """Forgets the boundary when the weights begin to change: until the end of the step there is nothing to save."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.boundary = None


def get_random_states() -> tuple:
    """The states of every generator that training draws from."""
    device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), device


def set_random_states(states: tuple) -> None:
    """Go back to what get_random_states gave."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])
