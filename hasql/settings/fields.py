"""The field types of the settings: numbers, names, and references of the form ``module:name``."""

import re
from importlib import import_module
from json import loads
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, JsonValue, PlainValidator

from hasql.errors import ConfigurationError

__all__ = (
    "Count",
    "Names",
    "NamesOrNone",
    "OrNone",
    "PositiveCount",
    "PositiveSeconds",
    "Reference",
    "Seconds",
    "Share",
    "found_at",
    "in_seconds",
    "made_by",
)

#: Stands for None in the environment and in TOML, which have no such value.
_NONE: Final = "none"
_REFERENCE: Final = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004  # for pydantic
    return value


def _is_none(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() == _NONE


def _names(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return loads(value)
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _reference(value: object) -> object:
    if isinstance(value, str) and not _REFERENCE.fullmatch(value):
        raise ValueError("must be 'module:name', where the object is, or the object itself")
    return value


def found_at(name: str, reference: object) -> Any:  # noqa: ANN401  # whatever is there
    """Return the object that a reference leads to; anything else is returned as it is.

    Raises ConfigurationError if there is no such object.
    """
    if not isinstance(reference, str):
        return reference
    module, _, path = reference.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        msg = f"{name}={reference!r} cannot be imported: {error}"
        raise ConfigurationError(msg) from error
    return found


def made_by(name: str, reference: object, kind: type[Any]) -> Any:  # noqa: ANN401  # as above
    """Return an object of this kind: the one found, or one that the callable found makes."""
    found = found_at(name, reference)
    return found() if callable(found) and not isinstance(found, kind) else found


Count = Annotated[int, Field(ge=0), BeforeValidator(_number)]
PositiveCount = Annotated[int, Field(ge=1), BeforeValidator(_number)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
#: Reads ``none`` as None.
OrNone = BeforeValidator(lambda value: None if _is_none(value) else value)
#: Reads names that are separated by commas, or a JSON list of them.
Names = BeforeValidator(_names)
NamesOrNone = BeforeValidator(lambda value: None if _is_none(value) else _names(value))
#: Takes an object, or a reference to it as ``module:name``, which is imported when it is needed.
Reference = PlainValidator(_reference, json_schema_input_type=str)

_SECONDS: Final[dict[str, JsonValue]] = {"unit": "seconds"}


def in_seconds(default: float | None, description: str) -> Any:  # noqa: ANN401  # as pydantic's
    """Make a field, of one of the types above, whose unit is the second."""
    return Field(default=default, description=description, json_schema_extra=_SECONDS)
