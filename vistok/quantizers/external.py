"""Any quantizer of vector-quantize-pytorch under vistok's contract."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.spec import StreamSpec

_CHANNEL_FIRST = ("LatentQuantize",)
_DECODERS = ("get_output_from_indices", "indices_to_codes")


class External(Quantizer):
    """A quantizer of vector-quantize-pytorch, by class name.

    Its own losses arrive summed and already weighed by its own arguments, as the one loss ``external``. Whatever it
    does in its forward pass, collectives included, it goes on doing: ``update`` has nothing to add.

    Source: https://github.com/lucidrains/vector-quantize-pytorch, the installed release.

    Args:
        name: Class name, such as ``ResidualVQ``; one that gives both quantized vectors and indices.
        dim: D.
        arguments: Its constructor arguments; ``dim`` is added where it takes one and none is given.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), indices (B, ...) or (B, ..., S) for S groups or stages.

    Raises:
        ValueError: an unknown class, refused arguments, or a class that has no way back from indices.
    """

    def __init__(self, name: str, dim: int, arguments: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.name = name
        self.inner = _construct(name, dim, dict(arguments or {}))
        decoder = next((d for d in _DECODERS if hasattr(self.inner, d)), None)
        if decoder is None:
            raise ValueError(
                f"vector-quantize-pytorch's {name} cannot turn indices back into vectors, so it makes no tokenizer"
            )
        self._decoder = decoder
        self.groups = int(getattr(self.inner, "groups", 1)) if name.startswith("Grouped") else 1
        # the number of indices per position is seen, not derived: a copy runs once, so no state or random number is spent
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            probe = self._run(copy.deepcopy(self.inner).eval(), torch.randn(1, 4, dim))[1]
        self.num_groups = 1 if probe.ndim == 2 else int(probe.shape[-1])
        self.codebook_size: int = self._find_codebook_size()

    @property
    def dim_depthwise(self) -> int:
        """As the wrapped class gives them; 0 where it gives no vectors by stage."""
        device = next((value.device for value in (*self.parameters(), *self.buffers())), None)
        try:
            with torch.no_grad():
                zeros = torch.zeros(1, 1, self.num_groups, dtype=torch.int64, device=device)
                return int(self.depthwise(zeros).shape[-1])
        except ValueError:
            return 0

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``external``."""
        return ("external",)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Runs the wrapped quantizer in float32."""
        latent = as_latent(latent, self.dim)
        if (
            not torch.compiler.is_compiling()
            and not latent.device.type == "cuda"
            and not bool(latent.isfinite().all())
        ):
            raise ValueError(
                "latents hold NaN or Inf: look for a diverged encoder or a bad image in the batch"
            )
        flat = latent.reshape(latent.shape[0], -1, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            quantized, indices, loss = self._run(self.inner, flat)
        indices = indices.reshape(*latent.shape[:-1], *indices.shape[2:])
        return QuantizerOutput(quantized.reshape(latent.shape), indices.to(torch.int64), {"external": loss})

    def decode(self, indices: Tensor) -> Tensor:
        """Vectors from indices (B, ...) or (B, ..., S)."""
        indices = check_indices(indices, self.codebook_size)
        spatial = indices.shape[:-1] if self.num_groups > 1 else indices.shape
        flat = indices.reshape(spatial[0], -1, *indices.shape[len(spatial) :])
        if self.groups > 1:
            flat = flat.reshape(*flat.shape[:-1], self.groups, -1).permute(2, 0, 1, 3)
        back: Callable[[Tensor], Tensor] = getattr(self.inner, self._decoder)
        vectors = back(flat)
        if self.name in _CHANNEL_FIRST:
            vectors = vectors.transpose(1, 2)
        return vectors.reshape(*spatial, self.dim).float()

    def depthwise(self, indices: Tensor) -> Tensor:
        """One vector per stage, where the wrapped class gives them: (B, ..., S) -> (B, ..., S, D)."""
        if self.num_groups == 1:
            return super().depthwise(indices)
        if not hasattr(self.inner, "get_codes_from_indices") or self.groups > 1:
            raise ValueError(f"{self.name} gives no vectors by stage")
        flat = check_indices(indices, self.codebook_size).reshape(indices.shape[0], -1, self.num_groups)
        by_stage: Callable[[Tensor], Tensor] = getattr(self.inner, "get_codes_from_indices")  # noqa: B009
        stages = by_stage(flat)
        return stages.movedim(0, -2).reshape(*indices.shape[:-1], self.num_groups, -1).float()

    def stream(self) -> StreamSpec:
        """Names the wrapped class and how its indices combine."""
        combinator = "residual" if "Residual" in self.name else "product" if self.num_groups > 1 else "single"
        return StreamSpec(
            quantizer=f"External:{self.name}",
            codebook_size=self.codebook_size,
            dim=self.dim,
            num_groups=self.num_groups,
            combinator=combinator,
        )

    @classmethod
    def tiny(cls) -> External:
        """Two residual stages of 16 codes of dim 4."""
        return cls("ResidualVQ", 4, {"codebook_size": 16, "num_quantizers": 2})

    def _run(self, inner: nn.Module, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.name in _CHANNEL_FIRST
        output = inner(flat.transpose(1, 2) if first else flat)
        quantized, indices, *rest = output
        loss = rest[0].sum() if rest and isinstance(rest[0], Tensor) else flat.new_zeros(())
        if self.groups > 1:
            indices = indices.permute(1, 2, 0, 3).flatten(2)
        return (quantized.transpose(1, 2) if first else quantized), indices, loss

    def _find_codebook_size(self) -> int:
        for holder in (self.inner, *self.inner.modules()):
            size = getattr(holder, "codebook_size", None)
            if isinstance(size, int):
                return size
        raise ValueError(f"vector-quantize-pytorch's {self.name} does not tell its codebook size")


def _construct(name: str, dim: int, arguments: dict[str, Any]) -> nn.Module:
    import vector_quantize_pytorch as library

    known = sorted(
        n
        for n in vars(library)
        if n[0].isupper() and isinstance(vars(library)[n], type) and n != "Sequential"
    )
    if name not in known:
        raise ValueError(f"vector-quantize-pytorch has no class {name!r}; it has {', '.join(known)}")
    if name != "RandomProjectionQuantizer":
        arguments.setdefault("dim", dim)
    if name.startswith("Hierarchical") or name in ("EvoLFQ", "BinaryMapper"):
        raise ValueError(
            f"vector-quantize-pytorch's {name} is not a plain quantizer of (B, N, D) latents; use another class"
        )
    try:
        return getattr(library, name)(**arguments)  # type: ignore[no-any-return]
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"vector-quantize-pytorch's {name} refuses its arguments: {error}") from error
