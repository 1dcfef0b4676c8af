import random
from collections import Counter

from common.arguments import Seq2SeqTrainingArguments, TrainingArguments
from common.errors import UserError
from common.from_scratch import train_decoder_tokenizer
from common.losses import CrossEntropy
from common.packing import (
    DialogueCollator,
    WindowCollator,
    describe_packing,
    fill_bins,
    find_first_position,
    pack_rows,
    refuse_mixing,
)
from common.trainers import CausalTrainer, Trainer

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedModel,
    Qwen2Config,
    XLMRobertaConfig,
)

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PIECES = {"vocab_size": 90, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, **PIECES, num_key_value_heads=1),
    "qwen2": lambda: Qwen2Config(**SIZES, **PIECES, num_key_value_heads=2),
    "gpt2": lambda: GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **PIECES
    ),
    "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=2, **PIECES),
    "mamba": lambda: MambaConfig(hidden_size=32, num_hidden_layers=2, **PIECES),
}
LENGTHS = [9, 4, 13, 6, 2, 7, 5]
LONGEST = 16


@pytest.fixture(scope="module")
def tokenizer():
    return train_decoder_tokenizer(["hi"], vocab_size=300)


def build_model(name: str, attn_implementation: str | None = None) -> PreTrainedModel:
    """A model of two layers, its weights drawn wide enough that whatever it sees shows in its logits."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(
        CONFIGS[name](), attn_implementation=attn_implementation, dtype=torch.float32
    )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_dialogues(lengths=tuple(LENGTHS)) -> Dataset:
    """Pieces drawn at random, of which the last half is learnt."""
    draw = random.Random(2)
    ids = [[draw.randrange(3, 90) for _ in range(length)] for length in lengths]
    labels = [[-100] * (len(row) - len(row) // 2) + row[len(row) - len(row) // 2 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "row": list(range(len(ids)))})


def take_rows(dialogues: Dataset) -> list[dict]:
    """What a collator gets: Trainer takes out the columns that the model does not read."""
    return [dict(row) for row in dialogues.remove_columns("row")]


# Bins


def test_dialogues_go_from_the_longest_on_into_the_bin_that_they_fill_best():
    """Into 10: 7 opens a bin, 6 a second, 4 fills that one, 3 the first, 2 and 1 share a third."""
    bins = list(fill_bins([2, 6, 1, 7, 3, 4], 10))
    assert sorted(bins) == [[0, 2], [1, 5], [3, 4]]


def test_a_bin_is_chosen_by_the_room_that_is_left_and_not_by_its_age():
    """Into 10: 5 and 4 leave 1, 6 leaves 4, 8 leaves 2; then 2 goes to 8, though 6 has room for it as well."""
    bins = list(fill_bins([8, 6, 5, 4, 2], 10))
    assert sorted(map(sorted, bins)) == [[0, 4], [1, 3], [2]]


def fit_best(lengths: list[int], room: int) -> list[int]:
    """The sums of the bins of best-fit decreasing, by looking at every bin for every length."""
    sums: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [number for number, filled in enumerate(sums) if filled + length <= room]
        if fitting:
            sums[max(fitting, key=lambda number: sums[number])] += length
        else:
            sums.append(length)
    return sums


def test_bins_are_those_of_best_fit_decreasing_with_every_row_once():
    draw = random.Random(0)
    for _ in range(200):
        room = draw.randint(1, 60)
        lengths = [draw.randint(1, room) for _ in range(draw.randint(1, 80))]
        bins = list(fill_bins(lengths, room))
        assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
        sums = [sum(lengths[row] for row in members) for members in bins]
        assert max(sums) <= room
        assert Counter(sums) == Counter(fit_best(lengths, room))


def test_a_full_length_has_a_bin_of_its_own():
    assert sorted(fill_bins([5, 5, 5], 5)) == [[0], [1], [2]]


# Packed rows


def test_packed_rows_hold_every_dialogue_whole_with_positions_of_its_own():
    dialogues = make_dialogues()
    packed = pack_rows(dialogues.add_column("is_cut", [False] * len(dialogues)), LONGEST)
    assert set(packed.column_names) == {"input_ids", "labels", "position_ids", "row"}
    assert sorted(number for row in packed for number in row["row"]) == list(range(len(dialogues)))
    found = []
    for row in packed:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= LONGEST
        starts = [place for place, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
            assert row["position_ids"][start:end] == list(range(end - start))
            found.append((row["input_ids"][start:end], row["labels"][start:end]))
    assert sorted(found) == sorted(zip(dialogues["input_ids"], dialogues["labels"], strict=True))
    assert len(packed) == 3  # 46 pieces: 13 + 2, 9 + 7, 6 + 5 + 4


def test_what_packing_saves_is_said():
    packed = pack_rows(make_dialogues(), LONGEST)
    assert describe_packing(packed, 7, LONGEST) == "7 dialogues in 3 rows, 95.8% full"  # 46 of 48


# Batches


def test_dialogues_that_are_not_packed_are_padded_on_the_right_with_a_mask(tokenizer):
    rows = take_rows(make_dialogues((3, 9)))
    batch = DialogueCollator(tokenizer)(rows)
    assert set(batch) == {"input_ids", "labels", "attention_mask"}
    pad = tokenizer.pad_token_id
    for row, ids, labels, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        missing = 9 - len(row["input_ids"])
        assert ids.tolist() == row["input_ids"] + [pad] * missing
        assert labels.tolist() == row["labels"] + [-100] * missing
        assert mask.tolist() == [1] * len(row["input_ids"]) + [0] * missing


PACKED = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, -100, 8, 9], "position_ids": [0, 1, 0, 1, 2]},
    {"input_ids": [3, 4], "labels": [-100, 4], "position_ids": [0, 1]},
]


def to_lists(batch: dict[str, torch.Tensor]) -> dict[str, list]:
    return {name: values.tolist() for name, values in batch.items()}


@pytest.mark.parametrize("attn_implementation", [None, "sdpa", "eager"])
def test_padding_behind_packed_dialogues_is_one_more_of_its_own(tokenizer, attn_implementation):
    pad = tokenizer.pad_token_id
    assert to_lists(DialogueCollator(tokenizer, attn_implementation)(PACKED)) == {
        "input_ids": [[5, 6, 7, 8, 9], [3, 4, pad, pad, pad]],
        "labels": [[-100, 6, -100, 8, 9], [-100, 4, -100, -100, -100]],
        "position_ids": [[0, 1, 0, 1, 2], [0, 1, 0, 1, 2]],
    }


@pytest.mark.parametrize("attn_implementation", ["flash_attention_2", "kernels-community/flash-attn2"])
def test_flash_attention_gets_the_dialogues_of_a_batch_in_a_single_row(tokenizer, attn_implementation):
    assert to_lists(DialogueCollator(tokenizer, attn_implementation)(PACKED)) == {
        "input_ids": [[5, 6, 7, 8, 9, 3, 4]],
        "labels": [[-100, 6, -100, 8, 9, -100, 4]],
        "position_ids": [[0, 1, 0, 1, 2, 0, 1]],
    }


# The promise: no dialogue sees another

MODELS = [(name, attention) for name in ("llama", "qwen2", "gpt2") for attention in ("sdpa", "eager")]


@pytest.mark.parametrize("layout", ["sdpa", "flash"])
@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_packed_dialogues_have_the_logits_that_each_has_alone(tokenizer, name, attention, layout):
    model = build_model(name, attention)
    assert model.config._attn_implementation == attention
    dialogues = make_dialogues()
    alone = {}
    with torch.no_grad():
        for ids in dialogues["input_ids"]:
            alone[tuple(ids)] = model(input_ids=torch.tensor([ids])).logits[0]
        packed = take_rows(pack_rows(dialogues, LONGEST))
        batch = DialogueCollator(tokenizer, layout)(packed)
        inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
        logits = model(**inputs, use_cache=False).logits
    rows = zip(batch["input_ids"].tolist(), batch["position_ids"].tolist(), logits, strict=True)
    compared = 0
    for ids, positions, scores in rows:
        starts = [place for place, position in enumerate(positions) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if tuple(ids[start:end]) in alone:  # the padding is not
                expected = alone[tuple(ids[start:end])]
                torch.testing.assert_close(scores[start:end], expected, atol=1e-5, rtol=0)
                compared += 1
    assert compared == len(LENGTHS)


def make_trainer(model, tokenizer, directory) -> CausalTrainer:
    args = Seq2SeqTrainingArguments(
        output_dir=str(directory), use_cpu=True, dtype="float32", report_to=[], disable_tqdm=True
    )
    collator = DialogueCollator(tokenizer, model.config._attn_implementation)
    return CausalTrainer(
        model=model, args=args, processing_class=tokenizer, data_collator=collator,
        compute_loss_func=CrossEntropy(shift=True),
    )  # fmt: skip


def compute_gradients(model, trainer, rows) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = trainer.compute_loss(model.train(), trainer.data_collator(rows))
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_packed_dialogues_have_the_loss_and_the_gradients_of_padded_ones(tokenizer, tmp_path, name, attention):
    """And of one dialogue at a time, by the loss of the model itself."""
    model = build_model(name, attention)
    trainer = make_trainer(model, tokenizer, tmp_path)
    model.config.use_cache = True  # as `use_cache: true` sets it; with a cache a model does not look at the positions
    dialogues = make_dialogues()
    loss, gradients = compute_gradients(model, trainer, take_rows(dialogues))
    packed_loss, packed_gradients = compute_gradients(model, trainer, take_rows(pack_rows(dialogues, LONGEST)))
    total, pieces = 0.0, sum(length // 2 for length in LENGTHS)
    for row in dialogues:
        ids, labels = (torch.tensor([row[column]]) for column in ("input_ids", "labels"))
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * labels[:, 1:].ne(-100).sum().item()
    assert loss == pytest.approx(total / pieces, rel=1e-5) and packed_loss == pytest.approx(loss, rel=1e-5)
    for one, other in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max().item() for gradient in gradients) > 0.01


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_models_that_keep_dialogues_apart_are_accepted_and_left_as_they_were(name, attention, is_training):
    model = build_model(name, attention).train(is_training)
    refuse_mixing(model)
    assert model.training == is_training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("name", "class_name"), [("bloom", "BloomForCausalLM"), ("mamba", "MambaForCausalLM")])
def test_models_that_mix_dialogues_are_refused(name, class_name):
    """Bloom knows distances alone and takes no positions, and Mamba's state runs on from one to the next."""
    model = build_model(name).train()
    with pytest.raises(UserError) as caught:
        refuse_mixing(model)
    assert str(caught.value) == f"packing: in {class_name} packed dialogues see each other; leave packing out."
    assert model.training


