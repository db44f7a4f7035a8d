"""Training on several cores: one single-threaded process each, gradients averaged after every step.

On a busy machine this is far quicker than one process with several threads, whose threads wait for each other in every
layer. All processes hold the same weights and take the same optimiser steps; only the first one logs and saves.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

LOG_FORMAT = "%(asctime)s %(message)s"
# glibc gives large freed blocks back to the system and asks for them again in every layer; keeping them saves a third
# of the time on some machines. Read by a process when it starts, so it counts for the spawned ones.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "10000000000", "MALLOC_TOP_PAD_": "100000000"}


def run(workers: int, job: Callable[..., None], *args: object) -> None:
    """Call `job(rank, *args)` in that many processes and wait for all; an exception in one ends all."""
    if workers == 1:
        torch.set_num_threads(1)
        job(0, *args)
        return
    os.environ.update(KEEP_MEMORY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_start, (workers, port, job, args), nprocs=workers)


def _start(rank: int, workers: int, port: int, job: Callable[..., None], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stdout)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers, timeout=timedelta(minutes=30)
    )
    try:
        job(rank, *args)
    finally:
        dist.destroy_process_group()


def workers() -> int:
    """How many processes take part; 1 outside of `run`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Make every process's gradients the mean over the processes; unused parameters get zeros."""
    params = list(parameters)
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if workers() == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= workers()
    for p, piece in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.grad.copy_(piece.view_as(p.grad))


def shared(items: torch.Tensor, work: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`work(items)` where every process does its share of the items: [N, ...] -> [N, ...], equal in all processes."""
    count = workers()
    if count == 1 or len(items) < count:
        return work(items)
    mine = slice(dist.get_rank(), None, count)
    out = torch.zeros_like(items)
    out[mine] = work(items[mine])
    dist.all_reduce(out)
    return out
