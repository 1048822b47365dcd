"""Observation of unread bodies of urllib3, which requests uses, too.

The response stays the same object: it gets a class that is derived from its own. Whatever reads the
body, such as `data`, `json` and `readline`, calls one of the methods that are overridden here.
"""

# `super()` is a class that only the response has.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import Limit, content_decoder, internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamatelemetry.genai import Observer
    from llamatelemetry_instrumentation_llamacpp._observed_send import Arguments, Keywords

_BODY: Final = "_llamatelemetry_body"


def observe_body(response: Any, observer: Observer, encoding: str) -> None:
    """Pass the decoded bytes of the body to `observer` while the application reads them."""
    if not isinstance(response, sys.modules["urllib3"].HTTPResponse):
        observer.on_close()  # A custom transport adapter, which does not use urllib3.
        return
    # Before the class is changed: its methods use it.
    response.__dict__[_BODY] = _Body(observer, encoding)
    response.__class__ = _observed(response.__class__)


class _Body:
    """Reports what a response reads. The end of the response abandons the stream."""

    __slots__ = ("_decode", "is_reading", "observer")

    def __init__(self, observer: Observer, encoding: str) -> None:
        self.observer = observer
        self.is_reading = False  # urllib3 closes the response itself when a read ends or fails
        self._decode = content_decoder(encoding)

    def read(self, read: Callable[[], bytes], *, is_decoded: bool) -> bytes:
        """Read a part of the body with `read`, and report it decoded."""
        self.is_reading = True
        try:
            data = read()
        except BaseException as error:
            self.observer.on_error(error)
            raise
        finally:
            self.is_reading = False
        if data:
            try:
                if is_decoded:
                    self.observer.on_chunk(data)
                elif self._decode is not None:
                    self.observer.on_chunk(self._decode(data))
            except Exception as error:
                internal_errors.log_once("reading the bytes of a response", error)
        return data


def _is_decoded(args: Arguments, kwargs: Keywords, default: Any) -> bool:
    given = args[1] if len(args) > 1 else kwargs.get("decode_content")
    return bool(default if given is None else given)


def _report_close(response: Any) -> None:
    body: _Body | None = response.__dict__.get(_BODY)
    if body is not None and not body.is_reading:
        body.observer.on_close()


# Whatever class the response has.
_Response: Any = object


class _ObservedResponse(_Response):
    """The methods of an observed response."""

    __slots__ = ()  # so that the class of a response can be replaced

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        """Read a part of the body, or all of it."""
        body: _Body = self.__dict__[_BODY]
        is_decoded = _is_decoded(args, kwargs, self.decode_content)
        data = body.read(partial(super().read, *args, **kwargs), is_decoded=is_decoded)
        amount = args[0] if args else kwargs.get("amt")
        if amount is None or (not data and amount):
            body.observer.on_end()
        return data

    def read1(self, *args: Any, **kwargs: Any) -> bytes:
        """Read the available part of the body."""
        body: _Body = self.__dict__[_BODY]
        is_decoded = _is_decoded(args, kwargs, self.decode_content)
        data = body.read(partial(super().read1, *args, **kwargs), is_decoded=is_decoded)
        if not data:
            body.observer.on_end()
        return data

    def read_chunked(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Iterate over the chunks of the body as the server sent them."""
        body: _Body = self.__dict__[_BODY]
        is_decoded = _is_decoded(args, kwargs, False)  # unlike the other methods
        following = partial(next, super().read_chunked(*args, **kwargs), b"")
        while chunk := body.read(following, is_decoded=is_decoded):
            yield chunk
        body.observer.on_end()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Iterate over the body. This calls one of the other methods."""
        yield from super().stream(*args, **kwargs)
        self.__dict__[_BODY].observer.on_end()

    def close(self) -> None:
        """Close the body. The stream ends here, unless the response is being destroyed."""
        _report_close(self)
        super().close()

    def release_conn(self) -> None:
        """Release the connection. A body that was not read to its end ends here."""
        _report_close(self)
        super().release_conn()

    def __del__(self) -> None:
        body: _Body | None = self.__dict__.pop(_BODY, None)
        if body is not None:
            body.observer.on_abandon()
        destroy = getattr(super(), "__del__", None)  # It closes the response.
        if destroy is not None:
            destroy()


@Limit("urllib3_classes", 8, "Classes of responses of urllib3").cached
def _observed(kind: type[Any]) -> type[Any]:
    """Create the class of observed responses of a class."""
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(kind, name) for name in names}
    return type(kind.__name__, (_ObservedResponse, kind), namespace)
