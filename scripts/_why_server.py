"""llama.cpp's server behind a proxy that delays, stalls or rejects requests on demand.

    python scripts/_why_server.py --core 1
    python scripts/_why_server.py --upstream 8080 --certificate cert.pem --key key.pem

Prints the port of the proxy. Both run in this process on one CPU core, so that the listening process
is the server. With `--upstream`, only the proxy runs, in front of another server. With a
certificate it speaks TLS. The request header `x-fault` selects the fault of a request:

    delay=MS     forward the request later
    stall=N:MS   pause before the Nth piece of the response
    fail=ID      answer the first request with this ID with status 503
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
from urllib.parse import urlsplit

SLOTS = 2
REJECTED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
# A template that, unlike that of the demo's model, contains the tools.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def start_server() -> tuple[object, int]:
    """Start the server with one thread, and without the second cache that hides evictions."""
    import xllamacpp

    from llamatelemetry.llama.embedded import find_demo_model

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_demo_model())
    parameters.n_ctx = 4096
    parameters.n_parallel = SLOTS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = True
    parameters.cache_ram_mib = 0
    parameters.use_jinja = True
    parameters.chat_template = TEMPLATE
    server = xllamacpp.Server(parameters)
    return server, urlsplit(server.listening_address).port or 0


class Proxy:
    """One upstream connection per request, which is closed after its response."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._failed: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one request and its response."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._forward(reader, writer)
        with contextlib.suppress(OSError):
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (
                line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]
            )
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        faults = dict(
            item.partition("=")[::2] for item in headers.get("x-fault", "").split(",") if item
        )
        if "fail" in faults and faults["fail"] not in self._failed:
            self._failed.add(faults["fail"])
            writer.write(REJECTED)
            await writer.drain()
            return
        await asyncio.sleep(float(faults.get("delay", 0)) / 1000)
        await self._relay(writer, head, body, faults.get("stall", ""))

    async def _relay(
        self, writer: asyncio.StreamWriter, head: bytes, body: bytes, stall: str
    ) -> None:
        upstream, sender = await asyncio.open_connection("127.0.0.1", self._upstream)
        lines = [
            line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")
        ]
        sender.write(b"\r\n".join([lines[0], b"connection: close", *lines[1:]]) + body)
        at, _, ms = stall.partition(":")
        pieces = 0
        while piece := await upstream.read(65536):
            pieces += 1
            if at and pieces == int(at):
                await asyncio.sleep(float(ms) / 1000)
            writer.write(piece)
            await writer.drain()
        sender.close()


async def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int)
    parser.add_argument("--upstream", type=int)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    server, port = (None, options.upstream) if options.upstream else start_server()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    proxy = await asyncio.start_server(Proxy(port).serve, "127.0.0.1", 0, ssl=tls)
    sys.stdout.write(f"{proxy.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with proxy:
        await proxy.serve_forever()
    del server


if __name__ == "__main__":
    asyncio.run(main())
