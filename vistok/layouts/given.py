"""What a caller gives to be packed, as one stream after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.checks import check_values, checked_grids
from vistok.layouts.frames import Frames
from vistok.layouts.packed import Stream, StreamValues
from vistok.layouts.streams import Grid, StreamOrder


def given_streams(
    tokens: Tensor | Mapping[str, StreamValues],
    grid: Grid | None,
    orders: Mapping[str, StreamOrder],
    frames: Frames,
    system: str,
) -> list[Stream]:
    """What is to be packed, by the template's streams.

    Raises:
        LayoutError: tokens of another kind, of no image, of several lengths, or that do not say their grid.
    """
    if isinstance(tokens, Tensor):
        if len(orders) > 1:
            raise LayoutError(f"{system} has {len(orders)} streams: give pack what encode gave")
        (order,) = orders.values()
        if grid is None:
            check_values(tokens, (None, None, None), order.rule.latents, f"stream {order.stream.name!r}")
            grids = [frame.grids[0] for frame in frames.candidates(None)]
            known = [one for one in grids if order.num_tokens(one) == tokens.shape[1]]
            if len(known) != 1:
                raise LayoutError(f"{tokens.shape[1]} tokens do not say their grid: say grid=")
            (grid,) = known
        return [Stream(tokens, checked_grids(grid, 1, system)[0])]
    if not isinstance(tokens, Mapping):
        raise LayoutError(f"pack takes a tensor, or what encode gave, not a {type(tokens).__name__}")
    lengths = getattr(tokens, "lengths", None)
    if lengths is not None and not len(lengths):
        raise LayoutError("there is no image to pack: give a batch of at least one")
    number = None if lengths is None else int(lengths[0])
    if lengths is not None and bool((lengths != number).any()):
        image = int((lengths != number).nonzero()[0])
        raise LayoutError(
            f"image 0 has {number} tokens, image {image} {int(lengths[image])}: pack those of each length apart"
        )
    given = []
    for order in orders.values():
        if order.stream.name not in tokens:
            raise LayoutError(
                f"{system} takes stream {order.stream.name!r}, given are {', '.join(map(str, tokens))}"
            )
        stream = tokens[order.stream.name]
        if not hasattr(stream, "grid") or not isinstance(stream.values, Tensor):
            raise LayoutError(
                f"stream {order.stream.name!r} is a {type(stream).__name__}: give what encode gave, with values and grid"
            )
        if number is not None and order.stream.topology == "ragged":
            check_values(
                stream.values, (None, None, None), order.rule.latents, f"stream {order.stream.name!r}"
            )
            given.append(Stream(stream.values[:, :number], checked_grids((number,), 1, system)[0]))
        else:
            (own,) = checked_grids(stream.grid, 1, system)
            given.append(Stream(stream.values, own))
    return given


def batch_of(given: Sequence[Stream], system: str) -> int:
    """B, the same for every stream and at least 1."""
    batches = [len(stream.values) for stream in given]
    if len(set(batches)) > 1:
        raise LayoutError(f"the streams of {system} have {batches} images: give the same ones")
    if not batches[0]:
        raise LayoutError("there is no image to pack: give a batch of at least one")
    return batches[0]
