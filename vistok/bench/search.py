"""The search for the nearest code: the op and everything else that finds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vistok.bench.case import Case, Inputs, Provider, Result, Shape, Work
from vistok.bench.exact import check_search

SHAPES = ((1024, 256), (16384, 8), (16384, 32), (65536, 16), (262144, 18))
QUICK = ((64, 16), (256, 4))
# above this many float64 operations the reference takes minutes
_REFERENCE_LIMIT = 2**30


def cases(quick: bool) -> list[Case]:
    """Evaluation at 8192 latents over codebooks from 1024 x 256 to 262144 x 18."""
    num_latents = 256 if quick else 8192
    return [
        Case("nearest_code", "forward", shape, draw, check_search, providers(shape))
        for shape in (Shape(num_latents, size, dim) for size, dim in (QUICK if quick else SHAPES))
    ]


def draw(shape: Shape, device: str) -> Inputs:
    """Normal latents and codes; later stages have smaller codes, as residuals are."""
    generator = torch.Generator().manual_seed(0)
    codebooks = torch.randn(shape.stages, shape.num_codes, shape.dim, generator=generator)
    latents = torch.randn(shape.num_latents, shape.dim, generator=generator)
    scales = 0.5 ** torch.arange(shape.stages).view(-1, 1, 1)
    return Inputs(latents.to(device), (codebooks * scales).to(device))


def providers(shape: Shape) -> tuple[Provider, ...]:
    """All who can search, ours first."""
    peers = [
        Provider("vistok", _op, ours=True),
        Provider(
            "vector-quantize-pytorch",
            _vector_quantize,
            "vector_quantize_pytorch",
            "vector-quantize-pytorch",
            bytes_per_pair=16,
        ),
        Provider("cdist + argmin", _cdist, bytes_per_pair=8),
        Provider("compiled cdist + argmin", _compiled_cdist, bytes_per_pair=8, compiled=True),
        Provider("faiss-cpu, exact", _faiss, "faiss", "faiss-cpu", device="cpu"),
        Provider("faiss-gpu, exact", _faiss_gpu, "faiss", "faiss-gpu-cu12", device="cuda"),
        Provider("flash-kmeans assign", _flash_kmeans, "flash_kmeans", "flash-kmeans", device="cuda"),
    ]
    if shape.num_latents * shape.num_codes * shape.dim <= _REFERENCE_LIMIT:
        peers.insert(1, Provider("reference", _reference, bytes_per_pair=16))
    return tuple(peers)


def argmin_of_cdist(latents: Tensor, codebook: Tensor) -> Tensor:
    """What most code writes: the N x K distances, and the place of the lowest."""
    return torch.cdist(latents, codebook).argmin(dim=1)


def _op(inputs: Inputs) -> Work:
    from vistok_kernels import nearest_code

    return lambda given: Result(nearest_code(given.latents, given.codebooks[0]))


def _reference(inputs: Inputs) -> Work:
    from vistok_kernels.vq import reference

    return lambda given: Result(reference.nearest_code(given.latents, given.codebooks[0]))


def _cdist(inputs: Inputs) -> Work:
    return lambda given: Result(argmin_of_cdist(given.latents, given.codebooks[0]))


def _compiled_cdist(inputs: Inputs) -> Work:
    compiled: Any = torch.compile(argmin_of_cdist, dynamic=False)
    return lambda given: Result(compiled(given.latents, given.codebooks[0]))


def _vector_quantize(inputs: Inputs) -> Work:
    from vector_quantize_pytorch import VectorQuantize

    codebook = inputs.codebooks[0]
    peer = VectorQuantize(dim=codebook.shape[1], codebook_size=len(codebook)).to(codebook.device).eval()
    peer.codebook = codebook

    @torch.no_grad()
    def work(given: Inputs) -> Result:
        return Result(peer(given.latents[None])[1][0])

    return work


def _faiss(inputs: Inputs) -> Work:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(inputs.codebooks.shape[2])
    index.add(inputs.codebooks[0].numpy())
    return lambda given: Result(torch.from_numpy(index.search(given.latents.numpy(), 1)[1][:, 0]))


def _faiss_gpu(inputs: Inputs) -> Work:
    import faiss
    import faiss.contrib.torch_utils

    resources = faiss.StandardGpuResources()
    return lambda given: Result(
        faiss.knn_gpu(resources, given.latents, given.codebooks[0], 1)[1][:, 0].long()
    )


def _flash_kmeans(inputs: Inputs) -> Work:
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    def work(given: Inputs) -> Result:
        lengths = given.latents.square().sum(dim=1)
        found = euclid_assign_triton(given.latents[None], given.codebooks[:1], lengths[None])
        return Result(found[0].long())

    return work
