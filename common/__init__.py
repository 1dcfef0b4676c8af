"""What every recipe calls and no recipe edits. It never imports a recipe."""

import logging
import time
import warnings

from common.garbage import search_rarely

search_rarely()  # first of all: the libraries come next
STARTED = time.time()  # what changes on the disk from here on, the process has perhaps not loaded

# Recipes import `common` before the libraries, so that these messages, which are wrong or useless, do not open each
# run: on machines without a GPU an optional kernel package, and DeepSpeed's search for an accelerator; with an adapter
# an attribute of transformers that PEFT (0.21) asks for by its old name.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
