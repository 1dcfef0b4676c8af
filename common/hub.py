"""Datasets from the Hugging Face hub, and its errors; what goes wrong is told in one line that says what to try."""

import re

from common.console import say
from common.errors import UserError
from common.lines import suggest

import datasets
from httpx2 import HTTPError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

# Old names that many scripts and papers still use; the hub wants namespace/name. All of these load without a script.
CANONICAL_IDS = {
    "ag_news": "fancyzhx/ag_news",
    "cmrc2018": "hfl/cmrc2018",
    "cnn_dailymail": "abisee/cnn_dailymail",
    "conll2003": "tomaarsen/conll2003",
    "dialogsum": "knkarthick/dialogsum",
    "emotion": "dair-ai/emotion",
    "glue": "nyu-mll/glue",
    "go_emotions": "google-research-datasets/go_emotions",
    "imdb": "stanfordnlp/imdb",
    "opus100": "Helsinki-NLP/opus-100",
    "opus_books": "Helsinki-NLP/opus_books",
    "rotten_tomatoes": "cornell-movie-review-data/rotten_tomatoes",
    "samsum": "knkarthick/samsum",
    "squad": "rajpurkar/squad",
    "squad_v2": "rajpurkar/squad_v2",
    "sst2": "stanfordnlp/sst2",
    "wmt16": "wmt/wmt16",
    "wmt19": "wmt/wmt19",
    "wnut_17": "flaitenberger/wnut_17",
    "xsum": "EdinburghNLP/xsum",
}
PARQUET_BRANCH = "refs/convert/parquet"  # the hub's own conversion of a dataset, made without its script

# What the hub's client raises where it is not reached, where it refuses, and where an id is none.
HUB_ERRORS = (OSError, HTTPError, HFValidationError)

_LOCAL_FILES = "or use local files (train_file)"


def is_unreachable(error: Exception) -> bool:
    """Whether the hub did not answer at all, or only that it cannot now: later it may."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, HTTPError | OfflineModeIsEnabled | ConnectionError | TimeoutError)


def find_hub_id(name: str) -> str:
    """The namespace/name of a dataset, also for the well-known names that once needed no namespace."""
    if name in CANONICAL_IDS:
        say(f"Dataset {name}: {CANONICAL_IDS[name]} on the hub.")
        return CANONICAL_IDS[name]
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        kind = "is not a directory here and" if "/" in name else "has no namespace and"
        raise UserError(
            f"dataset_name {name!r} {kind} is no hub id{suggest(name, CANONICAL_IDS)}; "
            f"give namespace/name, a directory of data files, {_LOCAL_FILES}."
        )
    return name


def load_hub_dataset(
    hub_id: str, config: str | None, revision: str | None, streaming: bool = False
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Every split of a hub dataset; one that comes as a script is loaded from the hub's parquet copy instead.

    With `streaming` nothing is loaded before its rows are read, and nothing is kept of it.
    """
    try:
        try:
            return datasets.load_dataset(hub_id, config, revision=revision, streaming=streaming)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error) or revision is not None:
                raise
        say(f"Dataset {hub_id} is a script, which datasets no longer runs: loading its {PARQUET_BRANCH} instead.")
        return datasets.load_dataset(hub_id, config, revision=PARQUET_BRANCH, streaming=streaming)
    except (*HUB_ERRORS, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"dataset {hub_id}: {text}; {_find_cure(error, text, revision)}.") from None


def _find_cure(error: Exception, text: str, revision: str | None) -> str:
    if "scripts are no longer supported" in text:
        return f"set dataset_revision to {PARQUET_BRANCH} in place of {revision}, {_LOCAL_FILES}"
    if "BuilderConfig" in text or "Config name is missing" in text:
        return "set dataset_config_name to one of these"
    if isinstance(error, FileNotFoundError):
        return f"check the name and dataset_revision, log in with `hf auth login` if it is private, {_LOCAL_FILES}"
    if isinstance(error, ConnectionError) and "OfflineModeIsEnabled" in text:
        return f"HF_HUB_OFFLINE is set and it was not downloaded before: unset that {_LOCAL_FILES}"
    if is_unreachable(error):
        return f"check the network, set HF_HUB_OFFLINE=1 if it was downloaded before, {_LOCAL_FILES}"
    return f"try another dataset_revision, {_LOCAL_FILES}"
