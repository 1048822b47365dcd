"""A replacement of llama-server with its real argument parser, from the xllamacpp wheel.

The wheel exports the parser of llama-server. The parameters that it fills are stored inline in the
Python object. This layout is certain for the pinned version only, so it is checked first: the exit
status is 77 if the check fails.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import xllamacpp

_PARSER = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
_OBJECT_HEADER_BYTES = 16
_LLAMA_EXAMPLE_SERVER = 12


def parse(arguments: list[str]) -> tuple[bool, xllamacpp.CommonParams]:
    parser = ctypes.CDLL(xllamacpp.xllamacpp.__file__)[_PARSER]
    parser.restype = ctypes.c_bool
    parameters = xllamacpp.CommonParams()
    argv = (ctypes.c_char_p * len(arguments))(*map(os.fsencode, arguments))
    accepted = parser(
        ctypes.c_int(len(argv)),
        argv,
        ctypes.c_void_p(id(parameters) + _OBJECT_HEADER_BYTES),
        ctypes.c_int(_LLAMA_EXAMPLE_SERVER),
        ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(0),
    )
    return accepted, parameters


def main() -> int:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)
    accepted, probe = parse(["llama-server", "--port", "4242"])
    if not accepted or probe.port != 4242:
        return 77
    accepted, parameters = parse(["llama-server", *sys.argv[1:]])
    if not accepted:
        return 1
    parameters.warmup = False
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    while server:
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
