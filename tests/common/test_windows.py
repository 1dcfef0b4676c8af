import random
import unicodedata

from common.errors import UserError
from common.windows import Window, check_word_tokenizer, cut_windows, encode_words, find_special_tokens

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import BertTokenizerFast, PreTrainedTokenizer, PreTrainedTokenizerFast, RobertaTokenizerFast

TEXTS = [
    "Ada Lovelace lives in Paris, near the Seine.",
    "Tom ate 3 figs and left. Nobody saw the unhappiness of Zürich in 1999!",
    "The quick brown fox jumps over the lazy dog; it's 10:45 p.m.",
    "我爱北京天安门 。 他 在 东京 工作 。",
    "Ångström naïve coöperate façade straße",
] * 3
SENTENCES = [
    "Ada Lovelace lives in Paris .".split(),
    "unhappiness , coöperating with Zürich's foxes !".split(),
    ["我", "爱", "北", "京", "天", "安", "门", "。"],
    ["Tom", "在", "Paris", "工", "作", "1999", "年"],
    ["figs"],
    ["don't", "U.S.", "(", "e-mail", "@", "x", ")", "--", "10:45"],
]
LEARNT = TEXTS + [" ".join(words) for words in SENTENCES]  # so that no character of theirs is unknown
ZERO_WIDTH = "\u200b"

# Tokenizers


def train_wordpiece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        LEARNT, trainers.WordPieceTrainer(vocab_size=300, min_frequency=3, special_tokens=special)
    )
    return BertTokenizerFast(vocab=backend.get_vocab(), do_lower_case=False)


def train_byte_level(add_prefix_space: bool, alphabet: bool = True) -> Tokenizer:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
    )
    backend.train_from_iterator(LEARNT, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))],
    )
    return backend


