"""Work that several threads share block by block, each running its tensor operations alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def run_in_threads(work: Callable[[], None], num_threads: int) -> None:
    """Calls ``work`` once in each of ``num_threads`` threads and returns when all are done.

    PyTorch splits every operation over its threads and waits for all of them at its end. For a chain of small
    operations that wait is the cost, and on a busy machine, where a thread may not be running, it is most of it. Here
    the threads meet once, at the end.

    Operations inside ``work`` run on one thread each and record no gradients. One exception of a thread is raised.
    """
    if num_threads == 1:
        with torch.no_grad():
            work()
        return

    def alone() -> None:
        # counts for this thread, and as the default for threads that are born later: hence the line at the end
        torch.set_num_threads(1)
        with torch.no_grad():
            work()

    default = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="vistok_kernels") as pool:
            futures = [pool.submit(alone) for _ in range(num_threads)]
        for future in futures:
            future.result()
    finally:
        torch.set_num_threads(default)
