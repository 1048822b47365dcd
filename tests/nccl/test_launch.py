"""Rank assignment, choice of the backend, and bandwidths, without a second process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from llamatelemetry.nccl import CollectiveError, NCCLGroup
from llamatelemetry.nccl._collectives import CudaRunner, all_reduce_results
from llamatelemetry.nccl._rendezvous import (
    Agreement,
    Offer,
    RankAssignment,
    decide_backend,
    find_rank_assignment,
    rendezvous,
)

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("world_size", "rank", "variables", "assignment"),
    [
        (None, None, {}, RankAssignment(0, 1)),
        (2, 1, {}, RankAssignment(1, 2)),
        (2, None, {"RANK": "1"}, RankAssignment(1, 2)),
        (None, 1, {"WORLD_SIZE": "2"}, RankAssignment(1, 2)),
        (None, None, TORCHRUN, RankAssignment(3, 8, 1, "node-a:29500")),
        (2, 0, TORCHRUN, RankAssignment(0, 2, 1, "node-a:29500")),
    ],
)
def test_arguments_override_variables(world_size, rank, variables, assignment):
    assert find_rank_assignment(world_size, rank, variables, None) == assignment


@pytest.mark.parametrize(
    ("world_size", "rank", "variables", "message"),
    [
        (2, None, {}, "rank must be set.*0 to 1.*RANK.*torchrun --nproc-per-node 2"),
        (None, None, {"WORLD_SIZE": "4"}, "rank must be set"),
        (2, 2, {}, "rank must be 0 to 1.*got 2"),
        (2, -1, {}, "rank must be 0 to 1.*got -1"),
        (0, None, {}, "world_size must be 1 or more, got 0"),
        (None, None, {"RANK": "one"}, "RANK must be a number, got 'one'"),
    ],
)
def test_inconsistent_launch_raises_value_error(world_size, rank, variables, message):
    with pytest.raises(ValueError, match=message):
        find_rank_assignment(world_size, rank, variables, None)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 2}, "rank must be set"),
        ({"backend": "mpi"}, "must be 'nccl' or 'gloo'"),
        ({"fallback": "cpu"}, "must be 'gloo' or None"),
        ({"timeout_s": 0}, "must be greater than 0"),
    ],
)
def test_constructor_rejects_invalid_option(options, message):
    with pytest.raises(ValueError, match=message):
        NCCLGroup(**options)


def test_missing_rank_raises_before_torch_is_imported():
    code = (
        "import sys\n"
        "from llamatelemetry.nccl import NCCLGroup\n"
        "try: NCCLGroup(2)\n"
        "except ValueError as error: print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=30)
    assert "rank must be set for world_size=2" in output
    assert output.endswith("False\n")


GPU, NO_GPU = None, "torch has no CUDA device"


@pytest.mark.parametrize(
    ("offers", "agreement"),
    [
        ([Offer("nccl", None, GPU)] * 2, Agreement("nccl")),
        ([Offer("nccl", "gloo", GPU)] * 2, Agreement("nccl")),
        ([Offer("gloo", None, None)] * 2, Agreement("gloo")),
        (
            [Offer("nccl", "gloo", GPU, "a"), Offer("nccl", "gloo", NO_GPU, "b")],
            Agreement("gloo", "rank 1 on b: torch has no CUDA device"),
        ),
    ],
)
def test_all_ranks_use_fallback_when_one_has_no_gpu(offers, agreement):
    assert decide_backend(offers) == agreement


@pytest.mark.parametrize(
    ("offers", "message"),
    [
        (
            [Offer("nccl", None, GPU, "a"), Offer("nccl", None, NO_GPU, "b")],
            r"nccl cannot be used \(rank 1 on b: torch has no CUDA device\).*fallback='gloo'",
        ),
        (
            [Offer("nccl", None, GPU), Offer("gloo", None, None)],
            "backend must be the same on all ranks, got rank 0 backend='nccl'.*rank 1 backend='gloo'",
        ),
        (
            [Offer("nccl", None, GPU), Offer("nccl", "gloo", NO_GPU)],
            "backend must be the same on all ranks",
        ),
    ],
)
def test_decide_backend_raises_when_ranks_cannot_agree(offers, message):
    with pytest.raises(CollectiveError, match=message):
        decide_backend(offers)


def test_bandwidths_follow_formulas_of_nccl_tests():
    results = all_reduce_results("nccl", 8, 10**9, iterations=20, times_s=(0.005, 0.004))
    assert (results.time_s, results.min_time_s) == (0.005, 0.004)
    assert results.algbw == pytest.approx(200)
    assert results.busbw == pytest.approx(200 * 2 * 7 / 8)
    assert str(results) == (
        "all_reduce of 953.674 MiB, 8 ranks, nccl: 5000.0 us, algbw 200.00 GB/s, busbw 350.00 GB/s"
    )


def test_bus_bandwidth_is_none_for_one_rank():
    results = all_reduce_results("nccl", 1, 4096, iterations=20, times_s=(0.001, 0.001))
    assert results.busbw is None
    assert str(results) == "all_reduce of 4 KiB, 1 ranks, nccl: 1000.0 us, algbw 0.00 GB/s"


class _Event:
    """CUDA event of a device where an operation takes 3 ms, or never ends."""

    def __init__(self, done: bool) -> None:
        self._done = done

    def record(self) -> None: ...

    def query(self) -> bool:
        return self._done

    def elapsed_time(self, other: _Event) -> float:
        return 3.0


@pytest.mark.parametrize("ends", [True, False])
def test_cuda_runner_raises_when_operation_does_not_end(ends):
    cuda = SimpleNamespace(Event=lambda enable_timing: _Event(ends), current_device=lambda: 0)
    torch = SimpleNamespace(cuda=cuda, device=lambda *at: at)
    runner = CudaRunner(torch, deadline_s=0.0)
    if ends:
        assert runner.seconds(runner.mark(), runner.mark()) == 0.003
    else:
        with pytest.raises(CollectiveError, match="did not finish on the GPU"):
            runner.seconds(runner.mark(), runner.mark())


def test_rendezvous_raises_after_timeout_when_resolver_does_not_respond(monkeypatch):
    responds = threading.Event()

    def lookup(*_: object) -> list[object]:
        responds.wait(60)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assignment = RankAssignment(1, 2, address="rank-0.example:29500")
    try:
        with pytest.raises(CollectiveError, match=r"MASTER_ADDR .*'rank-0\.example'.*not respond"):
            rendezvous(None, assignment, Offer("gloo", None, None), 0.2)
        assert not responds.is_set()
    finally:
        responds.set()


def test_rendezvous_waits_for_host_name_of_rank_0(monkeypatch):
    lookups = []

    def lookup(*arguments: object) -> list[object]:
        lookups.append(arguments)
        if len(lookups) < 3:
            raise socket.gaierror("Name or service not known")
        return []

    def open_store(*_: object, **__: object) -> None:
        raise RuntimeError("reached torch")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assignment = RankAssignment(0, 2, address="rank-0.example:29500")
    with pytest.raises(RuntimeError, match="reached torch"):
        rendezvous(
            SimpleNamespace(rendezvous=open_store, PrefixStore=None),
            assignment,
            Offer("gloo", None, None),
            60,
        )
    assert lookups == [("rank-0.example", "29500")] * 3