def test_a_model_as_it_is_drawn_is_refused_too_where_it_mixes():
    """Its narrow weights make little of what it sees, but more than rounding does."""
    torch.manual_seed(0)
    for name in ("bloom", "mamba"):
        with pytest.raises(UserError):
            refuse_mixing(AutoModelForCausalLM.from_config(CONFIGS[name]()))


# Windows of encoders

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODERS = {
    "bert": BertConfig(**SIZES, **WITHOUT_DROPOUT, vocab_size=90, pad_token_id=0, num_labels=4),
    "distilbert": DistilBertConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=2, dropout=0.0, attention_dropout=0.0, vocab_size=90, num_labels=4
    ),
    "electra": ElectraConfig(**SIZES, **WITHOUT_DROPOUT, vocab_size=90, pad_token_id=0, num_labels=4),
    "xlm-roberta": XLMRobertaConfig(**SIZES, **WITHOUT_DROPOUT, vocab_size=90, pad_token_id=1, num_labels=4),
}


def build_encoder(config, attn_implementation: str | None = "sdpa") -> PreTrainedModel:
    torch.manual_seed(5)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation=attn_implementation)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.float()


def make_windows() -> Dataset:
    """Pieces drawn at random, some of them with one of four labels."""
    draw = random.Random(2)
    ids = [[draw.randrange(3, 90) for _ in range(length)] for length in LENGTHS]
    labels = [[draw.choice([-100, 0, 1, 2, 3]) for _ in row] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "row": list(range(len(ids)))})


