"""Languages by their codes: the pieces that stand for them in multilingual models, and what is kept with a model."""

from common.errors import UserError
from common.lines import name_some, suggest

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# ISO 639-3, which NLLB uses, to the two letters that data sets and scores use.
SHORT_CODES = {
    "arb": "ar", "bul": "bg", "cat": "ca", "ces": "cs", "dan": "da", "deu": "de", "ell": "el", "eng": "en", "est": "et",
    "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko",
    "lit": "lt", "lvs": "lv", "nld": "nl", "pes": "fa", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "slk": "sk",
    "slv": "sl", "spa": "es", "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi", "zho": "zh",
}  # fmt: skip


def shorten_code(code: str | None) -> str | None:
    """The two letters of a language: zh for zh_CN, zh-Hans and zho_Hans."""
    if code is None:
        return None
    language = code.lower().replace("-", "_").split("_")[0]
    return SHORT_CODES.get(language, language)


def choose_languages(config: PreTrainedConfig, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
    """Source and target language: as given, else those that the model was trained for, kept in its config.json."""
    stored = getattr(config, "languages", None) or (None, None)
    source_lang, target_lang = source_lang or stored[0], target_lang or stored[1]
    for name, code in (("source_lang", source_lang), ("target_lang", target_lang)):
        if code is None:
            raise UserError(f"{name} is not set: give the code of the language, as in en, zh_CN or deu_Latn.")
    if source_lang == target_lang:
        raise UserError(f"source_lang and target_lang are both {source_lang}: set target_lang to the other language.")
    return source_lang, target_lang


def name_columns(
    languages: tuple[str, str], source_column_name: str | None, target_column_name: str | None
) -> dict[str, tuple[str, ...]]:
    """The names that the columns of both sides may have: those given, else the languages' codes, source and target."""
    sides = zip(("source", "target"), languages, (source_column_name, target_column_name), strict=True)
    # dict.fromkeys: a short code is the same as its own short form.
    return {
        side: (name,) if name else tuple(dict.fromkeys((code, shorten_code(code), side))) for side, code, name in sides
    }


def unfold_translation(row: dict) -> list[dict]:
    """The row with the texts of {"translation": {"en": ..., "de": ...}}, the Hub's shape, as columns of their own."""
    texts = row.get("translation") if isinstance(row, dict) else None  # to be predicted it may be anything
    if not isinstance(texts, dict):
        return [row]
    return [{name: value for name, value in row.items() if name != "translation"} | texts]


def set_languages(
    tokenizer: PreTrainedTokenizerBase,
    source_lang: str | None,
    target_lang: str | None,
    flags: tuple[str, str] = ("source_lang", "target_lang"),
) -> tuple[str | None, str | None, int | None]:
    """Tell a multilingual tokenizer (NLLB, mBART, M2M100) its languages; another one is left as it is.

    Returns the codes as the tokenizer writes them, and the id of the piece that every target text begins with, None for
    other tokenizers. Left unset, these tokenizers would mark targets as being in the source language. A UserError names
    the flag that the language was given with.
    """
    if not hasattr(tokenizer, "src_lang"):
        return source_lang, target_lang, None
    known = list_languages(tokenizer)
    source_lang = _find_code(flags[0], source_lang, known, tokenizer)
    target_lang = _find_code(flags[1], target_lang, known, tokenizer)
    tokenizer.src_lang, tokenizer.tgt_lang = source_lang, target_lang
    # Written into tokenizer_config.json, so that the saved tokenizer knows them.
    tokenizer.init_kwargs |= {"src_lang": source_lang, "tgt_lang": target_lang}
    return source_lang, target_lang, known[target_lang]


def list_languages(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The codes of the languages that a multilingual tokenizer has a piece for, and the ids of these pieces."""
    if hasattr(tokenizer, "lang_code_to_token"):  # M2M100 writes __en__ for en
        return {code: tokenizer.get_lang_id(code) for code in tokenizer.lang_code_to_token}
    pieces = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    codes = sorted(piece for piece in pieces if piece[0].isalpha() and "_" in piece)
    return {code: tokenizer.convert_tokens_to_ids(code) for code in codes}


def _find_code(name: str, code: str | None, known: dict[str, int], tokenizer) -> str:
    if code is None:
        raise UserError(
            f"{type(tokenizer).__name__} writes several languages, and {name} is not set: use one of "
            f"{name_some(list(known))}."
        )
    if code in known:
        return code
    same = [other for other in known if shorten_code(other) == shorten_code(code)]
    if len(same) == 1:
        return same[0]
    hint = f" ({' or '.join(same)}?)" if same else suggest(code, known)
    raise UserError(
        f"{name} {code} is no language of {type(tokenizer).__name__}{hint}: use one of {name_some(list(known))}."
    )


def choose_prefix(config: PreTrainedConfig, source_prefix: str | None, task: str) -> str:
    """What is written before every source: as given, else as kept with the model, else the checkpoint's own for `task`.

    T5's config.json has prefixes by task, such as summarization and translation_en_to_de.
    """
    if source_prefix is not None:
        return source_prefix
    if getattr(config, "source_prefix", None) is not None:
        return config.source_prefix
    tasks = getattr(config, "task_specific_params", None) or {}
    return tasks.get(task, {}).get("prefix", "")
