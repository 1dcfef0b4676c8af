"""What every recipe calls and no recipe edits. It never imports a recipe."""

import logging

# Recipes import `common` before the libraries, so that these two messages, which are wrong or useless on every machine
# without a GPU, do not open each run: an optional kernel package, and DeepSpeed's search for an accelerator.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
