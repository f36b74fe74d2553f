"""transformers: constrained generation of images, and models that grow by a tokenizer's codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vistok.errors import LayoutError
from vistok.layouts import Layout, grown_rows

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


def constrained(
    layout: Layout,
    grid: tuple[int, ...] | Sequence[tuple[int, ...]] | None = None,
    start: int | None = None,
    end: int | None = None,
) -> LogitsProcessorList:
    """What makes ``generate`` write an image that ``layout.unpack`` takes: ``generate(..., logits_processor=constrained(layout))``.

    Args:
        layout: With ids (B, L) that are in the model's vocabulary.
        grid: Of the image; by default any of the sizes that the layout knows.
        start: Where in ``input_ids`` the image's sequence begins; by default at the last token that begins one.
        end: The id that follows a complete image; without one, anything may.

    Raises:
        LayoutError: from ``generate``, a prompt that does not begin an image, or a model with fewer ids than the layout.
    """
    from transformers import LogitsProcessor, LogitsProcessorList

    class Constrained(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            allowed = _allowed(layout, input_ids, grid, start, end)
            if scores.shape[1] < allowed.shape[1]:
                raise LayoutError(
                    f"{layout.template.system} has {allowed.shape[1]} ids, the model {scores.shape[1]}: grow it first"
                )
            masked = torch.full_like(scores, -torch.inf)
            allowed = nn.functional.pad(allowed, (0, scores.shape[1] - allowed.shape[1])).to(scores.device)
            # a complete image binds nothing that comes after it
            allowed |= ~allowed.any(1, keepdim=True)
            return torch.where(allowed, scores, masked)

    return LogitsProcessorList([Constrained()])


def grow(model: Any, layout: Layout, vectors: Tensor, seed: int = 0) -> None:
    """Gives a causal language model the rows of a layout's vocabulary, started from the codebook, in place.

    Args:
        model: Of transformers, with input embeddings and, untied, output embeddings.
        layout: Of the tokenizer, with the model's text vocabulary.
        vectors: (S, K, d) of ``vistok.layouts.codebook_vectors``.
        seed: Of the projection.

    Raises:
        LayoutError: as ``grown_rows``.
    """
    tied = model.get_output_embeddings()
    before = model.get_input_embeddings().weight
    rows = [grown_rows(before.detach(), layout, vectors, seed)]
    if tied is not None and tied.weight is not before:
        rows.append(grown_rows(tied.weight.detach(), layout, vectors, seed))
    model.resize_token_embeddings(layout.vocabulary_size, mean_resizing=False)
    targets = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for target, new in zip(targets, rows, strict=False):
            target.weight.copy_(new)


def unlock_images(model: Any) -> None:
    """Lets transformers' Chameleon generate images and learn to: its forward pass sets the logits of their codes to the least number.

    Its vocabulary mapping still encodes images; only what it forbids is emptied.
    """
    mapping = model.model.vocabulary_mapping
    # read first: they are computed from what is emptied, and kept
    _ = mapping.bpe2img, mapping.img2bpe, mapping.img2bpe_mapping_tensor, mapping.bpe2img_search_tensors
    mapping.image_tokens = []


def _allowed(
    layout: Layout,
    ids: Tensor,
    grid: tuple[int, ...] | Sequence[tuple[int, ...]] | None,
    start: int | None,
    end: int | None,
) -> Tensor:
    starts = [_start(layout, row, grid) if start is None else start for row in ids]
    rows: list[Tensor] = []
    if len(set(starts)) == 1:
        rows = list(_after(layout, ids[:, starts[0] :], grid, end))
    else:
        for row, first in zip(ids, starts, strict=True):
            rows += _after(layout, row[None, first:], grid, end)
    return torch.stack(rows)


def _after(
    layout: Layout, prefix: Tensor, grid: tuple[int, ...] | Sequence[tuple[int, ...]] | None, end: int | None
) -> Tensor:
    done = layout.complete(prefix, grid)
    allowed = torch.zeros(len(prefix), layout.vocabulary_size, dtype=torch.bool)
    if not bool(done.all()):
        allowed[~done] = layout.allowed(prefix.cpu()[~done], grid)
    if end is not None:
        allowed[done, end] = True
    return allowed


def _start(layout: Layout, row: Tensor, grid: tuple[int, ...] | Sequence[tuple[int, ...]] | None) -> int:
    system = layout.template.system
    first = layout.allowed(torch.zeros(1, 0, dtype=torch.int64), grid)[0].nonzero().flatten()
    if bool(torch.isin(first, layout.codes().all_ids()).any()):
        raise LayoutError(f"nothing tells where an image of {system} begins: say start=")
    places = torch.isin(row.cpu(), first).nonzero()
    if not len(places):
        raise LayoutError(
            f"the prompt has no token that begins an image of {system}: end it with layout.prompt, or say start="
        )
    return int(places[-1])
