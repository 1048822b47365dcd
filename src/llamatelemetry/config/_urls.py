"""Secrets in URLs: the parameter names that hold them, and URLs without secrets for messages."""

from __future__ import annotations

import re
from typing import Final

# A name that ends with one of these holds a secret.
_ENDINGS: Final = (
    *("secret", "password", "passwd", "passphrase", "passcode", "pwd"),
    # Signed URLs: AWS and Google (`X-Amz-Signature`, `X-Goog-Credential`), CloudFront, Aliyun OSS.
    *("signature", "credential", "credentials", "accesskeyid", "access_key_id", "googleaccessid"),
    # JSON Web Tokens, iFlytek (`authorization`), SAML, sessions of Java and PHP.
    *("jwt", "authorization", "hmac", "assertion", "samlresponse"),
    *("sessionid", "session_id", "sessid"),
)
# The whole name, or its last word: `key`, `x-api-key`, `hf_token`, `q-sign`.
_LAST_WORDS: Final = (
    # OpenAI and compatible servers, Azure (`api-key`, `subscription-key`), Google (`key`),
    # ElevenLabs (`xi-api-key`), Algolia, Sentry (`sentry_key`), SerpAPI (`apiKey`).
    "(?:access|api|app|auth|client|private|secret|service|user)?key",
    # OAuth, Hugging Face, GitLab (`private_token`), Jupyter, Deepgram, Mapbox, Plex, AWS STS
    # (`X-Amz-Security-Token`).
    "(?:access|api|auth|bearer|hf|id|private|refresh|security|session|user)?token",
    *("auth", "oauth", "bearer", "sig", "sign", "otp", "totp", "ticket", "pat", "session"),
)
# Only the whole name: Azure Functions and OAuth (`code`), OpenWeather (`appid`), Baidu and
# Tencent (`ak`, `sk`, `q-ak`).
_NAMES: Final = ("code", "appid", "pass", "pw", "pin", "sid", "ak", "sk", "q-ak", "client_id")

_CHARACTER: Final = r"(?:[\w.~\[\]-]|%5[BD])"
SECRET_PARAMETER: Final = (
    rf"(?={_CHARACTER}{{1,96}}+(?:=|%3D))"
    rf"(?:{_CHARACTER}{{0,64}}(?:{'|'.join(_ENDINGS)})"
    rf"|(?:{_CHARACTER}{{0,64}}(?:[_.\[-]|%5B))?(?:{'|'.join(_LAST_WORDS)})"
    rf"|(?:{'|'.join(_NAMES)}))(?:\]|%5D)?(?:=|%3D)"
)
"""Expression that matches the name of a parameter with a secret, and the `=` behind it.

It ignores case if the expression around it does. The time limit on a long text is that of a
linear search: every repetition is bounded.
"""

_MASK: Final = "***"
# Compiled on first use: most programs show no URL.
_URL: Final = r"[A-Za-z][A-Za-z0-9+.-]{0,32}://[^\s\"'<>,]*"
# Up to the last "@": an invalid URL may have a password with "@", "/" or "#" in it.
_USER_INFO: Final = r"^((?:[A-Za-z][A-Za-z0-9+.-]*://)?)[^?]*@"
_QUERY: Final = r"(?s)[?#].*"
_VALUE: Final = r"(?<=[?&;#])(?:([^=&;#]*)=)?[^&;#]*"


def mask_url(url: str) -> str:
    """Return a URL, or `host:port`, with user, password, and all values of the query masked."""
    without_user = re.sub(_USER_INFO, rf"\1{_MASK}@", url)
    return re.sub(_QUERY, lambda query: re.sub(_VALUE, _masked_value, query[0]), without_user)


def mask_urls(text: str) -> str:
    """Return a text with each URL in it masked; see `mask_url`."""
    return re.sub(_URL, lambda found: mask_url(found[0]), text) if "://" in text else text


def _masked_value(found: re.Match[str]) -> str:
    if not found[0]:
        return ""
    return _MASK if found[1] is None else f"{found[1]}={_MASK}"
