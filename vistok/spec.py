"""All that a consumer of tokens must know about a tokenizer, as frozen data that is JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from vistok.errors import TokenizerError

FORMAT_VERSION = 1

T = TypeVar("T", bound="JSONData")

Role = Literal["pixel", "semantic", "fused"]
Topology = Literal["2d", "1d", "multiscale", "ragged"]


class JSONData:
    """A frozen dataclass that is JSON both ways and refuses unknown fields."""

    def to_json_data(self) -> dict[str, Any]:
        """The fields as plain dicts, lists and scalars."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))  # type: ignore[call-overload]

    @classmethod
    def from_json_data(cls: type[T], data: dict[str, Any]) -> T:
        """Builds it from plain data.

        Raises:
            TokenizerError: unknown or missing fields.
        """
        if not isinstance(data, dict):
            raise TokenizerError(f"{cls.__name__} is {type(data).__name__}, not a mapping of fields")
        hints = typing.get_type_hints(cls)
        names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - names)
        if unknown:
            raise TokenizerError(
                f"{cls.__name__} has no field {unknown[0]!r}; was this file written by a newer vistok?"
            )
        try:
            return cls(**{key: _restore(hints[key], value) for key, value in data.items()})
        except (TypeError, ValueError) as error:
            raise TokenizerError(f"{cls.__name__} cannot be read: {error}") from error


