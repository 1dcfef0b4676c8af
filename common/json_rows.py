"""JSON read strictly: no key twice, no NaN, no half of a surrogate pair, and every row an object."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class JsonFault:
    """What is wrong and what to do, and the index of the character where it is, if known."""

    text: str
    position: int | None = None


class _Refused(ValueError):
    """Valid for Python's decoder, but not for us."""


def parse_line(text: str) -> tuple[dict, JsonFault | None]:
    """The object on one line and no fault, or {} and the fault; a text without line end is the last of its file."""
    try:
        start = _skip_space(text, 0)
        value, end, fault = _parse_value(text, start)
        if _skip_space(text, end) < len(text):
            raise json.JSONDecodeError("Extra data", text, _skip_space(text, end))
    except json.JSONDecodeError as error:
        cure = "write one whole JSON object on each line"
        if not text.endswith(("\n", "}")):
            cure = "the file ends inside this line, copy the file again"
        return {}, JsonFault(f"invalid JSON: {error.msg}; {cure}", error.pos)
    return value, fault


def parse_document(text: str) -> Iterator[tuple[int, dict, JsonFault | None]]:
    """Yield (index of its first character, object, fault) for every row of [...], of {"data": [...]} or of {...}."""
    try:
        start = _skip_space(text, 0)
        if text[start] == "[":
            end = yield from _parse_array(text, start)
        else:
            end = yield from _parse_object(text, start)
        if _skip_space(text, end) < len(text):
            raise json.JSONDecodeError("Extra data", text, _skip_space(text, end))
    except json.JSONDecodeError as error:
        yield error.pos, {}, JsonFault(f"invalid JSON: {error.msg}; mend it there", error.pos)


def _parse_object(text: str, start: int):
    value, end, fault = _parse_value(text, start)
    if fault is None and isinstance(value.get("data"), list):
        # Its rows get their places: walk to the array, then read it again an element at a time.
        position = _skip_space(text, start + 1)
        while True:
            key, position = json.JSONDecoder().raw_decode(text, position)
            position = _skip_space(text, _skip_space(text, position) + 1)  # the colon
            if key == "data":
                yield from _parse_array(text, position)
                return end
            _, position = json.JSONDecoder().raw_decode(text, position)
            position = _skip_space(text, _skip_space(text, position) + 1)  # the comma
    if fault is None and "\n" in text[start:end]:
        keys = ", ".join(list(value)[:10])
        fault = JsonFault(f'one object ({keys}) is no list of rows; use [...], {{"data": [...]}} or one object a line')
    yield start, value, fault
    return end


def _parse_array(text: str, start: int):
    position = _skip_space(text, start + 1)
    if text.startswith("]", position):
        return position + 1
    while True:
        value, end, fault = _parse_value(text, position)
        yield position, value, fault
        position = _skip_space(text, end)
        if text.startswith("]", position):
            return position + 1
        if not text.startswith(",", position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = _skip_space(text, position + 1)


def _parse_value(text: str, start: int) -> tuple[dict, int, JsonFault | None]:
    """(object, index after it, fault); a JSONDecodeError where it cannot be known where the value ends."""
    try:
        value, end = _STRICT.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except _Refused as refused:
        _, end = json.JSONDecoder().raw_decode(text, start)
        return {}, end, JsonFault(str(refused), _find_number(text, start, end))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets a thousand deep
        raise json.JSONDecodeError(str(error), text, start) from None
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "a number")
        return {}, end, JsonFault(f'the row is {kind}; write an object as in {{"text": "..."}}', start)
    half = _find_half_surrogate(text, start, end)
    if half is not None:
        code = text[half : half + 6]
        return {}, end, JsonFault(f"{code} is half a character (a lone surrogate); write the whole character", half)
    return value, end, None


def _refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f'the key "{repeated}" is there twice; remove one')
    return row


def _refuse_constant(name: str):
    raise _Refused(f"{name} is no JSON number; write a number or null")


def _parse_finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Refused(f"{digits} is beyond the largest number; write a smaller one")
    return number


def _find_number(text: str, start: int, end: int) -> int | None:
    """Where the first number stands that is not finite; None where another fault was meant."""
    for match in _STRING_OR_NUMBER.finditer(text, start, end):
        if match[1] and not math.isfinite(float(match[1])):
            return match.start()
    return None


def _find_half_surrogate(text: str, start: int, end: int) -> int | None:
    if not _SURROGATE.search(text, start, end):
        return None
    return next((match.start() for match in _ESCAPE.finditer(text, start, end) if match[1]), None)


def _skip_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


_STRICT = json.JSONDecoder(
    object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant, parse_float=_parse_finite
)
_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|(-?(?:NaN|Infinity|\d[\d.eE+-]*))')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# An escaped backslash, a whole pair, or (the group) a half; in this order.
_ESCAPE = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)")
