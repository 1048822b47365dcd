"""Readers of OpenTelemetry's variables that take other values than our own options."""

from __future__ import annotations

from collections.abc import Mapping

from ._values import SAMPLING_RULES, read_texts

SIGNALS = ("traces", "metrics", "logs")


def exporter_from_otel(variables: Mapping[str, str]) -> str:
    # Not checked against a list: any exporter that the SDK finds may be named here.
    found = {
        signal: ",".join(read_texts(variables.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp")))
        for signal in SIGNALS
    }
    if len(set(found.values())) == 1:
        return found["traces"]
    return " ".join(f"{signal}={names}" for signal, names in found.items())


def sampling_from_otel(variables: Mapping[str, str]) -> str:
    # Samplers are plugins too, so every name passes through.
    (text,) = variables.values()
    names = [name.lower() for name in read_texts(text)]
    ours = [rule for rule in SAMPLING_RULES if rule in names]
    return ",".join(ours) if ours and set(ours) == set(names) else text.lower()


def metric_names_from_otel(variables: Mapping[str, str]) -> str | None:
    # A list that other libraries read as well: their entries say nothing to us.
    (text,) = variables.values()
    entries = {entry.lower() for entry in read_texts(text)}
    if "gen_ai_latest_experimental/dup" in entries:
        return "both"
    return "latest" if "gen_ai_latest_experimental" in entries else None
