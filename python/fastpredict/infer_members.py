"""Members of the JSON objects of an inference request: each of its type, or BadInput, 400.

``what`` is what a message calls the object.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn, TypeVar

from fastpredict.decode import BadInput

_T = TypeVar("_T")


def refuse(sentence: str) -> NoReturn:
    """Raise BadInput, which is 400 with this sentence."""
    raise BadInput(400, sentence)


_JSON_NAMES: Final[dict[type, str]] = {str: "a string", list: "a list", dict: "an object"}


def member_of(document: dict[str, Any], key: str, kind: type[_T], what: str) -> _T | None:
    """Return the member, of that type; None where it is absent or null."""
    value = document.get(key)
    if value is not None and not isinstance(value, kind):
        refuse(f"'{key}' of {what} must be {_JSON_NAMES[kind]}")
    return value


def parameters_of(document: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the object's parameters; empty where there are none."""
    return member_of(document, "parameters", dict, what) or {}


def flag_in(parameters: dict[str, Any], key: str, default: bool, what: str) -> bool:
    """Return a parameter that is true or false."""
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        refuse(f"{key} of {what} must be true or false")
    return value


def size_in(parameters: dict[str, Any], key: str, what: str) -> int | None:
    """Return a parameter that is a number of bytes; None where it is absent or null."""
    value = parameters.get(key)
    if value is not None and (type(value) is not int or value < 0):
        refuse(f"{key} of {what} must be a number of bytes")
    return value
