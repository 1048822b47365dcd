"""The flags of a command as span attributes."""

from __future__ import annotations

from llamatelemetry.llama.server.address import Address
from llamatelemetry.llama.server.binary import Binary
from llamatelemetry.llama.server.launch import Launch


def test_shown_flags_omit_secrets_and_directories():
    flags = ("--hf-token", "hf_1", "--api-key-file=/a/b", "-m", "/home/me/m.gguf", "-ngl", "-1")
    launch = Launch(("x",), {}, flags, Address("127.0.0.1", 1), Binary(None, ""))
    assert launch.shown_flags() == [
        "--hf-token ***",
        "--api-key-file ***",
        "-m m.gguf",
        "-ngl -1",
    ]
