"""Work that several threads share block by block, each running its tensor operations alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def run_in_threads(
    work: Callable[[], None], num_threads: int, before: Callable[[], None] | None = None
) -> None:
    """Calls ``before`` in one thread, then ``work`` once in each of ``num_threads``, and returns when all are done.

    PyTorch splits every operation over its threads and waits for all of them at its end. For a chain of small
    operations that wait is the cost, and on a busy machine, where a thread may not be running, it is most of it. Here
    the threads meet once, at the end. PyTorch's own threads spin for a while after each operation that they shared,
    on the very processors that are needed then: what comes just before belongs into ``before``.

    Operations inside ``work`` run on one thread each and record no gradients. One exception of a thread is raised.
    """
    if num_threads == 1:
        with torch.no_grad():
            if before is not None:
                before()
            work()
        return

    def alone(what: Callable[[], None]) -> None:
        # counts for this thread, and as the default for threads that are born later: hence the line at the end
        torch.set_num_threads(1)
        with torch.no_grad():
            what()

    default = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="vistok_kernels") as pool:
            if before is not None:
                pool.submit(alone, before).result()
            futures = [pool.submit(alone, work) for _ in range(num_threads)]
        for future in futures:
            future.result()
    finally:
        torch.set_num_threads(default)
