"""One provider of one case in a process of its own: ``python -m vistok.bench.worker '{"op": ...}'`` prints its peak memory."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from vistok.bench.case import in_chunks
from vistok.bench.measure import peak_bytes
from vistok.bench.suite import find

WARM_UP_LATENTS = 64


def answer(question: dict[str, Any]) -> dict[str, int]:
    """Warms up, then measures one run.

    Args:
        question: ``op``, ``number`` of the case, ``quick``, ``device``, ``provider``, ``chunk``.
    """
    case = find(question["op"], question["number"], quick=question["quick"])
    device, provider = question["device"], case.provider(question["provider"])
    # what is made once in a process (thread pools, compiled code, a library's own buffers) is not what a run takes
    warm = case if provider.compiled else case.smaller(WARM_UP_LATENTS)
    inputs = warm.inputs(device)
    in_chunks(provider.make(inputs), inputs, question["chunk"])
    if not provider.compiled:
        inputs = case.inputs(device)
    work = provider.make(inputs)
    if provider.compiled:
        in_chunks(work, inputs, question["chunk"])
    return {"peak_bytes": peak_bytes(lambda: in_chunks(work, inputs, question["chunk"]), device)}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("VISTOK_BENCH_THREADS", torch.get_num_threads())))
    print(json.dumps(answer(json.loads(sys.argv[1]))))
