"""Observation of unread bodies of urllib3, which requests uses, too.

The response stays the same object: it gets a class that is derived from its own. Whatever reads the
body, such as `data`, `json` and `readline`, calls one of the methods that are overridden here.
"""

# `super()` is a class that only the response has.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamatelemetry.genai import Observer
    from llamatelemetry_instrumentation_llamacpp._http_call import Arguments, Keywords

_BODY: Final = "_llamatelemetry_body"


def observe_body(response: Any, observer: Observer, encoding: str) -> None:
    """Pass the decoded bytes of the body to `observer` while the application reads them."""
    try:
        # Before the class is changed: its methods use it.
        response.__dict__[_BODY] = _Body(observer, is_encoded=bool(encoding))
        response.__class__ = _observed(response.__class__)
    except (AttributeError, TypeError):  # A custom transport adapter, which does not use urllib3.
        observer.on_close()


class _Body:
    """Reports what a response reads. The end of the response abandons the stream."""

    __slots__ = ("_is_encoded", "observer")

    def __init__(self, observer: Observer, *, is_encoded: bool) -> None:
        self.observer = observer
        self._is_encoded = is_encoded

    def read(
        self, response: Any, read: Callable[..., bytes], args: Arguments, kwargs: Keywords
    ) -> bytes:
        """Read a part of the body."""
        try:
            data = read(*args, **kwargs)
        except BaseException as error:
            self.observer.on_error(error)
            raise
        self.pass_on(response, data, args, kwargs)
        return data

    def pass_on(self, response: Any, data: bytes, args: Arguments, kwargs: Keywords) -> None:
        """Report bytes, unless they are encoded."""
        if not data:
            return
        is_decoded = args[1] if len(args) > 1 else kwargs.get("decode_content")
        if is_decoded is None:
            is_decoded = response.decode_content
        if is_decoded or not self._is_encoded:
            self.observer.on_chunk(data)


# Whatever class the response has.
_Response: Any = object


class _ObservedResponse(_Response):
    """The methods of an observed response."""

    __slots__ = ()  # so that the class of a response can be replaced

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        """Read a part of the body, or all of it."""
        body: _Body = self.__dict__[_BODY]
        data = body.read(self, super().read, args, kwargs)
        amount = args[0] if args else kwargs.get("amt")
        if amount is None or (not data and amount):
            body.observer.on_end()
        return data

    def read1(self, *args: Any, **kwargs: Any) -> bytes:
        """Read the available part of the body."""
        body: _Body = self.__dict__[_BODY]
        data = body.read(self, super().read1, args, kwargs)
        if not data:
            body.observer.on_end()
        return data

    def read_chunked(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Iterate over the chunks of the body as the server sent them."""
        body: _Body = self.__dict__[_BODY]
        try:
            for chunk in super().read_chunked(*args, **kwargs):
                body.pass_on(self, chunk, args, kwargs)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            body.observer.on_error(error)
            raise
        body.observer.on_end()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Iterate over the body. This calls one of the other methods."""
        yield from super().stream(*args, **kwargs)
        self.__dict__[_BODY].observer.on_end()

    def close(self) -> None:
        """Close the body. The stream ends here, unless the response is being destroyed."""
        body: _Body | None = self.__dict__.get(_BODY)
        if body is not None:
            body.observer.on_close()
        super().close()

    def release_conn(self) -> None:
        """Release the connection, as urllib3 itself does at the end of the body."""
        if not self.closed:
            self.__dict__[_BODY].observer.on_close()
        super().release_conn()

    def __del__(self) -> None:
        body: _Body | None = self.__dict__.pop(_BODY, None)
        if body is not None:
            body.observer.on_abandon()
        destroy = getattr(super(), "__del__", None)  # It closes the response.
        if destroy is not None:
            destroy()


@lru_cache(maxsize=8)
def _observed(kind: type[Any]) -> type[Any]:
    """Create the class of observed responses of a class."""
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(kind, name) for name in names}
    return type(kind.__name__, (_ObservedResponse, kind), namespace)
