"""Compare `BenchmarkRunner` with NVIDIA's aiperf: measured latencies and maximum load.

Latencies: both measure the same llama.cpp server alternately, and a server with known delays.
Maximum load: each client is pinned to one core, and a server without delays to another.

    python3 -m venv /tmp/aiperf && /tmp/aiperf/bin/pip install aiperf
    .venv/bin/python benchmarks/bench_beside_aiperf.py --aiperf /tmp/aiperf/bin/aiperf

aiperf calls TPOT "inter token latency". It also streams and warms up, but has no option for the
prompt cache, so each prompt is sent only once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamatelemetry.bench import (
    BenchmarkProfile,
    BenchmarkResults,
    BenchmarkRunner,
    synthetic_prompts,
)
from llamatelemetry.llama import LlamaCppClient, ServerConfig, ServerManager
from llamatelemetry.llama.embedded import find_demo_model

ROOT = Path(__file__).parents[1]
MODEL = "smollm2"
METRICS = {"TTFT": "ttft", "TPOT": "tpot", "E2E": "e2e"}
AIPERF_METRICS = {
    "TTFT": "time_to_first_token",
    "TPOT": "inter_token_latency",
    "E2E": "request_latency",
}
# aiperf requires a tokenizer although the server counts tokens, and would download its default.
TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
bpe = models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[])
tokenizer = Tokenizer(bpe)
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(sys.argv[1])
"""


