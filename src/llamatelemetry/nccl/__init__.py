"""Check of the connection between the GPUs of a job: a process group and one timed all-reduce.

    with NCCLGroup() as group:  # in each process that torchrun starts
        print(group.check())

It measures NCCL as used by PyTorch, for training and for tensor-parallel serving with PyTorch.
llama.cpp does not use NCCL: a server that splits a model over several GPUs copies between them itself,
in one process.
"""

from __future__ import annotations

from llamatelemetry.nccl._collectives import CollectiveError, CollectiveResults
from llamatelemetry.nccl._group import NCCLGroup

__all__ = ["CollectiveError", "CollectiveResults", "NCCLGroup"]