def _restore(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _restore(next(a for a in get_args(hint) if a is not type(None)), value)
    if origin is tuple:
        inner = get_args(hint)
        hints = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        return tuple(_restore(h, v) for h, v in zip(hints, value, strict=True))
    if isinstance(hint, type) and issubclass(hint, JSONData):
        return hint.from_json_data(value)
    return value


def _are_integers(values: Any, count: int, least: int) -> bool:
    return (
        isinstance(values, (tuple, list))
        and len(values) == count
        and all(type(value) is int and value >= least for value in values)
    )


@dataclass(frozen=True)
class ImagePolicy(JSONData):
    """How an image becomes a tensor (3, H, W) in [-1, 1].

    Args:
        size: Fixed (H, W) in pixels; None keeps the image's own size.
        fit: What happens to an image that has another size: ``crop`` resizes the short side (only where it is too
            small or ``size`` is set) and cuts the centre; ``resize`` stretches to the nearest permitted size; ``pad`` adds
            background on the right and below; ``refuse`` raises.
        interpolation: ``bicubic``, ``lanczos``, ``bilinear`` or ``nearest``, always antialiased.
        background: RGB in [0, 255] that transparent pixels are composited on, and the colour of padding.
        max_pixels: Images with more pixels than this are refused before they are decoded.

    Raises:
        ValueError: a value that is none of these.
    """

    size: tuple[int, int] | None = None
    fit: Literal["crop", "resize", "pad", "refuse"] = "crop"
    interpolation: Literal["bicubic", "lanczos", "bilinear", "nearest"] = "bicubic"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        for name, choices in (
            ("fit", ("crop", "resize", "pad", "refuse")),
            ("interpolation", ("bicubic", "lanczos", "bilinear", "nearest")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(choices)}")
        if self.size is not None and not _are_integers(self.size, 2, 1):
            raise ValueError(f"size is {self.size!r}, it must be (height, width) in pixels or None")
        if not _are_integers(self.background, 3, 0) or max(self.background) > 255:
            raise ValueError(f"background is {self.background!r}, it must be (red, green, blue) in [0, 255]")
        if not _are_integers((self.max_pixels,), 1, 1):
            raise ValueError(f"max_pixels is {self.max_pixels!r}, it must be at least 1")


@dataclass(frozen=True)
class StreamSpec(JSONData):
    """One token grid: what its tokens are and how they lie.

    Args:
        name: ``pixel`` unless a tokenizer has several.
        role: What the tokens carry.
        quantizer: Class name of the quantizer.
        codebook_size: K, the number of values of each index; None for a continuous stream.
        dim: Channels D of one quantized vector.
        num_groups: S, indices per position: product groups, residual stages, or 1.
        combinator: How the S indices of a position relate.
        levels: FSQ steps per channel, first one least significant; empty otherwise.
        bits: Sign bits of one index, most significant first; 0 otherwise.
        children: Sub-codes m of every parent code, index = parent * m + child; 0 otherwise.
        metric: ``euclid`` or ``cosine`` for a learned codebook; empty otherwise.
        topology: ``2d``, ``1d``, ``multiscale`` or ``ragged``.
        factor: Downsampling factor H / h; 0 where the grid does not depend on the image size.
        order: Order of positions along N: ``causal`` if no token depends on those after it, ``reversed`` if on none
            before it, so that generation begins at the last.
        scales: Side lengths of a multi-scale schedule; empty otherwise.
        schedules: Whole multi-scale schedules of (h, w) for finest grids that have their own, each ending with that grid.
        max_tokens: Upper bound of N, N itself of topology ``1d``; 0 where there is none.
        pools: Sides of the squares of grid points that one token may stand for, the default first; empty for 1 alone.
    """

    name: str = "pixel"
    role: Role = "pixel"
    quantizer: str = ""
    codebook_size: int | None = None
    dim: int = 0
    num_groups: int = 1
    combinator: str = "single"
    levels: tuple[int, ...] = ()
    bits: int = 0
    children: int = 0
    metric: str = ""
    topology: Topology = "2d"
    factor: int = 0
    order: Literal["raster", "causal", "reversed"] = "raster"
    scales: tuple[int, ...] = ()
    schedules: tuple[tuple[tuple[int, int], ...], ...] = ()
    max_tokens: int = 0
    pools: tuple[int, ...] = ()

    def scale_grids(self, grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """The grids of all scales for a finest grid (h, w), coarsest first."""
        own = (schedule for schedule in self.schedules if schedule[-1] == tuple(grid))
        return next(own, None) or proportional_scales(self.scales, grid)

    def grid(self, height: int, width: int, pool: int | None = None) -> tuple[int, ...]:
        """The token grid of an image of that many pixels, of a sequence (N,) or (max_tokens,).

        Raises:
            TokenizerError: a pooling that is none of ``pools``.
        """
        if pool is not None and pool not in (self.pools or (1,)):
            raise TokenizerError(
                f"pool is {pool}, stream {self.name} offers {', '.join(map(str, self.pools or (1,)))}"
            )
        if self.topology in ("1d", "ragged"):
            return (self.max_tokens,)
        side = pool if pool is not None else self.pools[0] if self.pools else 1
        return (height // self.factor // side, width // self.factor // side)


@dataclass(frozen=True)
class LatentSpec(JSONData):
    """Continuous latents: what ``Encoded.latents`` holds.

    Args:
        channels: D.
        layout: Always position-major (B, N, D).
        sample: Whether ``encode`` samples by default (False takes the mode).
        shift: Subtracted from raw latents: one value, one per channel, or one per element of ``grid``, position-major.
        scale: Multiplied after the shift, so that latents = (raw - shift) * scale.
        grid: Token grid of values per element, the only one that the tokenizer takes; empty where they hold for any.
    """

    channels: int
    layout: Literal["BND"] = "BND"
    sample: bool = False
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class FeatureSpec(JSONData):
    """Dims of what a downstream model can read; 0 where absent.

    Args:
        quantized: D of ``embed``, of the first stream.
        depthwise: d of ``embed(..., depthwise=True)``, of the first stream.
        semantic: Ds of ``semantic``.
        text: The same where a text tower embeds texts into that space.
    """

    quantized: int = 0
    depthwise: int = 0
    semantic: int = 0
    text: int = 0


@dataclass(frozen=True)
class DecodingSpec(JSONData):
    """What ``decode`` gives: pixels, features, or nothing without an external model; and extra inputs by name."""

    kind: Literal["pixels", "features", "external"] = "pixels"
    extra_inputs: tuple[str, ...] = ()
    deterministic: bool = True


@dataclass(frozen=True)
class NumericsSpec(JSONData):
    """Types: of indices, of saved weights, of quantization (always float32); how ties are broken."""

    indices: str = "int64"
    weights: str = "float32"
    quantization: str = "float32"
    ties: str = "lowest index"


@dataclass(frozen=True)
class TokenizerSpec(JSONData):
    """Everything that a consumer must know about a tokenizer; nothing else can be inferred from the weights.

    ``weights_hash`` is the sha256 over all tensors (name, dtype, shape, bytes, by name), so equal hashes and an equal
    ``model`` section in config.json mean equal tokens.
    """

    name: str
    kind: Literal["discrete", "continuous", "both"]
    streams: tuple[StreamSpec, ...]
    image: ImagePolicy = field(default_factory=ImagePolicy)
    multiple_of: int = 1
    features: FeatureSpec = field(default_factory=FeatureSpec)
    latents: LatentSpec | None = None
    decoding: DecodingSpec = field(default_factory=DecodingSpec)
    numerics: NumericsSpec = field(default_factory=NumericsSpec)
    licence: str = "unknown"
    weights_hash: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    format_version: int = FORMAT_VERSION

    MAIN_STREAM: ClassVar[int] = 0

    @property
    def main(self) -> StreamSpec:
        """The first stream: what the shortcuts ``Encoded.indices`` and ``Encoded.grid`` mean."""
        return self.streams[self.MAIN_STREAM]

    def to_json(self, indent: int | None = 2) -> str:
        """The spec as JSON text with sorted keys."""
        return json.dumps(self.to_json_data(), indent=indent, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TokenizerSpec:
        """Reads what ``to_json`` wrote.

        Raises:
            TokenizerError: not JSON, unknown or missing fields, or a format version from the future.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"the spec is not JSON: {error}") from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is not int or version < 1:
            raise TokenizerError("the spec has no format version: it is not one of vistok's")
        if version > FORMAT_VERSION:
            raise TokenizerError(
                f"the spec has format version {version}, this vistok reads up to {FORMAT_VERSION}: upgrade vistok"
            )
        return cls.from_json_data(data)


def proportional_scales(scales: Sequence[int], grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Grids of a schedule of squares p_1, ..., p_K, for any finest grid: round(h p_k / p_K) x round(w p_k / p_K), at least 1 x 1."""
    height, width = grid
    return tuple(
        (max(1, round(height * side / scales[-1])), max(1, round(width * side / scales[-1])))
        for side in scales
    )


def index_dtype(codebook_size: int) -> str:
    """The smallest unsigned integer type that holds indices in [0, codebook_size): uint8, uint16, uint32 or uint64."""
    for bits in (8, 16, 32):
        if codebook_size <= 1 << bits:
            return f"uint{bits}"
    return "uint64"
