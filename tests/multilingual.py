"""Small tokenizers and models of the multilingual classes of transformers, built on the spot."""

import io
import json
from pathlib import Path

import sentencepiece
import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

TEXTS = [
    "the cat sat on the mat and the dog ran away", "a dog is not a cat",
    "die Katze sitzt und der Hund rennt", "ein Hund ist keine Katze",
]  # fmt: skip
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
# English and German as each class writes them.
LANGUAGES = {
    "NllbTokenizer": ("eng_Latn", "deu_Latn"),
    "MBartTokenizer": ("en_XX", "de_DE"),
    "MBart50Tokenizer": ("en_XX", "de_DE"),
    "M2M100Tokenizer": ("en", "de"),
}


def build_multilingual_tokenizer(name: str, directory: Path, **settings) -> PreTrainedTokenizerBase:
    """A tokenizer of the class `name` that knows the pieces of TEXTS; the files of M2M100 are in `directory`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2,
        num_threads=1,
    )  # fmt: skip
    learnt = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [learnt.id_to_piece(number) for number in range(3, learnt.get_piece_size())]
    vocab = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    scores = [(piece, -1 - number / 100) for number, piece in enumerate(pieces)]
    if name == "NllbTokenizer":
        return NllbTokenizer(vocab=vocab, merges=[], **settings)
    if name == "MBartTokenizer":
        return MBartTokenizer(vocab=[(piece, 0.0) for piece in SPECIAL] + scores, **settings)
    if name == "MBart50Tokenizer":
        return MBart50Tokenizer(vocab=[(piece, 0.0) for piece in ("<unk>", "<s>", "</s>")] + scores, **settings)
    directory.mkdir(exist_ok=True)
    (directory / "spm.model").write_bytes(model.getvalue())
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    # The checkpoints on the hub name the languages as special tokens; the class by itself does not (transformers 5.23).
    languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    files = str(directory / "vocab.json"), str(directory / "spm.model")
    return M2M100Tokenizer(*files, additional_special_tokens=languages, **settings)


def build_multilingual_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A random model of one layer of the class that goes with the tokenizer."""
    torch.manual_seed(0)
    is_mbart = type(tokenizer).__name__.startswith("MBart")
    config_class, model_class = (
        (MBartConfig, MBartForConditionalGeneration) if is_mbart else (M2M100Config, M2M100ForConditionalGeneration)
    )
    config = config_class(
        vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64, dropout=0.0, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, forced_eos_token_id=2,
        # The decoder of mBART starts from a language, so that its checkpoint on the hub names no piece.
        decoder_start_token_id=None if isinstance(tokenizer, MBartTokenizer) else 2,
    )  # fmt: skip
    return model_class(config).eval()
