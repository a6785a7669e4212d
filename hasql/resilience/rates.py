"""Rates as an application writes them: a count in a time."""

import re
from dataclasses import dataclass
from typing import Final

from hasql.errors import ConfigurationError

__all__ = ("Rate",)

_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_RATE = re.compile(
    r"\s*(?P<count>[0-9]+)\s*(?:/|\s+per\s+)\s*(?P<multiple>[0-9]+)?\s*(?P<unit>[a-z]+?)s?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Rate:
    """A count in a time. All of it may be used at once if nothing was used before."""

    count: int
    #: The length of the time, in seconds.
    seconds: int

    @classmethod
    def parse(cls, text: object) -> "Rate":
        """Read a rate such as ``100/second``, ``10 per minute`` or ``5/2 hours``.

        Raises TypeError if `text` is no str, and ConfigurationError if it is no rate.
        """
        if not isinstance(text, str):
            msg = f'rate must be a str, such as "100/second", not {text!r}'
            raise TypeError(msg)
        found = _RATE.fullmatch(text)
        unit = found["unit"].lower() if found else ""
        if found is None or unit not in _SECONDS or not int(found["count"]):
            msg = (
                'rate must be a count of at least 1 per time, such as "100/second", "10 per '
                f'minute" or "5/2 hours" (units: {", ".join(_SECONDS)}), not {text!r}'
            )
            raise ConfigurationError(msg)
        multiple = int(found["multiple"] or 1)
        if not multiple:
            msg = f'rate must have a time of more than 0, such as "10/minute", not {text!r}'
            raise ConfigurationError(msg)
        return cls(int(found["count"]), multiple * _SECONDS[unit])
