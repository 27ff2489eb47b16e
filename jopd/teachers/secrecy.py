"""What is never printed and never kept: keys, and logins in addresses."""

import re
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
# To the last @ of the word: a password may hold one, and rather too much than a part.
_LOGIN = re.compile(r"(?<=://)[^\s'\"]*@")
_QUERY = re.compile(
    r"([?&][\w-]*(?:key|token|secret|password|signature)=)[^&\s#'\"]+", re.IGNORECASE
)
_FIELD = re.compile(
    r"(?:(?:\A|\.)(?:key|token|bearer|auth)|secret|passw(?:or)?d|passphrase"
    r"|authorization|credentials?|(?:api|access|secret|private|auth)[_-]?key"
    r"|(?:access|api|auth|bearer|refresh|session)[_-]?token)\Z",
    re.IGNORECASE,
)


def hidden(text: str, *secrets: str) -> str:
    """``text`` without ``secrets``, logins of addresses and keys in their queries."""
    for secret in filter(None, secrets):
        text = text.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", text))


def hidden_within(value):
    """``hidden`` for every text in a config; fields named as secrets are so whole."""
    if isinstance(value, dict):
        return {
            key: HIDDEN
            if isinstance(inner, str) and inner and _FIELD.search(str(key))
            else hidden_within(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(map(hidden_within, value))
    return hidden(value) if isinstance(value, str) else value


def without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address without ``user:password@``, and those two.

    Raises:
      ValueError: it cannot be read as an address; the password is not in the message.
    """
    try:
        host = urlsplit(url).netloc
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError(
            f"remote.url={hidden(url)!r} cannot be read as an address; write "
            "http://HOST:PORT/v1, and a login with %40 for @ and %2F for /"
        ) from None
    login, at, rest = host.rpartition("@")
    if not at:
        return url, None
    user, _, password = map(unquote, login.partition(":"))
    return url.replace(host, rest, 1), (user, password)


def usable_key(key: str, name: str) -> str:
    """A key as a header can carry it; white space around it is left out.

    Raises:
      ValueError: it holds other characters; names the variable ``name`` alone.
    """
    key = key.strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"remote.key_env={name!r}: the variable is empty, or holds a line break or "
            "another character that no key has; export the key alone"
        )
    return key
