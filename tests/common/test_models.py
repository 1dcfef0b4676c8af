import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from common.arguments import ModelArguments, TrainingArguments
from common.errors import UserError
from common.models import choose_max_length, find_trained_labels, load_config, load_model, load_tokenizer

import pytest
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-GPE", "I-GPE", "B-ART", "I-ART", "B-X", "I-X"]
TAGGER, CLASSIFIER = AutoModelForTokenClassification, AutoModelForSequenceClassification


def build_tokenizer(max_length: int | None = None) -> PreTrainedTokenizerFast:
    """Five words, and [CLS] and [SEP] round a text."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **tokens, **({} if max_length is None else {"model_max_length": max_length})
    )


def build_model(class_name: str, **config) -> transformers.PreTrainedModel:
    """A small model with its weights drawn wide enough to be told from new ones, biases too."""
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """base: BERT without a head, in half precision. tagger: BERT with LABELS. Others: one of each architecture."""
    directory = tmp_path_factory.mktemp("checkpoints")
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: number for number, name in enumerate(LABELS)}}
    tiny = {"vocab_size": 50, "max_position_embeddings": 64}
    models = {
        "base": build_model("BertForMaskedLM", **SIZES).half(),
        "tagger": build_model("BertForTokenClassification", **SIZES, **labels),
        "classifier": build_model("RobertaForSequenceClassification", **SIZES, num_labels=3),
        "roberta": build_model("RobertaForMaskedLM", **SIZES),
        "distilbert": build_model("DistilBertForMaskedLM", **tiny, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    }
    for name, model in models.items():
        model.save_pretrained(directory / name)
        build_tokenizer().save_pretrained(directory / name)
    return directory


@pytest.fixture
def training_args(tmp_path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "run"), dtype="float32", use_cpu=True, do_train=True)


def load(model_class, path: Path, training_args, label_names=None, task_type=None, **model_args):
    model_args = ModelArguments(model_name_or_path=str(path), **model_args)
    config = AutoConfig.from_pretrained(path)
    return load_model(model_class, model_args, training_args, config, label_names, task_type)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def copy_checkpoint(checkpoints: Path, name: str, target: Path, *left_out: str) -> Path:
    shutil.copytree(checkpoints / name, target, ignore=shutil.ignore_patterns(*left_out))
    return target


# Dtype


def test_a_checkpoint_in_half_precision_is_trained_in_float32(checkpoints, training_args):
    saved = read_weights(checkpoints / "base")
    assert {weight.dtype for weight in saved.values()} == {torch.float16}
    model = load(TAGGER, checkpoints / "base", training_args, ["O", "B-X", "I-X"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    compared = 0
    for name, weight in model.bert.state_dict().items():
        assert torch.equal(weight, saved[f"bert.{name}"].float()), name
        compared += 1
    assert compared > 3 * 10


# Labels and head


def test_label_names_are_saved_in_their_order(checkpoints, training_args, tmp_path):
    """More than ten: as text, "10" sorts before "2"."""
    model = load(TAGGER, checkpoints / "base", training_args, LABELS)
    model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["id2label"] == {str(number): name for number, name in enumerate(LABELS)}
    assert written["label2id"] == {name: number for number, name in enumerate(LABELS)}
    loaded = AutoConfig.from_pretrained(tmp_path / "saved")
    assert loaded.num_labels == 13 == model.classifier.out_features
    assert find_trained_labels(loaded, TAGGER) == LABELS


def test_a_base_checkpoint_and_one_with_another_head_have_no_trained_labels(checkpoints):
    assert find_trained_labels(AutoConfig.from_pretrained(checkpoints / "base"), TAGGER) is None
    assert find_trained_labels(AutoConfig.from_pretrained(checkpoints / "classifier"), TAGGER) is None
    assert find_trained_labels(AutoConfig.from_pretrained(checkpoints / "tagger"), CLASSIFIER) is None
    assert find_trained_labels(transformers.BertConfig(), TAGGER) is None
    names = find_trained_labels(AutoConfig.from_pretrained(checkpoints / "classifier"), CLASSIFIER)
    assert names == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_a_head_with_the_same_labels_is_kept(checkpoints, training_args, capsys):
    saved = read_weights(checkpoints / "tagger")
    model = load(TAGGER, checkpoints / "tagger", training_args, LABELS)
    weights = model.state_dict()
    assert set(saved) == set(weights)
    assert all(torch.equal(weights[name], weight) for name, weight in saved.items())
    assert "starts anew" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "label_names",
    [
        [*LABELS[:1], *LABELS[3:], *LABELS[1:3]],  # the same in another order
        [*LABELS[:-1], "I-Y"],
        ["O", "B-PER", "I-PER"],
    ],
)
def test_a_head_with_other_labels_starts_anew_and_that_is_said(checkpoints, training_args, label_names, capsys):
    saved = read_weights(checkpoints / "tagger")
    model = load(TAGGER, checkpoints / "tagger", training_args, label_names)
    assert model.classifier.weight.shape == (len(label_names), 16)
    assert 0.01 < model.classifier.weight.std() < 0.04  # new weights have 0.02, those of the checkpoint 0.5
    assert (model.classifier.bias == 0).all()
    body = model.bert.state_dict()
    assert all(torch.equal(weight, saved[f"bert.{name}"]) for name, weight in body.items())
    assert [model.config.id2label[number] for number in range(len(label_names))] == label_names
    assert "starts anew" in capsys.readouterr().out


def test_every_layer_of_a_deep_head_starts_anew(checkpoints, training_args):
    model = load(CLASSIFIER, checkpoints / "classifier", training_args, ["bad", "so-so", "good"])
    for layer in (model.classifier.dense, model.classifier.out_proj):
        assert layer.weight.std() < 0.1 and (layer.bias == 0).all()
    saved = read_weights(checkpoints / "classifier")
    name = "roberta.encoder.layer.2.output.dense.weight"
    assert torch.equal(model.state_dict()[name], saved[name])


def test_without_training_the_outputs_of_a_head_are_renamed_and_its_weights_kept(checkpoints, training_args):
    """LABEL_0 ... are the names of a head that nobody named; anew it would predict at random."""
    training_args.do_train = False
    saved = read_weights(checkpoints / "classifier")
    model = load(CLASSIFIER, checkpoints / "classifier", training_args, ["bad", "so-so", "good"])
    assert model.config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in saved.items())


def test_without_training_a_head_with_another_number_of_labels_is_refused(checkpoints, training_args):
    training_args.do_train = False
    error_of(load, TAGGER, checkpoints / "tagger", training_args, ["O", "B-PER", "I-PER"])


def test_a_head_without_label_names_is_kept(checkpoints, training_args, tmp_path):
    reader = build_model("BertForQuestionAnswering", **SIZES)
    reader.save_pretrained(tmp_path / "reader")
    model = load(AutoModelForQuestionAnswering, tmp_path / "reader", training_args)
    assert torch.equal(model.qa_outputs.weight, reader.qa_outputs.weight)


def test_a_model_from_scratch_has_the_labels_in_float32(training_args):
    model_args = ModelArguments(from_scratch="encoder_tiny")
    config = load_config(model_args, build_tokenizer())
    model = load_model(TAGGER, model_args, training_args, config, ["O", "B-X", "I-X"])
    assert model.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    assert model.classifier.out_features == 3 and {p.dtype for p in model.parameters()} == {torch.float32}


# Lengths


def test_the_default_length_is_what_the_model_takes_but_at_most_512():
    bert = transformers.BertConfig
    assert choose_max_length(None, bert(max_position_embeddings=64), build_tokenizer()) == 64
    assert choose_max_length(None, bert(max_position_embeddings=8192), build_tokenizer()) == 512
    assert choose_max_length(None, bert(max_position_embeddings=8192), build_tokenizer(128)) == 128
    assert choose_max_length(None, transformers.T5Config(), build_tokenizer()) == 512


def test_a_length_that_the_model_takes_is_kept():
    config = transformers.BertConfig(max_position_embeddings=8192)
    assert choose_max_length(8192, config, build_tokenizer()) == 8192
    assert choose_max_length(4, config, build_tokenizer()) == 4  # two special tokens and two pieces
    assert choose_max_length(100_000, transformers.T5Config(), build_tokenizer()) == 100_000


def test_a_length_that_is_too_long_is_refused_with_the_longest_one():
    config = transformers.BertConfig(max_position_embeddings=64)
    expected = "max_seq_length is 65, but the model takes 64 pieces: set it to 64 or less."
    assert error_of(choose_max_length, 65, config, build_tokenizer()) == expected
    assert "takes 32 pieces" in error_of(choose_max_length, 64, config, build_tokenizer(32))


@pytest.mark.parametrize("wanted", [3, 0, -1])
def test_a_length_that_holds_no_word_is_refused_with_the_shortest_one(wanted):
    expected = f"max_seq_length is {wanted}: it must be at least 4 to hold a word."
    assert error_of(choose_max_length, wanted, transformers.BertConfig(), build_tokenizer()) == expected


def test_roberta_loses_two_positions():
    config = transformers.RobertaConfig(max_position_embeddings=514)
    assert choose_max_length(None, config, build_tokenizer()) == 512
    assert choose_max_length(512, config, build_tokenizer()) == 512
    assert "set it to 512 or less" in error_of(choose_max_length, 513, config, build_tokenizer())


@pytest.mark.parametrize(
    "model_type",
    [
        "albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ibert", "longformer", "mpnet",
        "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    ],
)  # fmt: skip
def test_the_longest_input_is_the_longest_that_the_model_really_takes(model_type):
    config = AutoConfig.for_model(
        model_type, **SIZES | {"max_position_embeddings": 24}, embedding_size=16, dim=16, n_layers=1, n_heads=2,
        hidden_dim=16, attention_window=[4, 4, 4], default_language="en_XX", languages=["en_XX"],
    )  # fmt: skip
    model = transformers.AutoModel.from_config(config).eval()

    def takes(length: int) -> bool:
        input_ids = torch.full((1, length), 7)
        try:
            model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
        except (IndexError, RuntimeError):
            return False
        return True

    longest = max(length for length in range(18, 26) if takes(length))
    assert longest in (22, 24)
    assert choose_max_length(None, config, build_tokenizer()) == longest


# What cannot be loaded


def test_the_home_directory_may_be_written_as_a_tilde(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    copy_checkpoint(checkpoints, "base", tmp_path / "model")
    assert load_config(ModelArguments(model_name_or_path="~/model"), None).hidden_size == 16
    assert str(tmp_path / "nope") in error_of(ModelArguments, model_name_or_path="~/nope")


def test_without_network_a_hub_model_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = error_of(load_config, ModelArguments(model_name_or_path="nobody/no-such-model"), None)
    assert message.startswith("nobody/no-such-model: the model cannot be loaded")
    assert "hub id" in message and "from_scratch" in message


def test_a_pickle_is_refused_unless_allowed(checkpoints, training_args, tmp_path):
    path = copy_checkpoint(checkpoints, "tagger", tmp_path / "pickle", "model.safetensors")
    saved = read_weights(checkpoints / "tagger")
    torch.save(saved, path / "pytorch_model.bin")
    message = error_of(load, TAGGER, path, training_args, LABELS)
    assert message.startswith(f"{path}: ") and "set allow_pickle to load pytorch_model.bin" in message
    model = load(TAGGER, path, training_args, LABELS, allow_pickle=True)
    assert torch.equal(model.classifier.weight, saved["classifier.weight"])


def test_safetensors_are_taken_even_where_a_pickle_is_allowed(checkpoints, training_args, tmp_path):
    path = copy_checkpoint(checkpoints, "tagger", tmp_path / "both")
    (path / "pytorch_model.bin").write_bytes(b"no pickle")
    model = load(TAGGER, path, training_args, LABELS, allow_pickle=True)
    assert torch.equal(model.classifier.weight, read_weights(path)["classifier.weight"])


def test_a_directory_without_weights_is_not_told_to_allow_a_pickle(checkpoints, training_args, tmp_path):
    path = copy_checkpoint(checkpoints, "tagger", tmp_path / "empty", "model.safetensors")
    message = error_of(load, TAGGER, path, training_args, LABELS)
    assert message.startswith(f"{path}: ") and "allow_pickle" not in message


def test_damaged_weights_are_refused_by_name(checkpoints, training_args, tmp_path):
    path = copy_checkpoint(checkpoints, "tagger", tmp_path / "cut")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert error_of(load, TAGGER, path, training_args, LABELS).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [None, "{", "{}", '{"model_type": "no-such-type"}'])
def test_a_directory_that_holds_no_model_is_refused_by_name(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    message = error_of(load_config, ModelArguments(model_name_or_path=str(tmp_path)), None)
    assert message.startswith(f"{tmp_path}: ")


def test_a_model_without_a_tokenizer_is_refused(checkpoints, tmp_path):
    """transformers 5.23 makes one without any words instead, and every word of the data is unknown."""
    path = copy_checkpoint(checkpoints, "base", tmp_path / "bare", "tokenizer*", "special_tokens_map.json")
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    message = error_of(load_tokenizer, ModelArguments(model_name_or_path=str(path)))
    assert message.startswith(f"{path}: ") and "tokenizer" in message


def test_another_tokenizer_may_be_named(checkpoints, tmp_path):
    path = copy_checkpoint(checkpoints, "base", tmp_path / "bare", "tokenizer*", "special_tokens_map.json")
    arguments = ModelArguments(model_name_or_path=str(path), tokenizer_name_or_path=str(checkpoints / "tagger"))
    assert load_tokenizer(arguments)("a b x")["input_ids"] == [2, 4, 5, 1, 3]


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> Iterator[Path]:
    """A model and tokenizer that bring their own code, which leaves a mark where it is run."""
    path = tmp_path / "foreign"
    path.mkdir()
    (path / "foreign_code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedConfig, PreTrainedTokenizerFast\n"
        f"Path({str(tmp_path / 'marker')!r}).touch()\n"
        "class ForeignConfig(PreTrainedConfig):\n    model_type = 'foreign'\n"
        "class ForeignTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    auto_map = {"AutoConfig": "foreign_code.ForeignConfig"}
    (path / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": auto_map}))
    build_tokenizer().save_pretrained(path)
    tokenizer_config = json.loads((path / "tokenizer_config.json").read_text())
    tokenizer_config["auto_map"] = {"AutoTokenizer": [None, "foreign_code.ForeignTokenizer"]}
    tokenizer_config["tokenizer_class"] = "ForeignTokenizer"
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    loaded = set(sys.modules)
    yield path
    # Left there, a file written during this process would keep later tests from caching what they prepare.
    for name in set(sys.modules) - loaded:
        if name.startswith("transformers_modules"):
            del sys.modules[name]


@pytest.mark.parametrize("loader", [load_config, load_tokenizer])
def test_code_that_a_model_brings_is_not_run(loader, foreign):
    arguments = ModelArguments(model_name_or_path=str(foreign))
    message = error_of(loader, arguments, *([None] if loader is load_config else []))
    assert message.startswith(f"{foreign}: the model brings its own Python code")
    assert "set trust_remote_code" in message and "model_revision" in message
    assert not (foreign.parent / "marker").exists()


def test_code_that_a_model_brings_is_run_where_it_is_trusted(foreign):
    config = load_config(ModelArguments(model_name_or_path=str(foreign), trust_remote_code=True), None)
    assert type(config).__name__ == "ForeignConfig"
    assert (foreign.parent / "marker").exists()


def test_code_beside_a_known_architecture_is_left_alone(checkpoints, training_args, tmp_path):
    path = copy_checkpoint(checkpoints, "tagger", tmp_path / "mixed")
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.C", "AutoModelForTokenClassification": "code.M"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "code.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'marker')!r}).touch()\n")
    config = load_config(ModelArguments(model_name_or_path=str(path)), None)
    model = load_model(TAGGER, ModelArguments(model_name_or_path=str(path)), training_args, config, LABELS)
    assert type(model).__name__ == "BertForTokenClassification"
    assert not (tmp_path / "marker").exists()


# LoRA


def list_trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("model_class", "checkpoint", "targets"),
    [
        (TAGGER, "base", None),
        (TAGGER, "base", ["all-linear"]),
        (TAGGER, "base", ["query", "key", "value"]),
        (CLASSIFIER, "roberta", None),
        (CLASSIFIER, "roberta", ["all-linear"]),
        (CLASSIFIER, "distilbert", ["all-linear"]),
    ],
)
def test_adapter_and_whole_head_are_trained_and_nothing_else(
    checkpoints, training_args, model_class, checkpoint, targets
):
    model = load(
        model_class, checkpoints / checkpoint, training_args, ["a", "b", "c"],
        task_type="TOKEN_CLS" if model_class is TAGGER else "SEQ_CLS", use_peft=True, target_modules=targets,
    )  # fmt: skip
    bare = load(model_class, checkpoints / checkpoint, training_args, ["a", "b", "c"])
    head = {name for name, _ in bare.named_parameters() if not name.startswith(f"{bare.base_model_prefix}.")}
    trained = list_trainable(model)
    prefix = "base_model.model."
    adapter = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    assert all(name.startswith(f"{prefix}{bare.base_model_prefix}.") for name in adapter)
    others = {name.removeprefix(prefix).replace("modules_to_save.default.", "") for name in set(trained) - adapter}
    assert others == head and head
    modules = {name.split(".lora_")[0].removeprefix(prefix) for name in adapter}
    expected = {None: ("query", "value"), "all-linear": None}.get(targets and targets[0], targets)
    body = {name for name, module in bare.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    body = {name for name in body if expected is None or name.endswith(tuple(expected))}
    assert modules == {f"{bare.base_model_prefix}.{name}" for name in body} and body


@pytest.mark.parametrize(("dtype", "frozen"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_adapter_and_head_are_float32_and_the_frozen_weights_what_is_computed_in(checkpoints, tmp_path, dtype, frozen):
    training_args = TrainingArguments(output_dir=str(tmp_path / "run"), dtype=dtype, use_cpu=True, do_train=True)
    model = load(TAGGER, checkpoints / "tagger", training_args, LABELS, "TOKEN_CLS", use_peft=True)
    assert {parameter.dtype for parameter in list_trainable(model).values()} == {torch.float32}
    body = {p.dtype for name, p in model.named_parameters() if not p.requires_grad and "original_module" not in name}
    assert body == {frozen}
    batch = torch.tensor([[2, 4, 5, 3]])
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
    logits.float().logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in list_trainable(model).values())
    assert not [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]


def test_an_adapter_starts_as_the_checkpoint_with_its_head(checkpoints, training_args):
    adapted = load(TAGGER, checkpoints / "tagger", training_args, LABELS, "TOKEN_CLS", use_peft=True).eval()
    whole = load(TAGGER, checkpoints / "tagger", training_args, LABELS).eval()
    batch = torch.tensor([[2, 4, 5, 6, 3]])
    torch.testing.assert_close(adapted(input_ids=batch).logits, whole(input_ids=batch).logits)


def test_merged_weights_keep_labels_and_outputs(checkpoints, training_args, tmp_path):
    adapted = load(TAGGER, checkpoints / "base", training_args, LABELS, "TOKEN_CLS", use_peft=True).eval()
    batch = torch.tensor([[2, 4, 5, 6, 3]])
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    expected = adapted(input_ids=batch).logits
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded = TAGGER.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(loaded(input_ids=batch).logits, expected, rtol=1e-4, atol=1e-4)
    assert find_trained_labels(loaded.config, TAGGER) == LABELS


def test_size_and_scale_of_the_adapter_are_those_of_the_arguments(checkpoints, training_args):
    model = load(
        TAGGER, checkpoints / "base", training_args, LABELS, "TOKEN_CLS",
        use_peft=True, lora_r=4, lora_alpha=12, lora_dropout=0.25,
    )  # fmt: skip
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (4, 16)
    assert layer.scaling["default"] == 3 and layer.lora_dropout["default"].p == 0.25


def test_an_architecture_for_which_peft_has_no_choice_gets_an_adapter_in_all_linear_layers(checkpoints, training_args):
    model = load(TAGGER, checkpoints / "distilbert", training_args, LABELS, "TOKEN_CLS", use_peft=True)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in list_trainable(model) if ".lora_A." in name}
    assert adapted == {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}
    assert [name for name in list_trainable(model) if "lora" not in name and "classifier" not in name] == []


def test_target_modules_that_the_model_lacks_are_refused_with_the_cure(checkpoints, training_args):
    message = error_of(
        load, TAGGER, checkpoints / "base", training_args, LABELS, "TOKEN_CLS",
        use_peft=True, target_modules=["q_proj"],
    )  # fmt: skip
    assert "q_proj" in message and "target_modules" in message
