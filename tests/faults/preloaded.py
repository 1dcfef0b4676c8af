"""What the process imports that the others are forked from: all that the six recipes need."""

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
