"""What a family tells ``ahead`` about its kernels: the module ``cases`` of its folder has ``cases(dim, codebook_size)``."""

from __future__ import annotations

from typing import NamedTuple

# latents of the stated work: a batch of 32 images of 256 tokens
NUM_LATENTS = 8192


class Case(NamedTuple):
    """One kernel at one dim, as its launcher would run it, and the least that it must move and compute.

    Attributes:
        module: Where the kernel is, such as ``vistok_kernels.vq.kernel``.
        kernel: Its name there.
        dim: Channels of a latent.
        variant: What tells it from others of its name and dim, "" for nothing.
        signature: Triton's type of each argument that is not a compile-time value. Pointers and integers are taken to be
            divisible by 16 where ``aligned`` names them, as Triton's launcher finds them when it runs.
        constants: The compile-time values.
        options: ``num_warps`` and ``num_stages``.
        aligned: Arguments divisible by 16.
        ones: Arguments that are 1, which the launcher makes compile-time values.
        num_bytes: Each input read once, each output written once, for ``NUM_LATENTS`` latents.
        num_flops: Of float32, for ``NUM_LATENTS`` latents.
        quick: Whether the default run compiles it, not only ``--all``.
    """

    module: str
    kernel: str
    dim: int
    variant: str
    signature: dict[str, str]
    constants: dict[str, int]
    options: dict[str, int]
    aligned: tuple[str, ...]
    ones: tuple[str, ...]
    num_bytes: int
    num_flops: int
    quick: bool = True
