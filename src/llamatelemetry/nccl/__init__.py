"""Checks the link between the GPUs of a job: a process group, and one timed all-reduce over it.

    with NCCLGroup() as group:  # in each process that torchrun starts
        print(group.check())

This measures NCCL as PyTorch uses it, for training and for serving with tensor parallelism in
PyTorch. llama.cpp does not go through it: a llama.cpp server that splits a model over several
GPUs copies between them by itself, in one process, and nothing here speeds that up or watches it.
"""

from __future__ import annotations

from ._group import NCCLGroup
from ._results import CollectiveError, CollectiveResults

__all__ = ["CollectiveError", "CollectiveResults", "NCCLGroup"]
