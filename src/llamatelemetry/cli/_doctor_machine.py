"""What this machine and a llama.cpp server say of themselves: GPUs, ``/health``, ``/props``."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from llamatelemetry.cli._doctor_check import Check, without_userinfo
from llamatelemetry.genai import is_loopback
from llamatelemetry.gpu import detect_cuda

if TYPE_CHECKING:
    from llamatelemetry.gpu import GpuDevice

GPU_SECTION = "GPU"
SERVER_SECTION = "Server"


def gpu_checks() -> list[Check]:
    """The GPUs that programs can use here. None is a normal state: one line, never a failure."""
    info = detect_cuda()
    if not info.available:
        return [Check(GPU_SECTION, "info", "NVIDIA", f"no GPU to use: {info.reason}")]
    versions = f"driver {info.driver_version}, CUDA {info.cuda_version}"
    checks = [Check(GPU_SECTION, "ok", "NVIDIA", f"{len(info.devices)} to use, {versions}")]
    return checks + [Check(GPU_SECTION, "ok", _title(d), _device(d)) for d in info.devices]


def _title(device: GpuDevice) -> str:
    return f"GPU {device.index}" if device.parent_uuid is None else f"part of GPU {device.index}"


def _device(device: GpuDevice) -> str:
    known = [device.name or "name unknown"]
    if device.memory_total_bytes is not None:
        known.append(f"{device.memory_total_bytes / 2**30:.0f} GiB")
    if device.compute_capability is not None:
        known.append("compute capability {}.{}".format(*device.compute_capability))
    return ", ".join((*known, device.uuid))


def is_server_url(url: str) -> bool:
    """Whether `url` is an http(s) address with a host and a port that is a number."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def server_checks(url: str, timeout_s: float) -> list[Check]:
    """A llama.cpp server's ``/health``, and its ``/props`` in one line."""
    title, base = without_userinfo(url), url.rstrip("/").removesuffix("/v1")
    try:
        status, server, body = _get(f"{base}/health", timeout_s)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return [
            Check(SERVER_SECTION, "fail", title, f"no answer: {reason}", "start llama-server there")
        ]
    health = _health(title, status, body)
    if health.status != "ok":
        return [health]
    if "llama.cpp" not in server:
        detail = f"answers, but not as llama.cpp (Server: {server or 'none'})"
        return [health, Check(SERVER_SECTION, "warn", title, detail, "is this another server?")]
    return [health, _props(title, base, timeout_s)]


def _health(title: str, status: int, body: Mapping[str, Any]) -> Check:
    if status == 200:
        return Check(SERVER_SECTION, "ok", title, f"healthy ({body.get('status', status)})")
    if status == 503:
        return Check(
            SERVER_SECTION, "warn", title, "still loading its model", "try again in a moment"
        )
    detail, remedy = (
        f"/health answers {status}",
        "give the address of llama-server itself, without a path",
    )
    return Check(SERVER_SECTION, "fail", title, detail, remedy)


def _props(title: str, base: str, timeout_s: float) -> Check:
    try:
        status, _, props = _get(f"{base}/props", timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return Check(SERVER_SECTION, "warn", title, f"/props: {error}")
    if status == 401:
        return Check(SERVER_SECTION, "info", title, "/props needs the server's API key")
    if status != 200:
        return Check(SERVER_SECTION, "warn", title, f"/props answers {status}")
    settings = props.get("default_generation_settings")
    n_ctx = cast("Mapping[str, Any]", settings).get("n_ctx") if isinstance(settings, dict) else None
    known = {
        "model": props.get("model_alias") or Path(str(props.get("model_path") or "")).name,
        "build": props.get("build_info"),
        "context per slot": n_ctx,
        "slots": props.get("total_slots"),
        "metrics": {True: "on", False: "off (start it with --metrics)"}.get(
            cast("bool", props.get("endpoint_metrics"))
        ),
    }
    detail = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    return Check(SERVER_SECTION, "ok", title, detail or "/props is empty")


def _get(url: str, timeout_s: float) -> tuple[int, str, dict[str, Any]]:
    """Status, ``Server`` header and JSON body; a body that is no JSON object is empty."""
    # A proxy of the environment would look for the server on its own machine.
    direct = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname) else []
    try:
        response = urllib.request.build_opener(*direct).open(url, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        text = response.read(1_000_000)
        status, server = int(response.status or 0), str(response.headers.get("Server") or "")
    try:
        body: object = json.loads(text)
    except ValueError:
        body = None
    return status, server, cast("dict[str, Any]", body) if isinstance(body, dict) else {}
