"""Our benchmark beside NVIDIA's aiperf, on the same llama.cpp server and against a server of no delay.

Two questions. Do both measure the same? They are given the same prompts for the same server, in
turns. And how much load can each make? Both are pinned to one core, the server to another.

    python3 -m venv /tmp/aiperf && /tmp/aiperf/bin/pip install aiperf
    .venv/bin/python benchmarks/bench_beside_aiperf.py --aiperf /tmp/aiperf/bin/aiperf

aiperf's "inter token latency" is what is called TPOT here. It streams and warms up as we do; of the
prompt cache it knows nothing, so each prompt is sent once by each of the two.
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
from llamatelemetry.llama import LlamaCppClient
from llamatelemetry.llama.embedded import EmbeddedOptions, EmbeddedServer, find_demo_model

ROOT = Path(__file__).parents[1]
MODEL = "smollm2"
OURS = {"TTFT": "ttft", "TPOT": "tpot", "E2E": "e2e"}
THEIRS = {
    "TTFT": "time_to_first_token",
    "TPOT": "inter_token_latency",
    "E2E": "request_latency",
}
# aiperf insists on a tokenizer, though the server counts; its builtin one is downloaded.
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


def aiperf(program: str, url: str, prompts: Sequence[str], *options: str) -> dict[str, Any]:
    """What aiperf says of a server: its own JSON."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, questions = Path(folder) / "tokenizer", Path(folder) / "prompts.jsonl"
        python = Path(program).with_name("python")
        subprocess.run([python, "-c", TOKENIZER, tokenizer], check=True, capture_output=True)
        questions.write_text("".join(json.dumps({"text": text}) + "\n" for text in prompts))
        command = [
            *(program, "profile", "--model", MODEL, "--url", url, "--endpoint-type", "chat"),
            *("--streaming", "--tokenizer", str(tokenizer), "--use-server-token-count"),
            *("--input-file", str(questions), "--custom-dataset-type", "single_turn"),
            *("--request-count", str(len(prompts)), "--artifact-dir", folder),
            *("--ui", "none", "--workers-max", "1", *options),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"aiperf failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        found = Path(folder).rglob("profile_export_aiperf.json")
        report = min(found, key=lambda path: len(path.parts))  # the others are of single runs
        return json.loads(report.read_text())


def agreement(program: str, rounds: int, concurrency: int, max_tokens: int) -> None:
    """Medians of both, in turns, on one real server."""
    options = EmbeddedOptions(
        model_path=find_demo_model(), alias=MODEL, parallel=2, metrics=True, slots=True
    )
    found: dict[str, dict[str, list[float]]] = {name: {"ours": [], "aiperf": []} for name in OURS}
    with EmbeddedServer(options) as server, LlamaCppClient(server.url) as client:
        for turn in range(rounds):
            mine = synthetic_prompts(client, 10, 64, seed=2 * turn)
            runner = BenchmarkRunner(
                client,
                BenchmarkProfile.QUICK,
                concurrency=concurrency,
                max_tokens=max_tokens,
                progress=False,
            )
            results = runner.run(MODEL, mine)
            theirs = synthetic_prompts(client, 10, 64, seed=2 * turn + 1)
            report = aiperf(
                program,
                server.url,
                theirs,
                *("--concurrency", str(concurrency), "--warmup-request-count", "2"),
                *("--extra-inputs", json.dumps({"max_tokens": max_tokens, "temperature": 0,
                                                "ignore_eos": True, "cache_prompt": False})),
            )  # fmt: skip
            for name in OURS:
                ours_ms = results.figures[OURS[name]].quantiles[0.5].value * 1000
                found[name]["ours"].append(ours_ms)
                found[name]["aiperf"].append(report[THEIRS[name]]["p50"])
    print(f"\nReal server, {concurrency} at a time, {rounds} rounds of 10: medians in ms")
    print(f"{'':6}{'ours':>10}{'aiperf':>10}{'difference':>12}")
    for name, both in found.items():
        ours, theirs_ms = (statistics.median(both[who]) for who in ("ours", "aiperf"))
        print(f"{name:6}{ours:>10.1f}{theirs_ms:>10.1f}{ours / theirs_ms - 1:>+12.1%}")


def known_delays(program: str) -> None:
    """Medians of both on a server of known delays: 300 ms, then seven times 30 ms."""
    script = {"first_s": 0.3, "gaps_s": [0.03] * 7, "timings": False}
    with scripted_server() as url:
        runner = BenchmarkRunner(LlamaCppClient(url), BenchmarkProfile.STANDARD, progress=False)
        results = runner.run(MODEL, [json.dumps(script)])
        report = aiperf(program, url, [json.dumps(script)] * 50, "--concurrency", "1")
    print("\nKnown delays, one at a time, 50 requests: medians in ms")
    print(f"{'':6}{'true':>10}{'ours':>10}{'aiperf':>10}")
    for name, true_ms in {"TTFT": 300.0, "TPOT": 30.0, "E2E": 510.0}.items():
        ours_ms = results.figures[OURS[name]].quantiles[0.5].value * 1000
        print(f"{name:6}{true_ms:>10.1f}{ours_ms:>10.1f}{report[THEIRS[name]]['p50']:>10.1f}")


@contextmanager
def scripted_server() -> Iterator[str]:
    """A server that takes what time the prompt says, on the last core."""
    server = ROOT / "tests/bench/scripted.py"
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(server), f"{folder}/truth", "--slots", "64"]
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
            process.wait()


def limits(program: str | None, concurrency: int) -> None:
    """Requests per second and dispatch lag of each, on one core, with a server that takes no time."""
    core = min(os.sched_getaffinity(0))
    everywhere = os.sched_getaffinity(0)
    prompt = json.dumps({"timings": False})
    with scripted_server() as url:
        os.sched_setaffinity(0, {core})
        print(f"\nNo delay, one core: {concurrency} at a time, 200 requests of one token")
        print(
            f"ours    {_ours(url, prompt, concurrency=concurrency).totals.request_rate:8.0f} requests/s"
        )
        if program is not None:
            report = aiperf(program, url, [prompt] * 200, "--concurrency", str(concurrency))
            print(f"aiperf  {report['request_throughput']['avg']:8.0f} requests/s")
        for rate in (20, 50, 100):
            results = _ours(url, prompt, rate=rate)
            lag, ttft = (results.figures[name].quantiles for name in ("lag", "ttft"))
            print(
                f"ours at {rate:3}/s: dispatch lag p50 {lag[0.5].value * 1000:.2f} ms, p99 "
                f"{lag[0.99].value * 1000:.2f} ms; TTFT of no delay p50 {ttft[0.5].value * 1000:.2f} ms"
            )
            if program is not None:
                report = aiperf(program, url, [prompt] * 200, "--request-rate", str(rate))
                print(
                    f"  aiperf: TTFT of no delay p50 {report['time_to_first_token']['p50']:.2f} ms"
                )
        os.sched_setaffinity(0, everywhere)


def _ours(url: str, prompt: str, **load: Any) -> BenchmarkResults:
    runner = BenchmarkRunner(
        LlamaCppClient(url), BenchmarkProfile.THOROUGH, max_tokens=1, progress=False, **load
    )
    return runner.run(MODEL, [prompt])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--aiperf", help="the program; without it, only our own limits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    if options.aiperf:
        known_delays(options.aiperf)
        for at_once in (1, 2):
            agreement(options.aiperf, options.rounds, at_once, options.max_tokens)
    limits(options.aiperf, options.concurrency)


if __name__ == "__main__":
    main()
