"""Models without pretraining: a tokenizer learnt from the training texts and a small model of a named preset.

They are what the demos and the tests run on, since they need no download, and a baseline that shows what pretraining
buys.
"""

import json
import re
from collections.abc import Iterable

from common.errors import UserError

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordPiece
from transformers import BertConfig, LlamaConfig, PegasusConfig, PreTrainedConfig, PreTrainedTokenizerFast

MAX_POSITIONS = 512
MAX_PIECES = 1024  # of an encoder-decoder's source and of its target
MAX_CONTEXT = 2048  # of a decoder's dialogue
ENCODER_PRESETS = {
    "encoder_tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "encoder_small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
}
# Pre-norm layers and sinusoidal positions: they learn fast from nothing, and read texts longer than any before.
ENCODER_DECODER_PRESETS = {
    "encoder_decoder_tiny": {"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "ffn": 512, "heads": 4},
    "encoder_decoder_small": {"d_model": 256, "encoder_layers": 3, "decoder_layers": 3, "ffn": 1024, "heads": 4},
}
DECODER_PRESETS = {
    "decoder_tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384},
    "decoder_small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768},
}
PRESETS = {BertConfig: ENCODER_PRESETS, PegasusConfig: ENCODER_DECODER_PRESETS, LlamaConfig: DECODER_PRESETS}
LONGEST_WORD = 10_000  # characters
_ENDLESS = re.compile(rf"\S{{{LONGEST_WORD}}}(?=\S)")
SPECIAL_TOKENS = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip


def train_tokenizer(preset: str, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer learnt from `texts`, of the kind that models of the preset use.

    The same texts give the same tokenizer in every process and at every resume.
    """
    _check_preset(preset)
    if preset in ENCODER_PRESETS:
        return train_encoder_tokenizer(texts, vocab_size)
    if preset in DECODER_PRESETS:
        return train_decoder_tokenizer(texts, vocab_size)
    return train_encoder_decoder_tokenizer(texts, vocab_size)


def build_config(preset: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The configuration of a model of the preset's size for `tokenizer`: a BERT, an encoder-decoder, or a Llama."""
    _check_preset(preset)
    if preset in ENCODER_PRESETS:
        return build_encoder_config(preset, tokenizer)
    if preset in DECODER_PRESETS:
        return build_decoder_config(preset, tokenizer)
    return build_encoder_decoder_config(preset, tokenizer)


def _check_preset(preset: str) -> None:
    names = [name for presets in PRESETS.values() for name in presets]
    if preset not in names:
        raise UserError(f"from_scratch must be one of {', '.join(names)}, not {preset!r}.")


def cut_words(text: str) -> str:
    """The text with its endless words in parts: to learn from a word takes time by the square of its length."""
    return _ENDLESS.sub(r"\g<0> ", text) if len(text) > LONGEST_WORD else text


def train_encoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A cased WordPiece tokenizer learnt from `texts`; each Chinese character is a word of its own, as in BERT."""
    texts = list(map(cut_words, texts))
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
    return BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=MAX_POSITIONS,
        **ENCODER_PRESETS[preset],
    )


def train_encoder_decoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer learnt from the texts of both sides, whose decoding gives a text back as it was.

    Only one space in front of a text is lost. Spaces are written into the pieces; punctuation, digits and Chinese
    characters stand alone; a character that it has not learnt is written in bytes. Every text ends with </s>.
    """
    special_tokens = ["<pad>", "</s>", "<unk>"]
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            # As in BERT: few texts have enough Chinese to learn words from.
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
        ]
    )
    texts = list(map(cut_words, texts))
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    normalizer = normalizers.NFC()
    learner = Tokenizer(BPE(unk_token="<unk>"))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    smallest = len({*special_tokens, *byte_pieces, "▁", *(c for text in texts for c in normalizer.normalize_str(text))})
    if vocab_size < smallest:
        raise UserError(f"vocab_size is {vocab_size}: the texts need {smallest} for single characters; set it higher.")
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=special_tokens + byte_pieces,
            show_progress=False,
        ),
    )
    # A second tokenizer of the same vocabulary and merges, in which the bytes are not special.
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(BPE(vocab=learnt["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_PIECES,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,  # it would take the space before a comma away
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def build_encoder_decoder_config(preset: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The configuration of an encoder-decoder of the preset's size for `tokenizer`."""
    size = ENCODER_DECODER_PRESETS[preset]
    return PegasusConfig(
        vocab_size=len(tokenizer),
        d_model=size["d_model"],
        encoder_layers=size["encoder_layers"],
        decoder_layers=size["decoder_layers"],
        encoder_ffn_dim=size["ffn"],
        decoder_ffn_dim=size["ffn"],
        encoder_attention_heads=size["heads"],
        decoder_attention_heads=size["heads"],
        max_position_embeddings=MAX_PIECES,
        scale_embedding=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )


def train_decoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from `texts`, whose decoding gives every text back byte by byte.

    Digits and Chinese characters stand alone. Beside the end of a text it knows the tokens of ChatML.
    """
    special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}|\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(special_tokens) + len(alphabet)
    if vocab_size < smallest:
        raise UserError(f"vocab_size is {vocab_size}: single bytes need {smallest}; set it higher.")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(
        list(map(cut_words, texts)),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=special_tokens,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )


def build_decoder_config(preset: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The configuration of a Llama of the preset's size for `tokenizer`."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **DECODER_PRESETS[preset],
    )
