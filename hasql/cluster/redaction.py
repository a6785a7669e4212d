"""Redaction: removes secrets from a text that a driver, a server or an application has written.

A secret is masked where secrets stand, whatever it is: in a URL before the ``@``, and as the value
of a parameter that holds a secret. If it were replaced everywhere, a secret that is an ordinary
word would spoil every message with that word, and the stars would tell each reader what it is.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

__all__ = ("SECRET_PARAMETERS", "redact")

SECRET_PARAMETERS: Final = frozenset(
    {"oauth_client_secret", "scram_client_key", "scram_server_key", "sslpassword"}
)
"""The connection parameters, besides the password, that are secret."""

# Any name that ends like this, such as sslpassword and PGPASSWORD.
_KEY = r"(?i:password|passwd|client_secret|scram_(?:client|server)_key)['\"]?"
_USERINFO = re.compile(r"(://[^\s:/?@'\"]*:)[^\s/?'\"]+(?=@)")
# In quotes, as repr() and libpq write it, or without them. A value in a URL ends at '&', any other
# at a space, and whatever closes the surrounding text is left. A text may be long, such as an error
# that quotes what an application has sent. So repetitions are possessive: nothing is tried twice.
_VALUE = re.compile(
    rf"""
    (?P<key>{_KEY}) (?:
      (?P<opening>\s*[=:]\s*b?(?P<quote>['"])) (?:(?!(?P=quote))[^\\]|\\.)*
      | (?P<equals>\s*=\s*) (?!\*\*\*|['"\s]) (?:\\.?|[^\s\\])
        (?:['")\]}}>,;]*+ (?:\\.?|[^\s\\'")\]}}>,;])++)*+
    )
    """,
    re.DOTALL | re.VERBOSE,
)
_QUERY_VALUE = re.compile(rf"([?&]\w*{_KEY}=)[^\s&'\"]+")
# Any other text may be a word, a name, an address or a number that is there for another reason.
_LIKE_NO_WORD = re.compile(
    r"(?=.*[0-9]) (?=.*[^\W0-9_]) (?![^\W0-9_]+ [-_.]? [0-9]* \Z)"
    r" (?![\w]+ ([.:-] [\w]+)+ \Z) \S{8,}",
    re.DOTALL | re.VERBOSE,
)


def redact(text: str, secrets: Iterable[str], names: Collection[str]) -> str:
    """Return a text with ``***`` for the secrets in it.

    Each of the known `secrets` is found where secrets stand, whether as it is, escaped or
    percent-encoded. One that cannot be taken for a word, and is not part of the `names` that
    everybody knows, is found anywhere.
    """
    for secret in secrets:
        text = _without(text, secret, names)
    text = _USERINFO.sub(r"\1***", text)
    text = _QUERY_VALUE.sub(r"\1***", text)
    return _VALUE.sub(_masked, text)


def _without(text: str, secret: str, names: Collection[str]) -> str:
    spelt = "".join(map(_spellings, re.findall(r"\\+[^\\]?|[^\\]", secret, re.DOTALL)))
    text = re.sub(rf"(?<=:){spelt}(?=@)", "***", text)
    before = rf"{_KEY}\s*+(?:=\s*(?:b?['\"])?|:?\s*+b?['\"])"
    text = re.sub(rf"({before}){spelt}(?![^\W_])", r"\1***", text)
    if _LIKE_NO_WORD.fullmatch(secret) and not any(secret in name for name in names):
        text = re.sub(spelt, "***", text)
    return text


def _spellings(part: str) -> str:
    # As it is, escaped by libpq, and escaped once more by repr(): with up to three backslashes
    # before each character. The secret's own backslashes are counted together with these. If the
    # two were told apart, there would be very many ways to do it, and all of them would be tried
    # wherever a text ends otherwise than the secret.
    character = part.lstrip("\\")
    own = len(part) - len(character)
    backslashes = rf"(?:\\|(?i:%5c)){{{own},{4 * own + 3 * len(character)}}}"
    if not character:
        return backslashes
    encoded = "".join(f"%{byte:02x}" for byte in character.encode())
    if own:
        return rf"{backslashes}(?:{re.escape(character)}|(?i:{encoded}))"
    return rf"(?:\\{{0,3}}{re.escape(character)}|(?i:{encoded}))"


def _masked(found: re.Match[str]) -> str:
    return f"{found['key']}{found['opening'] or found['equals']}***"
