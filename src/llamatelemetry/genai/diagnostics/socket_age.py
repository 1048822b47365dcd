"""How long the newest data of a TCP connection has been in the kernel of this machine.

No timestamp of the client can tell a late client from a late network: both see the data at the
moment of the read. The kernel knows when the data arrived. Linux reports that in `TCP_INFO`
(`tcp(7)`, `struct tcp_info` in `linux/tcp.h`), in milliseconds since then. The resolution is that
of the kernel's timer, mostly 4 ms. One reading takes a microsecond.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable

RESOLUTION_S: Final = 0.004

# The offset of `tcpi_last_data_recv`: eight bytes, then eleven 32-bit numbers before it.
_OFFSET: Final = 8 + 11 * 4
_SIZE: Final = _OFFSET + 4
_unpack: Final[Callable[[bytes, int], tuple[int]]] = struct.Struct("=I").unpack_from  # type: ignore[assignment]
_IS_LINUX: Final = sys.platform == "linux"
_TCP_INFO: Final = 11  # Python has this constant only where the system does.


def socket_of(network_stream: Any) -> Any:
    """Return the socket of a network stream of httpcore, also below TLS; `None` if it has none.

    Some event loops have an object instead that only looks like a socket, and some systems do not
    report the age of data. `socket_age_s` returns `None` there.
    """
    if not _IS_LINUX or network_stream is None:
        return None
    try:
        return network_stream.get_extra_info("socket")
    except Exception as error:  # A stream of the application's own transport.
        internal_errors.raise_if_from_signal_handler(error)
        return None


def socket_age_s(sock: Any) -> float | None:
    """Return the seconds since the newest data arrived; `None` if that is unknown."""
    try:
        (age_ms,) = _unpack(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SIZE), _OFFSET)
    except Exception as error:  # Closed, not TCP, or not a real socket.
        internal_errors.raise_if_from_signal_handler(error)
        return None
    return age_ms / 1000
