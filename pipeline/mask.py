"""What may be shown of an address: everything but its secrets."""

from __future__ import annotations

import re

_USER = re.compile(r"(\w+://)([^:@/?#\s]*)(:[^\s]*)?@(?=[^@\s]*(?:\s|$))")
_PARAMETER = re.compile(
    r"\b([\w.-]*(?:password|passwd|pwd|secret|token|signature|credential|api_?key|access_?key)[\w.-]*|sig|key)=[^&#\s'\"]+",
    re.IGNORECASE,
)


def mask(text: str, *secrets: str | None) -> str:
    """`text` with passwords of URLs, secret parameters and the `secrets` themselves as ***."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _USER.sub(_hide, text)
    return _PARAMETER.sub(r"\1=***", text)


def _hide(found: re.Match[str]) -> str:
    if found[1] in ("http://", "https://"):
        return f"{found[1]}***@"  # a user alone may be a token
    return f"{found[1]}{found[2]}{':***' if found[3] else ''}@"


def one_line(error: object, *secrets: str | None) -> str:
    """An outside library's message as one line of at most 300 letters, with no secret in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return mask(text, *secrets)[:300]
