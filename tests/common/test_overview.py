"""common/overview.py: the numbers of weights on the start screen, counted by hand."""

from common.freezing import freeze_parameters
from common.overview import count_parameters
from tests.small_models import ENCODER, T5, build

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model

TABLES = 50 * 16 + 64 * 16 + 2 * 16 + 2 * 16  # words, positions, segments, a norm
LAYER = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 2 * 16
POOLER, CLASSIFIER = 16 * 16 + 16, 16 * 2 + 2


def test_weights_are_counted_by_group_and_what_is_trained_of_each():
    model = build("BertForSequenceClassification", ENCODER)
    head = POOLER + CLASSIFIER
    expected = {"embeddings": (TABLES, TABLES), "layers": (3 * LAYER, 3 * LAYER), "head": (head, head)}
    assert count_parameters(model) == expected
    freeze_parameters(model, "first_1_layers")
    assert count_parameters(model) == expected | {"embeddings": (0, TABLES), "layers": (2 * LAYER, 3 * LAYER)}


def test_a_tied_lm_head_is_counted_once():
    model = build("T5ForConditionalGeneration", T5)
    counts = count_parameters(model)
    assert list(counts) == ["embeddings", "layers"] and counts["embeddings"] == (50 * 16, 50 * 16)
    assert sum(whole for _, whole in counts.values()) == model.num_parameters()


def test_an_adapter_is_a_group_of_its_own_and_the_copy_of_the_head_is_not_counted():
    model = build("BertForSequenceClassification", ENCODER)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]))
    adapter = 3 * (4 * 16 + 16 * 4)
    assert count_parameters(model) == {
        "embeddings": (0, TABLES),
        "layers": (0, 3 * LAYER),
        "head": (CLASSIFIER, POOLER + CLASSIFIER),
        "adapter": (adapter, adapter),
    }


def test_divided_and_quantized_weights_are_counted_whole():
    """ZeRO 3 leaves an empty tensor in a process; bitsandbytes stores two weights of 4 bits as one number."""
    model = build("BertForSequenceClassification", ENCODER)
    weight = model.classifier.weight
    weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    query = model.bert.encoder.layer[0].attention.self.query
    query.weight = Linear4bit(16, 16, bias=False).to("cpu").weight
    assert query.weight.shape == (128, 1)
    counts = count_parameters(model)
    assert counts["head"] == (POOLER + CLASSIFIER, POOLER + CLASSIFIER)
    assert counts["layers"] == (3 * LAYER - 16 * 16, 3 * LAYER)