def run_aiperf(program: str, url: str, prompts: Sequence[str], *options: str) -> dict[str, Any]:
    """Run aiperf against a server and return its JSON report."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer, prompts_file = Path(directory) / "tokenizer", Path(directory) / "prompts.jsonl"
        python = Path(program).with_name("python")
        subprocess.run([python, "-c", TOKENIZER, tokenizer], check=True, capture_output=True)
        prompts_file.write_text("".join(json.dumps({"text": text}) + "\n" for text in prompts))
        command = [
            *(program, "profile", "--model", MODEL, "--url", url, "--endpoint-type", "chat"),
            *("--streaming", "--tokenizer", str(tokenizer), "--use-server-token-count"),
            *("--input-file", str(prompts_file), "--custom-dataset-type", "single_turn"),
            *("--request-count", str(len(prompts)), "--artifact-dir", directory),
            *("--ui", "none", "--workers-max", "1", *options),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"aiperf failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        found = Path(directory).rglob("profile_export_aiperf.json")
        # Deeper directories hold the reports of single runs.
        report = min(found, key=lambda path: len(path.parts))
        return json.loads(report.read_text())


def compare_on_real_server(program: str, rounds: int, concurrency: int, max_tokens: int) -> None:
    """Print the medians of both, measured alternately on a real server."""
    config = ServerConfig(
        find_demo_model(), alias=MODEL, port=0, n_ctx=2048, n_parallel=2, threads=1
    )
    found: dict[str, dict[str, list[float]]] = {name: {"own": [], "aiperf": []} for name in METRICS}
    with ServerManager(config, binary="embedded") as server, LlamaCppClient(server.url) as client:
        for turn in range(rounds):
            own_prompts = synthetic_prompts(client, 10, 64, seed=2 * turn)
            runner = BenchmarkRunner(
                client,
                BenchmarkProfile.QUICK,
                concurrency=concurrency,
                max_tokens=max_tokens,
                progress=False,
            )
            results = runner.run(MODEL, own_prompts)
            aiperf_prompts = synthetic_prompts(client, 10, 64, seed=2 * turn + 1)
            report = run_aiperf(
                program,
                server.url,
                aiperf_prompts,
                *("--concurrency", str(concurrency), "--warmup-request-count", "2"),
                *("--extra-inputs", json.dumps({"max_tokens": max_tokens, "temperature": 0,
                                                "ignore_eos": True, "cache_prompt": False})),
            )  # fmt: skip
            for name in METRICS:
                own_ms = results.figures[METRICS[name]].quantiles[0.5].value * 1000
                found[name]["own"].append(own_ms)
                found[name]["aiperf"].append(report[AIPERF_METRICS[name]]["p50"])
    print(f"\nReal server, concurrency {concurrency}, {rounds} rounds of 10 requests: p50 (ms)")
    print(f"{'':6}{'llamatelemetry':>16}{'aiperf':>10}{'difference':>12}")
    for name, both in found.items():
        own_median, aiperf_ms = (statistics.median(both[tool]) for tool in ("own", "aiperf"))
        print(f"{name:6}{own_median:>16.1f}{aiperf_ms:>10.1f}{own_median / aiperf_ms - 1:>+12.1%}")


def compare_on_known_delays(program: str) -> None:
    """Print the medians of both on a server with a TTFT of 300 ms and a TPOT of 30 ms."""
    script = {"first_s": 0.3, "gaps_s": [0.03] * 7, "timings": False}
    with scripted_server() as url:
        runner = BenchmarkRunner(LlamaCppClient(url), BenchmarkProfile.STANDARD, progress=False)
        results = runner.run(MODEL, [json.dumps(script)])
        report = run_aiperf(program, url, [json.dumps(script)] * 50, "--concurrency", "1")
    print("\nKnown delays, concurrency 1, 50 requests: p50 (ms)")
    print(f"{'':6}{'true':>10}{'llamatelemetry':>16}{'aiperf':>10}")
    for name, true_ms in {"TTFT": 300.0, "TPOT": 30.0, "E2E": 510.0}.items():
        own_ms = results.figures[METRICS[name]].quantiles[0.5].value * 1000
        aiperf_ms = report[AIPERF_METRICS[name]]["p50"]
        print(f"{name:6}{true_ms:>10.1f}{own_ms:>16.1f}{aiperf_ms:>10.1f}")


@contextmanager
def scripted_server() -> Iterator[str]:
    """Start a server that takes its delays from the prompt, pinned to the last core."""
    server = ROOT / "tests/support/timed_server.py"
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(server), f"{directory}/truth", "--slots", "64"]
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
            process.wait()


def measure_limits(program: str | None, concurrency: int) -> None:
    """Print the maximum request rate and the dispatch delay, on one core, without server delays."""
    core = min(os.sched_getaffinity(0))
    all_cores = os.sched_getaffinity(0)
    prompt = json.dumps({"timings": False})
    with scripted_server() as url:
        os.sched_setaffinity(0, {core})
        print(f"\nNo delay, one core, concurrency {concurrency}, 200 requests of one token")
        rate = _benchmark(url, prompt, concurrency=concurrency).totals.request_rate
        print(f"llamatelemetry {rate:8.0f} requests/s")
        if program is not None:
            report = run_aiperf(program, url, [prompt] * 200, "--concurrency", str(concurrency))
            print(f"aiperf         {report['request_throughput']['avg']:8.0f} requests/s")
        for rate in (20, 50, 100):
            results = _benchmark(url, prompt, rate=rate)
            lag, ttft = (results.figures[name].quantiles for name in ("lag", "ttft"))
            print(
                f"llamatelemetry at {rate:3}/s: dispatch delay p50 {lag[0.5].value * 1000:.2f} ms, p99 "
                f"{lag[0.99].value * 1000:.2f} ms; TTFT p50 {ttft[0.5].value * 1000:.2f} ms"
            )
            if program is not None:
                report = run_aiperf(program, url, [prompt] * 200, "--request-rate", str(rate))
                print(f"  aiperf: TTFT p50 {report['time_to_first_token']['p50']:.2f} ms")
        os.sched_setaffinity(0, all_cores)


def _benchmark(url: str, prompt: str, **load: Any) -> BenchmarkResults:
    runner = BenchmarkRunner(
        LlamaCppClient(url), BenchmarkProfile.THOROUGH, max_tokens=1, progress=False, **load
    )
    return runner.run(MODEL, [prompt])


def main() -> None:
    """Run the comparisons that the options select."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--aiperf", help="aiperf program; only limits if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    if options.aiperf:
        compare_on_known_delays(options.aiperf)
        for concurrency in (1, 2):
            compare_on_real_server(options.aiperf, options.rounds, concurrency, options.max_tokens)
    measure_limits(options.aiperf, options.concurrency)


if __name__ == "__main__":
    main()
