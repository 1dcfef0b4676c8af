"""What a linear model reaches on the same rows in seconds: the least that a fine-tuned model has to beat."""

from collections.abc import Sequence

from common.calibration import make_default_calibration
from common.classification import make_labels, score_rows
from common.console import say

import numpy as np
from datasets import DatasetDict
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

CERTAIN = 30.0  # a logit beyond doubt


def score_linear_baseline(
    splits: DatasetDict, label_names: Sequence[str], is_multi_label: bool, class_weight: str | None, loss
) -> dict[str, dict[str, float]]:
    """The scores of logistic regression over TF-IDF, for each split but train; {} without training rows.

    Its features are words with their pairs and, since Chinese has no spaces, runs of 1 to 3 characters in words.
    """
    if "train" not in splits:
        return {}
    labels = make_labels(splits["train"], len(label_names), is_multi_label)
    # Nothing is learnt of a class that all rows have, or none: it is given to all, or to none.
    constant = np.full(len(label_names), -CERTAIN)
    varying = np.arange(len(label_names))
    if is_multi_label:
        constant[labels.all(0)] = CERTAIN
        varying = np.flatnonzero(labels.any(0) & ~labels.all(0))
        labels = labels[:, varying]
    if len(varying) == 0 or (not is_multi_label and len(set(labels.tolist())) < 2):
        say("No linear baseline: the training rows have one class only.")
        return {}
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True, max_features=200_000),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), sublinear_tf=True, max_features=200_000),
    )
    regression = LogisticRegression(C=10.0, max_iter=1000, class_weight=class_weight)
    model = make_pipeline(features, OneVsRestClassifier(regression) if is_multi_label else regression)
    model.fit(_join_pairs(splits["train"]), labels)
    calibration = make_default_calibration(len(label_names), is_multi_label)
    scores = {}
    for split, rows in splits.items():
        if split != "train":
            logits = np.tile(constant, (len(rows), 1))
            found = model.decision_function(_join_pairs(rows))
            if is_multi_label:
                logits[:, varying] = found if found.ndim == 2 else found[:, None]
            elif found.ndim == 1:
                logits[:, model.classes_] = np.stack([-found / 2, found / 2], axis=1)
            else:
                logits[:, model.classes_] = found
            scores[split] = score_rows(logits, rows, label_names, calibration, loss)
    return scores


def _join_pairs(rows) -> list[str]:
    pairs = zip(rows["text"], rows["text_pair"], strict=True)
    return [text if pair is None else f"{text} \n {pair}" for text, pair in pairs]
