"""Process groups of real processes over gloo: results, errors without a hang, and telemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from llamatelemetry.nccl import CollectiveError, NCCLGroup
from llamatelemetry.nccl._collectives import CpuRunner, time_all_reduce
from tests.support.torch_ranks import run_ranks

pytestmark = pytest.mark.needs("gloo")

SIZE = 64 * 1024


def _twice(rank):
    found = []
    # The second group must not find keys of the first one.
    for _ in range(2):
        with NCCLGroup(2, "gloo", rank=rank, timeout_s=20) as group:
            results = group.check(size_bytes=SIZE, iterations=3, warmup=1)
            found.append((group.backend, group.owns_group, results.to_dict()))
    import torch.distributed

    return found, torch.distributed.is_initialized()


def test_two_ranks_time_all_reduce_and_close_group():
    found = run_ranks(_twice)
    # Both ranks return the time of the slowest one.
    assert found[0] == found[1]
    checks, still_open = found[0]
    assert not still_open
    for backend, owned, results in checks:
        assert (backend, owned) == ("gloo", True)
        times_and_speeds = [results.pop(key) for key in ("time_s", "min_time_s", "algbw", "busbw")]
        assert results == {
            "operation": "all_reduce",
            "backend": "gloo",
            "world_size": 2,
            "size_bytes": SIZE,
            "iterations": 3,
            "fallback_reason": None,
        }
        time_s, min_time_s, algbw, busbw = times_and_speeds
        assert 0 < min_time_s <= time_s
        assert algbw == pytest.approx(SIZE / time_s / 1e9)
        # The factor 2 * (n - 1) / n is 1 for two ranks.
        assert busbw == pytest.approx(algbw)


def _one_is_slow_to_leave(slow, rank):
    sizes = []
    for _ in range(3):
        with NCCLGroup(2, "gloo", rank=rank, timeout_s=20) as group:
            sizes.append(group.check(size_bytes=SIZE, iterations=1, warmup=0).world_size)
            if rank == slow:
                time.sleep(0.7)  # This rank closes its group late.
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
def test_next_group_opens_when_one_rank_leaves_the_last_one_late(slow):
    """Open groups whose store is on rank 0, where the store of the last group may still be open."""
    assert run_ranks(partial(_one_is_slow_to_leave, slow)) == {0: [2, 2, 2], 1: [2, 2, 2]}


class _FixedTimeRunner(CpuRunner):
    """Runner of real collectives that reports 8 s on rank 0 and 12 s on rank 1."""

    def seconds(self, since, until):
        import torch.distributed

        return (8.0, 12.0)[torch.distributed.get_rank()]


def _time_with_fixed_times(rank):
    import torch

    with NCCLGroup(2, "gloo", rank=rank, timeout_s=20):
        runner = _FixedTimeRunner(torch, time.monotonic() + 20)
        return time_all_reduce(torch, runner, SIZE, iterations=4, warmup=1)


def test_times_are_per_operation_of_slowest_and_fastest_rank():
    assert run_ranks(_time_with_fixed_times) == {0: (3.0, 2.0), 1: (3.0, 2.0)}


def _falls_back(rank):
    with NCCLGroup(2, rank=rank, fallback="gloo", timeout_s=20) as group:
        results = group.check(size_bytes=SIZE, iterations=1)
    return group.backend, results.backend, results.fallback_reason


def test_fallback_is_logged_and_reported():
    found = run_ranks(_falls_back, CUDA_VISIBLE_DEVICES="")
    assert found[0] == found[1]
    backend, used, reason = found[0]
    assert (backend, used) == ("gloo", "gloo")
    assert "rank 0 on " in reason
    assert "rank 1 on " in reason


def _alone(rank):
    with NCCLGroup(backend="gloo") as group:
        return group.check(size_bytes=SIZE).busbw


def test_single_process_needs_no_launcher():
    assert run_ranks(_alone, ranks=1) == {0: None}


def _joins(rank):
    import torch.distributed as dist

    # Created before the process group is open.
    group = NCCLGroup(backend="gloo")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    group.init_process_group()
    group.check(size_bytes=SIZE, iterations=1)
    found = [(group.rank, group.world_size, group.owns_group)]
    group.close()
    for options in ({"world_size": 3}, {"rank": 1 - rank}, {"backend": "nccl"}):
        try:
            NCCLGroup(**{"backend": "gloo", **options}).init_process_group()
        except ValueError as error:
            found.append(str(error))
    with NCCLGroup(fallback="gloo") as group_with_fallback:
        found.append(group_with_fallback.fallback_reason)
    found.append(dist.is_initialized())
    dist.destroy_process_group()
    return found


def _joins_group_without_backend(rank):
    import torch.distributed as dist

    dist.init_process_group(rank=rank, world_size=1)
    with NCCLGroup(backend="gloo") as group:
        return group.check(size_bytes=SIZE).backend


def test_group_joins_process_group_without_explicit_backend():
    assert run_ranks(_joins_group_without_backend, ranks=1) == {0: "gloo"}


def test_group_joins_process_group_of_application_and_leaves_it_open():
    found = run_ranks(_joins)
    for rank, result in found.items():
        assert result == [
            (rank, 2, False),
            "world_size must be that of the open process group, 2, got 3",
            f"rank must be that of the open process group, {rank}, got {1 - rank}",
            (
                "backend must be that of the open process group, cpu:gloo,cuda:gloo, got nccl. "
                "For gloo, pass backend='gloo'"
            ),
            "the open process group uses gloo",
            True,
        ]


def _one_dies(rank):
    group = NCCLGroup(2, "gloo", rank=rank, timeout_s=600).init_process_group()
    group.check(size_bytes=SIZE, iterations=1)
    if rank == 1:
        os._exit(1)
    with pytest.raises(CollectiveError) as raised:
        group.check()
    group.close()
    return str(raised.value)


def test_check_raises_immediately_when_other_rank_dies():
    # The time limit of the group is ten minutes, that of `run_ranks` one.
    found = run_ranks(_one_dies)
    assert found[0].startswith("rank 0 of 2 at 127.0.0.1:")
    assert "(timeout_s=600): the all-reduce failed: " in found[0]
    assert 1 not in found


def _one_is_late(rank):
    group = NCCLGroup(2, "gloo", rank=rank, timeout_s=1).init_process_group()
    return _failed_check(group) if rank == 0 else _wait_for_the_other()


def _one_is_late_in_group_with_long_timeout(rank):
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(minutes=30))
    group = NCCLGroup(backend="gloo", timeout_s=1).init_process_group()
    return _failed_check(group) if rank == 0 else _wait_for_the_other()


def _failed_check(group):
    try:
        with pytest.raises(CollectiveError) as raised:
            group.check(size_bytes=SIZE)
        return str(raised.value)
    finally:
        group.close()
        Path(os.environ["DONE"]).touch()


def _wait_for_the_other():
    while not Path(os.environ["DONE"]).exists():
        time.sleep(0.02)
    os._exit(0)


@pytest.mark.parametrize("work", [_one_is_late, _one_is_late_in_group_with_long_timeout])
def test_check_raises_after_timeout_when_other_rank_does_not_join(work, tmp_path):
    """Check groups with a short timeout, also in a process group with a timeout of half an hour."""
    message = run_ranks(work, DONE=str(tmp_path / "done"))[0]
    assert "(timeout_s=1): the all-reduce failed: " in message


def _opens_group_of_two(rank):
    NCCLGroup(2, "gloo", rank=rank, timeout_s=1).init_process_group()


@pytest.mark.parametrize("started", [0, 1])
def test_open_raises_after_timeout_when_other_rank_is_not_started(started):
    error = run_ranks(_opens_group_of_two, ranks=[started], wait_s=30)[started]
    assert isinstance(error, CollectiveError)
    assert str(error).startswith(f"rank {started} of 2 at 127.0.0.1:")
    assert "not all ranks joined: " in str(error)
    assert "the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT" in str(error)


def _requests_own_backend(rank):
    backend = ("gloo", "nccl")[rank]
    NCCLGroup(2, backend, rank=rank, timeout_s=20).init_process_group()


def test_open_raises_on_every_rank_when_backends_differ():
    found = run_ranks(_requests_own_backend)
    for rank in (0, 1):
        assert isinstance(found[rank], CollectiveError)
        assert "rank 0 backend='gloo' fallback=None, rank 1 backend='nccl'" in str(found[rank])


def _needs_nccl(rank):
    NCCLGroup(2, rank=rank, timeout_s=20).init_process_group()


def test_open_suggests_fallback_when_nccl_is_unavailable():
    found = run_ranks(_needs_nccl, CUDA_VISIBLE_DEVICES="")
    for rank in (0, 1):
        assert isinstance(found[rank], CollectiveError)
        assert "nccl cannot be used (rank 0 on " in str(found[rank])
        assert "fallback='gloo'" in str(found[rank])


def _has_no_address(rank):
    os.environ.pop("MASTER_ADDR")
    NCCLGroup(2, "gloo", rank=rank).init_process_group()


def test_open_raises_when_rendezvous_address_is_unknown():
    error = run_ranks(_has_no_address, ranks=[1])[1]
    assert isinstance(error, ValueError)
    assert "MASTER_ADDR and MASTER_PORT" in str(error)


def _calls_check_with_invalid_arguments(rank):
    group = NCCLGroup(backend="gloo")
    found = []
    with pytest.raises(RuntimeError) as raised:
        group.check()
    found.append(str(raised.value))
    with group:
        for options in ({"size_bytes": 6}, {"iterations": 0}, {"warmup": -1}):
            with pytest.raises(ValueError, match="must be") as raised:
                group.check(**options)
            found.append(str(raised.value))
    return found


def test_check_rejects_invalid_arguments_and_closed_group():
    (not_open, size, iterations, warmup) = run_ranks(_calls_check_with_invalid_arguments, ranks=1)[
        0
    ]
    assert "Call init_process_group()" in not_open
    assert "multiple of 4" in size
    assert "got 0 and 5" in iterations
    assert "got 20 and -1" in warmup


def _records(rank):
    import llamatelemetry

    llamatelemetry.init(service_name="job", exporter="file", gpu_enrichment=False)
    from opentelemetry import trace

    group = NCCLGroup(2, "gloo", rank=rank, timeout_s=20).init_process_group()
    with trace.get_tracer("test").start_as_current_span("step"):
        group.check(size_bytes=SIZE, iterations=1)
    if rank == 0:
        with pytest.raises(CollectiveError):
            group.check(size_bytes=SIZE)
    group.close()
    assert llamatelemetry.shutdown()
    return os.getpid()


def test_group_describes_resource_and_check_records_metrics(tmp_path):
    pids = run_ranks(_records, LLAMATELEMETRY_EXPORT_PATH=str(tmp_path))
    for rank, pid in pids.items():
        assert isinstance(pid, int), pid
        (span_line,) = _lines(tmp_path, "traces", pid)
        (resource_spans,) = span_line["resourceSpans"]
        assert _collective_attributes(resource_spans["resource"]["attributes"]) == {
            "rank": str(rank),
            "world_size": "2",
            "backend": "gloo",
        }
    metrics = _metrics(tmp_path, pids[0])
    expected = {"operation": "all_reduce", "backend": "gloo", "world_size": "2", "size": str(SIZE)}
    good, failed = metrics["llamatelemetry.collective.duration"]["histogram"]["dataPoints"]
    assert _collective_attributes(good["attributes"]) == expected
    assert "error.type" in {each["key"] for each in failed["attributes"]}
    for name in ("algorithm_bandwidth", "bus_bandwidth"):
        metric = metrics[f"llamatelemetry.collective.{name}"]
        assert metric["unit"] == "By/s"
        (point,) = metric["gauge"]["dataPoints"]
        assert _collective_attributes(point["attributes"]) == expected
        assert point["asDouble"] == pytest.approx(SIZE / good["sum"])
    # The results are those of all ranks, so only rank 0 records them.
    assert not any(name.startswith("llamatelemetry.coll") for name in _metrics(tmp_path, pids[1]))


def _lines(folder: Path, signal: str, pid: int) -> list[dict]:
    files = [path for path in folder.rglob("*") if path.is_file() and signal in path.name]
    return [
        json.loads(line)
        for path in files
        if str(pid) in path.name
        for line in path.read_text().splitlines()
    ]


def _metrics(folder: Path, pid: int) -> dict[str, dict]:
    return {
        metric["name"]: metric
        for line in _lines(folder, "metrics", pid)
        for resource in line["resourceMetrics"]
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
    }


def _collective_attributes(attributes: list[dict]) -> dict[str, str]:
    prefix = "llamatelemetry.collective."
    return {
        each["key"].removeprefix(prefix): str(next(iter(each["value"].values())))
        for each in attributes
        if each["key"].startswith(prefix)
    }


@pytest.mark.slow
def test_group_needs_no_arguments_under_torchrun(tmp_path):
    program = tmp_path / "job.py"
    program.write_text(
        "import os\n"
        "from llamatelemetry.nccl import NCCLGroup\n"
        # The store of torchrun outlives the first group.
        "for _ in range(2):\n"
        "    with NCCLGroup(fallback='gloo', timeout_s=30) as group:\n"
        "        results = group.check(size_bytes=4096)\n"
        "        line = f'{group.rank}/{results.world_size} {results.operation}\\n'\n"
        # One write per line, because both ranks write to the same pipe.
        "        os.write(1, line.encode())\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(program)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == [
        "",
        *["0/2 all_reduce"] * 2,
        *["1/2 all_reduce"] * 2,
    ]


def _on_a_gpu(rank):
    import torch

    if not torch.cuda.is_available():
        return None
    with NCCLGroup(world_size=1) as group:
        return group.check().to_dict()


def test_check_runs_with_nccl_on_one_gpu():
    results = run_ranks(_on_a_gpu, ranks=1)[0]
    if results is None:
        pytest.skip("needs an NVIDIA GPU and torch with CUDA")
    assert (results["backend"], results["world_size"], results["busbw"]) == ("nccl", 1, None)
    assert results["algbw"] > 0
