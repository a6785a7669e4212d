"""Makes the table of settings in the documentation from the settings themselves.

python -m tests.settings_table    write the table to standard output
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, PlainValidator, SecretStr
from pydantic_core import PydanticUndefined

from hasql.settings import (
    AdmissionGroup,
    BreakerGroup,
    LifecycleGroup,
    RateLimitGroup,
    SessionGroup,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

__all__ = ("table_of_settings",)

_GROUPS: dict[str, type[BaseModel]] = {
    "session": SessionGroup,
    "lifecycle": LifecycleGroup,
    "admission": AdmissionGroup,
    "rate_limit": RateLimitGroup,
    "breaker": BreakerGroup,
}
_JSON = "JSON"


def table_of_settings() -> Iterator[list[str]]:
    """Yield a row for each setting: its variable, the values it takes, its default, its meaning."""
    for name, field in Settings.model_fields.items():
        if name in _GROUPS:
            for inner, each in _GROUPS[name].model_fields.items():
                yield _row(f"{name}__{inner}", inner, each, _GROUPS[name])
        else:
            yield _row(name, name, field, Settings)


def _row(variable: str, name: str, field: FieldInfo, model: type[BaseModel]) -> list[str]:
    description = re.sub(r"`+([^`]+)`+", r"``\1``", field.description or "")
    kind = _kind(name, field, model)
    return [f"``HASQL_{variable.upper()}``", kind, _default(field), description]


def _kind(name: str, field: FieldInfo, model: type[BaseModel]) -> str:
    schema: dict[str, Any] = model.model_json_schema(mode="validation")["properties"][name]
    [each] = [x for x in schema.get("anyOf", [schema]) if x.get("type") != "null"]
    unit = (field.json_schema_extra or {}).get("unit")  # type: ignore[union-attr]  # a dict
    if "enum" in each:
        return ", ".join(f"``{value}``" for value in each["enum"])
    if each.get("type") in {"number", "integer"}:
        return _number(each, unit)
    if any(isinstance(x, PlainValidator) for x in field.metadata):
        return "``module:name``"
    kinds = {"boolean": "true or false", "array": "names", "object": _JSON, "string": "text"}
    return kinds[each["type"]]


def _number(schema: dict[str, Any], unit: object) -> str:
    what = str(unit or ("number" if schema["type"] == "number" else "count"))
    if "maximum" in schema:
        return f"{what}, {schema['minimum']:g} to {schema['maximum']:g}"
    if "exclusiveMinimum" in schema:
        return f"{what}, more than {schema['exclusiveMinimum']:g}"
    return f"{what}, at least {schema['minimum']:g}"


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None:
        return "none"
    if default is PydanticUndefined or default is ...:
        return "needed"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, str):
        return f"``{default.rpartition(':')[2] if default.startswith('hasql.') else default}``"
    return "none" if default in {None, ()} else f"``{default:g}``"


def main() -> None:
    """Write the table in the form in which it stands on the page."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 34 22 16 28", ""]
    for row in [["Variable", "Takes", "Default", "Meaning"], *table_of_settings()]:
        lines += [f"   {' ' if number else '*'} - {cell}" for number, cell in enumerate(row)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
