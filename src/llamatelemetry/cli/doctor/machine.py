"""Checks of the GPUs of this machine, and of inference servers: `/health`, `/props`, `/metrics`."""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.config import mask_url
from llamatelemetry.genai.own_requests import open_url
from llamatelemetry.gpu import detect_cuda
from llamatelemetry.gpu.devices import dotted
from llamatelemetry.server_metrics.reader import ServerReader
from llamatelemetry.server_metrics.scrape import ScrapeError
from llamatelemetry.server_metrics.target import api_key_from_environment, parse_target
from llamatelemetry.server_metrics.vocabulary import FIGURES, split_key

if TYPE_CHECKING:
    from llamatelemetry.gpu import GpuDevice


def gpu_checks() -> list[Check]:
    """Return the GPUs that applications can use. A machine without a GPU is not a failure."""
    info = detect_cuda()
    if not info.available:
        return [Check("info", "NVIDIA", f"no NVIDIA GPU available: {info.reason}")]
    versions = f"driver {info.driver_version}, CUDA {info.cuda_version}"
    checks = [Check("ok", "NVIDIA", f"{len(info.devices)} available, {versions}")]
    return checks + [Check("ok", _title(d), _device(d)) for d in info.devices]


def _title(device: GpuDevice) -> str:
    return f"GPU {device.index}" if device.parent_uuid is None else f"part of GPU {device.index}"


def _device(device: GpuDevice) -> str:
    known = [device.name or "name unknown"]
    if device.memory_total_bytes is not None:
        known.append(f"{device.memory_total_bytes / 2**30:.0f} GiB")
    if device.compute_capability is not None:
        known.append(f"compute capability {dotted(device.compute_capability)}")
    return ", ".join((*known, device.uuid))


def server_checks(url: str, timeout_s: float) -> list[Check]:
    """Check `/health` of a llama.cpp server, and summarize its `/props` in one line."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/v1")
    title, base = mask_url(url), f"{parts.scheme}://{parts.netloc}{path}"
    try:
        status, server, body = _get(f"{base}/health", timeout_s)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        remedy = "Start llama-server there, or correct the URL"
        return [Check("fail", title, f"cannot connect: {reason}", remedy)]
    health = _health(title, status, body)
    if health.status != "ok":
        return [health]
    if "llama.cpp" not in server:
        detail = f"responds, but is not llama.cpp (Server: {server or 'not sent'})"
        remedy = "Check that the URL is the one of llama-server"
        return [health, Check("warn", title, detail, remedy)]
    return [health, _props(title, base, timeout_s)]


def scrape_checks(url: str) -> list[Check]:
    """Check a server of the option `server_metrics_urls`, by one scrape as the application's."""
    title = mask_url(url)
    try:
        scrape = ServerReader(parse_target(url, api_key_from_environment())).scrape()
    except ScrapeError as error:
        remedy = "Correct LLAMATELEMETRY_SERVER_METRICS_URLS, or start the server"
        return [Check("fail", title, f"cannot be scraped: {error}", remedy)]
    keys = {key for each in scrape.awake for key in (*each.counters, *each.gauges)}
    known = {split_key(key)[0] for key in keys} & {figure.name for figure in FIGURES}
    asleep = f", {len(scrape.asleep)} sleeping models" if scrape.asleep else ""
    detail = f"{scrape.engine.title}: {len(known)} of {len(FIGURES)} metrics{asleep}"
    if known or scrape.asleep:
        return [Check("ok", title, detail)]
    remedy = "Send a request to the server, or give the URL of its engine's metrics"
    return [Check("warn", title, detail, remedy)]


def _health(title: str, status: int, body: Mapping[str, Any]) -> Check:
    if status == 200:
        return Check("ok", title, f"healthy ({body.get('status', status)})")
    if status == 503:
        return Check("warn", title, "the model is still loading", "Run doctor again later")
    detail, remedy = (
        f"/health returned {status}",
        "Set --server to the URL of llama-server itself, without a path",
    )
    return Check("fail", title, detail, remedy)


def _props(title: str, base: str, timeout_s: float) -> Check:
    try:
        status, _, props = _get(f"{base}/props", timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return Check("warn", title, f"/props: {error}")
    if status == 401:
        return Check("info", title, "/props requires the server's API key")
    if status != 200:
        return Check("warn", title, f"/props returned {status}")
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
    return Check("ok", title, detail or "/props is empty")


def _get(url: str, timeout_s: float) -> tuple[int, str, dict[str, Any]]:
    """Return status, `Server` header and JSON object; an empty one if the body is not an object."""
    try:
        response = open_url(url, {}, timeout_s)
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
