"""One line for a person out of what pydantic finds wrong with an input file."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from somatic.errors import DatasetError

_AT_MOST = 3
_LONGEST = 80

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], raw: Any, where: str, *, folder: Path | None = None) -> Model:
    """Make a model from what a file holds.

    Parameters
    ----------
    model : type of pydantic.BaseModel
        The description of each field completes the sentence "expected ...".
    raw : object
        What the file holds.
    where : str
        The file, as it is called in an error.
    folder : pathlib.Path, optional
        What relative paths count from; the current folder when left out.

    Raises
    ------
    DatasetError
        One line with the keys that are wrong, what was found there and what was expected.
    """
    try:
        return model.model_validate(raw, context={"folder": folder} if folder else None)
    except ValidationError as error:
        # Without its cause: pydantic's own text repeats values, and a value under a wrong key may be a secret.
        found = [_sentence(model, dict(one)) for one in error.errors(include_url=False)]
    more = f" (and {len(found) - _AT_MOST} more)" if len(found) > _AT_MOST else ""
    raise DatasetError(f"{where}: {'; '.join(found[:_AT_MOST])}{more}")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that a key is unknown, with the nearest known one."""
    names = list(known)
    near = difflib.get_close_matches(key.lower(), names, n=len(names))
    if not near:
        return f"unknown key, expected one of {', '.join(names)}"
    # Of those that are equally near the first of a model, where the keys stand that every file has.
    likeness = {name: difflib.SequenceMatcher(None, name, key.lower()).ratio() for name in names if name in near}
    return f"unknown key, did you mean {max(likeness, key=likeness.__getitem__)}?"


def _sentence(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    location = [part for part in error["loc"] if part != "[key]"]
    key = ".".join(_cut(part if (part := str(step)).isprintable() else repr(part)) for step in location)
    owner, field = _look_up(model, location)
    if error["type"] == "extra_forbidden" and owner is not None:
        return f"{key}: {_misplaced(model, str(location[-1])) or unknown_key(str(location[-1]), owner.model_fields)}"
    expected = field.description if field else None
    if error["type"] == "missing":
        return f"{key}: missing, expected {expected}"
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    if error["loc"][-1:] == ("[key]",):
        return f"{key}: expected a materialization version (a whole number) as the key"
    return f"{key or 'the file'}: found {_short(error['input'])}, expected {expected or 'a table of keys'}"


def _look_up(model: type[BaseModel], location: list[Any]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model that a key belongs to, and the field nearest to it."""
    owner: type[BaseModel] | None = model
    field = None
    for depth, part in enumerate(location):
        if owner is None or part not in owner.model_fields:
            break
        field = owner.model_fields[part]
        inner = _model_in(field.annotation)
        if inner is None or depth == len(location) - 1:
            break
        owner = inner
    return owner, field


def _misplaced(model: type[BaseModel], key: str) -> str | None:
    """Where a key belongs that stands in the wrong table; TOML puts every key after [x] into x."""
    if key in model.model_fields:
        return "belongs to the top of the file, above the first [table]"
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None and key in inner.model_fields:
            return f"belongs under [{name}]"
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table of keys"
    try:
        return _cut(repr(value))
    except ValueError:
        # Python writes no number of more than 4300 digits.
        return "a number of thousands of digits"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