def test_a_packed_window_is_masked_from_the_others_and_the_padding(tokenizer):
    batch = WindowCollator(tokenizer, first_position=2)(PACKED)
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [3, 4, pad, pad, pad]]
    assert batch["labels"].tolist() == [[-100, 6, -100, 8, 9], [-100, 4, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[2, 3, 2, 3, 4], [2, 3, 2, 3, 4]]
    two, three = [True, True, False, False, False], [False, False, True, True, True]
    assert batch["attention_mask"].tolist() == [[[two, two, three, three, three]]] * 2


def test_windows_that_are_not_packed_are_padded(tokenizer):
    batch = WindowCollator(tokenizer, 2)(take_rows(make_dialogues((3, 9))))
    assert set(batch) == {"input_ids", "labels", "attention_mask"} and batch["attention_mask"].shape == (2, 9)


@pytest.mark.parametrize("name", ENCODERS)
def test_packed_windows_have_the_logits_loss_and_gradients_of_padded_ones(tokenizer, tmp_path, name):
    model = build_encoder(ENCODERS[name])
    first = find_first_position(model)
    assert first == {"xlm-roberta": 2}.get(name, 0) and model.training
    windows = make_windows()
    rows, packed = take_rows(windows), take_rows(pack_rows(windows, LONGEST))
    tokenizer.pad_token_id = model.config.pad_token_id
    collate = WindowCollator(tokenizer, first)
    batch = collate(packed)
    model.eval()
    with torch.no_grad():
        logits = model(**{key: values for key, values in batch.items() if key != "labels"}).logits
        alone = {tuple(row["input_ids"]): model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows}
    compared = 0
    for ids, positions, scores in zip(batch["input_ids"].tolist(), batch["position_ids"], logits, strict=True):
        starts = positions.eq(first).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if tuple(ids[start:end]) in alone:
                torch.testing.assert_close(scores[start:end], alone[tuple(ids[start:end])], atol=1e-5, rtol=0)
                compared += 1
    assert compared == len(LENGTHS)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, dtype="float32", report_to=[], disable_tqdm=True)
    trainer = Trainer(
        model=model, args=args, processing_class=tokenizer, data_collator=collate, compute_loss_func=CrossEntropy()
    )
    loss, gradients = compute_gradients(model, trainer, rows)
    packed_loss, packed_gradients = compute_gradients(model, trainer, packed)
    assert packed_loss == pytest.approx(loss, rel=1e-5) and loss > 0.1
    for one, other in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max().item() for gradient in gradients) > 0.01


def test_encoders_that_cannot_keep_windows_apart_are_refused():
    """DeBERTa looks at the distance of pieces, and has no SDPA."""
    config = DebertaV2Config(**SIZES, vocab_size=90, relative_attention=True, pos_att_type=["c2p", "p2c"])
    model = build_encoder(config, None)
    with pytest.raises(
        UserError, match="^packing: encoders are packed with attn_implementation sdpa, and this is eager"
    ):
        find_first_position(model)
    model.config._attn_implementation = "sdpa"  # as a model might claim
    with pytest.raises(UserError, match="^packing: in DebertaV2ForTokenClassification packed windows see each other"):
        find_first_position(model)


def test_packing_windows_needs_the_attention_that_takes_their_mask():
    with pytest.raises(
        UserError, match="^packing: encoders are packed with attn_implementation sdpa, and this is eager"
    ):
        find_first_position(build_encoder(ENCODERS["bert"], "eager"))
