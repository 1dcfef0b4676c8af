"""Entity precision, recall and F1, as seqeval counts them in strict IOB2."""

import datasets
import evaluate
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2

SCORES = {"precision": "precision", "recall": "recall", "f1-score": "f1"}


class EntityMetric(evaluate.Metric):
    """Scores of predicted against gold IOB2 tags: an entity is right when its type and both its ends are.

    `compute(predictions=tags, references=tags)` gives `precision`, `recall` and `f1` over all entities (micro average),
    `f1_macro` over the types, `accuracy` over the words, and for each type `precision_<type>`, `recall_<type>`,
    `f1_<type>` and `support_<type>`, its number of gold entities.
    """

    # Whether the greater one is the better, None where neither is; * stands for each type.
    SCORES = {
        **{"f1": True, "precision": True, "recall": True, "f1_macro": True, "accuracy": True},
        **{"f1_*": True, "precision_*": True, "recall_*": True, "support_*": None},
    }

    def __init__(self, **kwargs):
        # Kept in memory: files of this name in a shared cache would be locked against other runs and processes.
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self):
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="@misc{seqeval, title={seqeval}, author={Hiroki Nakayama}, year={2018}}",
            inputs_description="predictions and references: a list of IOB2 tags for each sentence",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions, references):
        accuracy = float(accuracy_score(references, predictions))
        if all(tag == "O" for tags in (*references, *predictions) for tag in tags):
            # seqeval would divide by the number of types, which is 0.
            return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "f1_macro": 0.0, "accuracy": accuracy}
        report = classification_report(
            references, predictions, output_dict=True, mode="strict", scheme=IOB2, zero_division=0
        )
        micro, macro = report.pop("micro avg"), report.pop("macro avg")
        report.pop("weighted avg")
        scores = {name: float(micro[key]) for key, name in SCORES.items()}
        scores["f1_macro"] = float(macro["f1-score"])
        scores["accuracy"] = accuracy
        for entity_type, values in report.items():
            scores |= {f"{name}_{entity_type}": float(values[key]) for key, name in SCORES.items()}
            scores[f"support_{entity_type}"] = int(values["support"])
        return scores
