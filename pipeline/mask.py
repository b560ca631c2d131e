"""What may be shown of an address: everything but its secrets."""

from __future__ import annotations

import re

_USER = re.compile(r"(\w+://)([^:@/?#\s]*)(:[^\s]*)?@(?=[^@\s]*(?:\s|$))")
_WORDS = r"password|passwd|passphrase|pwd|secret(?!ary)|token(?!s|i[sz])|signature|credential|authorization"
_KEYS = r"(?:api|access|private|subscription|account|shared)[_-]?key"
_SHORT = r"sig|key|auth|access|pass|jwt|code"  # whole names of a parameter, and no folders such as `code=7/`
_PARAMETER = re.compile(rf"(\b[\w.-]*(?:{_WORDS}|{_KEYS})[\w.-]*|(?<![\w./-])(?:{_SHORT}))=[^&#\s'\"]+", re.IGNORECASE)
_PORT = re.compile(r":\d{1,5}[/?#]")


def mask(text: str, *secrets: str | None) -> str:
    """`text` with passwords of URLs, secret parameters and the `secrets` themselves as ***."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _USER.sub(_hide, text)
    return _PARAMETER.sub(r"\1=***", text)


def _hide(found: re.Match[str]) -> str:
    if found[1].lower() in ("http://", "https://"):
        if _PORT.match(found[3] or "") and "://" not in found[3]:
            return found[0]  # a host and its port; the @ stands in the path
        return f"{found[1]}***@"  # a user alone may be a token
    return f"{found[1]}{found[2]}{':***' if found[3] else ''}@"


def one_line(error: object, *secrets: str | None) -> str:
    """An outside library's message as one line of at most 300 letters, with no secret in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return mask(text, *secrets)[:300]
