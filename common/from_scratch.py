"""Models without pretraining: a tokenizer learnt from the training texts and a small model of a named preset.

They are what the demos and the tests run on, since they need no download, and a baseline that shows what pretraining
buys.
"""

from collections.abc import Iterable

from common.errors import UserError

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import WordPiece
from transformers import BertConfig, PreTrainedConfig, PreTrainedTokenizerFast

MAX_POSITIONS = 512
ENCODER_PRESETS = {
    "encoder_tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "encoder_small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
}
SPECIAL_TOKENS = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip


def train_encoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A cased WordPiece tokenizer learnt from `texts`; each Chinese character is a word of its own, as in BERT.

    The same texts give the same tokenizer in every process and at every resume.
    """
    texts = list(texts)
    normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    # The trainer numbers the pieces "##x" in the order of a hash table that changes from call to call, and later breaks
    # ties by these numbers. Named beforehand they keep the order given here.
    continuations = sorted({f"##{character}" for word in words for character in word[1:]})
    special_tokens = list(SPECIAL_TOKENS.values())
    smallest = len(special_tokens) + len(continuations) + len({word[0] for word in words})
    if vocab_size < smallest:
        raise UserError(f"vocab_size is {vocab_size}: the texts need {smallest} for single characters; set it higher.")
    learner = Tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    learner.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=special_tokens + continuations,
            show_progress=False,
        ),
    )
    # A second tokenizer of the same vocabulary, in which the pieces "##x" are not special.
    tokenizer = Tokenizer(WordPiece(vocab=learner.get_vocab(), unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = (SPECIAL_TOKENS[name] for name in ("cls_token", "sep_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_POSITIONS,
        # With the segments, which this class leaves out: without them a BERT cannot tell the texts of a pair apart.
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL_TOKENS,
    )


def build_encoder_config(preset: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The configuration of a BERT of the preset's size for `tokenizer`."""
    if preset not in ENCODER_PRESETS:
        raise UserError(f"from_scratch must be one of {', '.join(ENCODER_PRESETS)}, not {preset!r}.")
    return BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=MAX_POSITIONS,
        **ENCODER_PRESETS[preset],
    )
