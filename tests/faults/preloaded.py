"""What the process imports that the others are forked from: all that the six recipes need."""

import os

# Read when the libraries are imported, here: that a run's own environment says so (make_environment) comes too late.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import common.predict  # noqa: F401
import recipes.dialogue.run
import recipes.ner.run
import recipes.qa.run
import recipes.sentiment.run
import recipes.summarization.run
import recipes.translation.run  # noqa: F401
from common.garbage import settle_imports

import matplotlib.pyplot  # noqa: F401

# Else each fork would search and so copy all that it shares with this process.
settle_imports()
