"""HTTP requests that llamatelemetry itself sends to an inference server, if an option asks for it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from llamatelemetry.genai.servers import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping


def open_url(
    url: str, headers: Mapping[str, str], timeout_s: float, *, use_proxy: bool = True
) -> Any:
    """Send a GET request and return the open response, which is a context manager.

    Redirects are not followed, because the key in the headers is for this server only. User and
    password of the URL are sent as basic authentication.

    Args:
        url: URL with the scheme `http` or `https`.
        headers: Headers of the request. They may contain credentials.
        timeout_s: Time limit of each read and of the connection attempt, in seconds.
        use_proxy: Whether a proxy of the environment is used. Must be `False` if the headers
            have credentials of the application, whose own client may bypass that proxy. A
            loopback server is always reached directly, because a proxy would look for it on its
            own machine.

    Raises:
        urllib.error.HTTPError: The status is not 2xx.
        OSError: The server cannot be reached.
        http.client.HTTPException: The response is invalid.
    """
    # Imported here, because `http.client` takes longer to import than the rest of this package.
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
            """Do not follow the redirect."""

    parts = urlsplit(url)
    authorization = basic_authorization(parts.username, parts.password)
    # urllib would look up `user:password@host` as a host name, which shows it to the name server.
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(  # noqa: S310 - callers accept http(s) only
        address, headers={**authorization, **headers}
    )
    is_direct = not use_proxy or is_loopback(parts.hostname)
    direct = [urllib.request.ProxyHandler({})] if is_direct else []
    return urllib.request.build_opener(NoRedirect, *direct).open(request, timeout=timeout_s)


def httpx_mounts(host: str | None) -> dict[str, None] | None:
    """Return the `mounts` of an httpx client for a server: no proxy for a loopback server.

    A proxy of the environment would get the prompts. `None` as a transport stands for the
    client's own one.
    """
    return dict.fromkeys(("http://", "https://", "all://")) if is_loopback(host) else None


def basic_authorization(user: str | None, password: str | None) -> dict[str, str]:
    """Return the header of basic authentication for user and password of a URL, if any."""
    if not user and not password:
        return {}
    pair = f"{unquote(user or '')}:{unquote(password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
