"""The buffer of an output after the end of its reader, as in `program | head`."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


def discard_buffer(out: Any) -> None:
    """Discard what a text stream could not write, because its pipe has no reader.

    Otherwise the interpreter tries to write it at exit, prints an error, and exits with 120. A
    buffer can be emptied only by writing it, so the descriptor is the null device meanwhile.
    """
    with suppress(OSError, ValueError, AttributeError):  # It is closed, or not a file.
        descriptor = out.fileno()
        is_inherited = os.get_inheritable(descriptor)
        pipe = os.dup(descriptor)
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, descriptor, is_inherited)
                out.flush()
            finally:
                os.dup2(pipe, descriptor, is_inherited)
                os.close(null)
        finally:
            os.close(pipe)
