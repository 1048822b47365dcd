"""Checks of the GPUs of this machine, and of the servers that are scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.config import mask_url
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