def wrap(backend: Tokenizer, **kwargs) -> PreTrainedTokenizerFast:
    """The generic class: add_prefix_space does not reach the backend, and no unknown token is set."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **kwargs
    )


def train_metaspace() -> PreTrainedTokenizerFast:
    backend = Tokenizer(Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    backend.train_from_iterator(LEARNT, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))],
    )
    return wrap(backend, unk_token="<unk>")


def wrap_roberta() -> RobertaTokenizerFast:
    """The class of RoBERTa, with the words of a list glued together unless they are given with their spaces."""
    backend = train_byte_level(add_prefix_space=False)
    return RobertaTokenizerFast(vocab=backend.get_vocab(), merges=[])


BUILDERS = {
    "WordPiece": train_wordpiece,
    "byte-level": lambda: wrap(train_byte_level(False)),
    "byte-level, flag ignored": lambda: wrap(train_byte_level(False), add_prefix_space=True),
    "byte-level, prefix space": lambda: wrap(train_byte_level(True)),
    "RoBERTa": wrap_roberta,
    "Metaspace": train_metaspace,
}


@pytest.fixture(scope="module")
def tokenizers():
    return {name: build() for name, build in BUILDERS.items()}


@pytest.fixture(params=BUILDERS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


# Words to pieces


@pytest.mark.parametrize(
    ("name", "spaced"),
    [
        ("WordPiece", False),
        ("byte-level", True),
        ("byte-level, flag ignored", True),
        ("byte-level, prefix space", False),
        ("RoBERTa", True),
        ("Metaspace", False),
    ],
)
def test_words_get_a_space_where_the_tokenizer_would_glue_them(tokenizers, name, spaced):
    assert check_word_tokenizer(tokenizers[name]) is spaced


def test_the_pieces_of_the_words_are_those_of_the_text(tokenizer):
    encoded = encode_words(tokenizer, SENTENCES)
    assert len(encoded) == len(SENTENCES)
    for words, pieces in zip(SENTENCES, encoded, strict=True):
        assert len(pieces) == len(words)
        assert sum(pieces, []) == tokenizer.encode(" ".join(words), add_special_tokens=False)


def test_the_tokenizers_of_these_tests_do_split_words(tokenizer):
    pieces = sum(encode_words(tokenizer, SENTENCES), [])
    assert max(map(len, pieces)) > 3 and sum(map(len, pieces)) > 1.5 * len(pieces)


def test_the_pieces_of_each_word_decode_to_that_word(tokenizer):
    compared = 0
    for words, pieces in zip(SENTENCES, encode_words(tokenizer, SENTENCES), strict=True):
        for word, ids in zip(words, pieces, strict=True):
            decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            # WordPiece does not know which of the signs of e-mail or 10:45 had spaces beside them.
            assert decoded.replace(" ", "") == unicodedata.normalize("NFKC", word)
            compared += 1
    assert compared == 38


def test_each_chinese_character_given_as_a_word_has_its_own_pieces(tokenizer):
    words = list("我爱北京天安门")
    (pieces,) = encode_words(tokenizer, [words])
    assert len(pieces) == 7 and all(pieces)
    assert "".join(tokenizer.decode(ids).strip() for ids in pieces) == "我爱北京天安门"


def test_a_chinese_word_of_several_characters_keeps_them_together():
    (pieces,) = encode_words(train_wordpiece(), [["北京", "天安门"]])
    assert [len(ids) for ids in pieces] == [2, 3]


@pytest.mark.parametrize("word", [ZERO_WIDTH, "\x00", "\ufeff", ZERO_WIDTH + "\u200d"])
def test_a_word_without_pieces_gets_the_unknown_one(tokenizers, word):
    tokenizer = tokenizers["WordPiece"]
    assert tokenizer.encode(f"in {word} Paris", add_special_tokens=False) == tokenizer.encode(
        "in Paris", add_special_tokens=False
    )
    (pieces,) = encode_words(tokenizer, [["in", word, "Paris"]])
    assert pieces[1] == [tokenizer.unk_token_id]
    (without,) = encode_words(tokenizer, [["in", "Paris"]])
    assert [pieces[0], pieces[2]] == without


def test_no_word_is_without_pieces_in_any_tokenizer(tokenizer):
    words = ["in", ZERO_WIDTH, "\u200d", "\ufeff", "\x7f", "\u00a0", "\u3000", "Paris"]
    (pieces,) = encode_words(tokenizer, [words])
    assert len(pieces) == len(words)
    assert all(ids and all(isinstance(piece, int) for piece in ids) for ids in pieces)


def test_byte_level_tokenizers_have_pieces_for_every_character(tokenizers):
    """They need no unknown token: this one has none, and every byte is a piece."""
    tokenizer = tokenizers["byte-level"]
    assert tokenizer.unk_token_id is None
    characters = [*range(0xD800), *range(0xE000, 0x110000)]  # without surrogates, which UTF-8 cannot hold
    words = [chr(character) for character in random.Random(0).choices(characters, k=2000)]
    (pieces,) = encode_words(tokenizer, [words])
    assert sum(len(ids) == 0 or None in ids for ids in pieces) == 0


def test_a_word_without_pieces_is_refused_where_there_is_no_unknown_token():
    """Learnt from few texts and without the whole alphabet, a byte-level tokenizer drops the bytes it has not seen."""
    tokenizer = wrap(train_byte_level(False, alphabet=False))
    assert tokenizer.unk_token_id is None and tokenizer.encode("77", add_special_tokens=False) == []
    with pytest.raises(UserError, match="unknown"):
        encode_words(tokenizer, [["77", "in"]])


def test_truncation_and_padding_of_the_tokenizer_file_neither_cut_nor_pad(tokenizers, tmp_path):
    plain = tokenizers["WordPiece"]
    tokenizers["WordPiece"].save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(" ".join(SENTENCES[0])).ids) == 64
    tokenizer = BertTokenizerFast.from_pretrained(tmp_path)
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert encode_words(tokenizer, SENTENCES) == encode_words(plain, SENTENCES)
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert find_special_tokens(tokenizer) == find_special_tokens(plain)


class LetterTokenizer(PreTrainedTokenizer):
    """A slow tokenizer: one piece a letter, in Python."""

    def __init__(self, **kwargs):
        self.letters = {"<unk>": 0} | {letter: number for number, letter in enumerate("abcdefgh", start=1)}
        super().__init__(unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self):
        return len(self.letters)

    def get_vocab(self):
        return dict(self.letters)

    def _tokenize(self, text, **kwargs):
        return list(text.replace(" ", ""))

    def _convert_token_to_id(self, token):
        return self.letters.get(token, 0)

    def _convert_id_to_token(self, index):
        return list(self.letters)[index]


def test_a_slow_tokenizer_is_refused_with_the_cure():
    tokenizer = LetterTokenizer()
    assert tokenizer.encode("bad", add_special_tokens=False) == [2, 1, 4]
    for function, rest in ((check_word_tokenizer, ()), (encode_words, ([["bad"]],))):
        with pytest.raises(UserError) as caught:
            function(tokenizer, *rest)
        assert "LetterTokenizer" in str(caught.value) and "fast tokenizer" in str(caught.value)


def test_a_tokenizer_that_reads_a_list_of_words_otherwise_than_the_text_is_refused():
    backend = Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]"))  # does not split at spaces: the text is one word
    with pytest.raises(UserError, match="splits a list of words otherwise than the same text"):
        check_word_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))


# Special tokens


def test_special_tokens_are_those_before_and_after_a_text(tokenizers):
    bert = tokenizers["WordPiece"]
    assert find_special_tokens(bert) == ([bert.cls_token_id], [bert.sep_token_id])
    for name in ("byte-level", "byte-level, prefix space", "Metaspace"):
        tokenizer = tokenizers[name]
        assert find_special_tokens(tokenizer) == ([tokenizer.bos_token_id], [tokenizer.eos_token_id])
    roberta = tokenizers["RoBERTa"]
    assert find_special_tokens(roberta) == ([roberta.cls_token_id], [roberta.sep_token_id])


def test_special_tokens_may_be_missing_or_several():
    backend = train_byte_level(False)
    tokenizer = wrap(backend)
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert find_special_tokens(tokenizer) == ([], [])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> <pad> $A </s> </s>", special_tokens=[("<s>", 0), ("<pad>", 1), ("</s>", 2)]
    )
    assert find_special_tokens(tokenizer) == ([0, 1], [2, 2])


def test_a_window_with_its_special_tokens_is_what_the_tokenizer_gives_for_the_text(tokenizer):
    before, after = find_special_tokens(tokenizer)
    (pieces,) = encode_words(tokenizer, [SENTENCES[0]])
    assert before + sum(pieces, []) + after == tokenizer(" ".join(SENTENCES[0]))["input_ids"]


# Windows


@pytest.mark.parametrize(
    ("lengths", "room", "overlap", "expected"),
    [
        ([1, 1, 1], 5, 2, [(0, 3, 0, 3)]),
        ([1, 1, 1], 3, 2, [(0, 3, 0, 3)]),
        ([1] * 6, 3, 0, [(0, 3, 0, 3), (3, 6, 3, 6)]),
        # 0 1 2 3, 2 3 4 5, 4 5 6: of two shared words one goes to each side
        ([1] * 7, 4, 2, [(0, 4, 0, 3), (2, 6, 3, 5), (4, 7, 5, 7)]),
        # The words of two pieces do not fit into an overlap of one: nothing is shared.
        ([2] * 4, 4, 1, [(0, 2, 0, 2), (2, 4, 2, 4)]),
        # 1 2 1, then 2 1 1: what is shared is word 1 (2 pieces) and word 2
        ([1, 2, 1, 1], 4, 3, [(0, 3, 0, 2), (1, 4, 2, 4)]),
        # A long word leaves no room for what is shared before it.
        ([1, 1, 4, 1], 4, 2, [(0, 2, 0, 2), (2, 3, 2, 3), (3, 4, 3, 4)]),
        # A word longer than the room counts as the room: it is alone in its window.
        ([1, 9, 1], 3, 1, [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]),
        # An overlap as wide as the window or wider: the windows still go on.
        ([1] * 5, 3, 9, [(0, 3, 0, 2), (1, 4, 2, 3), (2, 5, 3, 5)]),
        ([1] * 3, 1, 5, [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]),
        ([], 4, 2, [(0, 0, 0, 0)]),
        ([7], 4, 2, [(0, 1, 0, 1)]),
    ],
)
def test_windows_by_hand(lengths, room, overlap, expected):
    assert cut_windows(lengths, room, overlap) == [Window(*window) for window in expected]


def test_every_word_is_owned_once_and_every_window_fits():
    generator = random.Random(5)
    cut = 0
    for _ in range(2000):
        room = generator.randrange(1, 30)
        overlap = generator.randrange(0, 40)
        lengths = [generator.choice([1, 1, 1, 2, 3, 40]) for _ in range(generator.randrange(0, 60))]
        windows = cut_windows(lengths, room, overlap)
        cut += len(windows) > 1
        counted = [min(length, room) for length in lengths]
        owned = [word for window in windows for word in range(window.owned_start, window.owned_end)]
        assert owned == list(range(len(lengths)))
        for window in windows:
            assert window.start <= window.owned_start <= window.owned_end <= window.end
            assert sum(counted[window.start : window.end]) <= room
        for left, right in zip(windows, windows[1:], strict=False):
            assert left.start < right.start <= left.end < right.end
            assert sum(counted[right.start : left.end]) <= overlap
    assert cut > 1000


def test_every_word_that_two_windows_share_is_read_with_context_on_both_sides():
    """Words of one piece, far from both ends of the text: at least a quarter of the overlap lies on either side."""
    for window in cut_windows([1] * 200, 20, 8)[1:-1]:
        assert window.owned_start - window.start == 4 and window.end - window.owned_end == 4


def test_windows_share_as_much_as_the_overlap_allows():
    windows = cut_windows([1] * 100, 16, 6)
    assert all(left.end - right.start == 6 for left, right in zip(windows, windows[1:], strict=False))
