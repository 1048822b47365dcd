"""HTTP requests that llamatelemetry itself sends to an inference server, if an option asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llamatelemetry.genai.servers import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping


def open_url(url: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    """Send a GET request and return the open response, which is a context manager.

    Redirects are not followed, because the key in the headers is for this server only. A loopback
    server is reached directly, because a proxy would look for it on its own machine.

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

    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - callers accept http(s) only
    direct = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname) else []
    return urllib.request.build_opener(NoRedirect, *direct).open(request, timeout=timeout_s)
