"""Mean and standard deviation of a continuous tokenizer's latents, so that a generative model sees N(0, 1)-like ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from vistok.errors import DataError, TokenizerError
from vistok.evaluation.evaluate import Images, same_size_batches
from vistok.evaluation.progress import counting
from vistok.tokenizer import LatentNormaliser, StreamTokens, Tokenizer

Per = Literal["all", "channel", "element"]
CHOICES = ("all", "channel", "element")


class LatentStatistics:
    """Gathers latents and tells the shift and scale that give them mean 0 and standard deviation 1, in float64.

    Args:
        per: What has a mean of its own: ``all`` latents have one, each ``channel``, or each ``element`` of the token grid,
            which must then be the same for all images.
    """

    def __init__(self, per: Per = "channel") -> None:
        if per not in CHOICES:
            raise ValueError(f"per is {per!r}: choose one of {', '.join(CHOICES)}")
        self.per = per
        self.num_images = 0
        self.grid: tuple[int, ...] = ()
        self.sums: Tensor | None = None

    def update(self, tokens: StreamTokens, lengths: Tensor | None = None) -> None:
        """Takes in the raw latents of a batch.

        Args:
            tokens: Of a continuous stream.
            lengths: (B,) latents of each image where they vary; what lies beyond does not count.

        Raises:
            DataError: several grids, or lengths that vary, where every element has statistics of its own.
        """
        latents = tokens.values.detach().cpu().double()  # not every accelerator has float64
        self.num_images += len(latents)
        if self.per == "element":
            if lengths is not None or tokens.grid != (self.grid or tokens.grid):
                raise DataError(
                    f"images give token grids of {self.grid or 'varying length'} and {tokens.grid}: statistics per "
                    "element need one size, set --size"
                )
            self.grid = tokens.grid
        elif lengths is not None:
            latents = latents[torch.arange(latents.shape[1]) < lengths.cpu()[:, None]][None]
        over = {"all": (0, 1, 2), "channel": (0, 1), "element": (0,)}[self.per]
        count = latents.numel() // latents.sum(over).numel()
        found = torch.stack(
            [latents.sum(over), latents.square().sum(over), torch.full_like(latents.sum(over), count)]
        )
        self.sums = found if self.sums is None else self.sums + found

    def shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """Both flat and in float64; what is constant is shifted, not scaled.

        Raises:
            DataError: nothing was gathered.
        """
        if self.sums is None:
            raise DataError("no image was seen: there are no latents to normalise")
        sums, squares, counts = self.sums.reshape(3, -1)
        mean = sums / counts
        deviation = (squares / counts - mean.square()).clamp(min=0).sqrt()
        return mean, torch.where(deviation > 1e-6, 1 / deviation, 1.0)

    def give_to(self, normaliser: LatentNormaliser) -> None:
        """Sets a normaliser."""
        normaliser.set(*self.shift_and_scale(), self.grid)


def measure(
    tokenizer: Tokenizer, batches: Iterable[Tensor], per: Per = "channel"
) -> tuple[LatentStatistics, LatentNormaliser]:
    """Gathers the raw latents of the continuous stream, in their mode; in this process alone.

    Args:
        tokenizer: A continuous one, or one with a continuous stream. Its normaliser is the identity afterwards.
        batches: Images (B, 3, H, W) in [-1, 1].
        per: See ``LatentStatistics``.

    Returns:
        What was gathered, and the normaliser to give it to.

    Raises:
        DataError: several sizes where every element has statistics of its own.
    """
    assert tokenizer.continuous is not None
    stream, parts = tokenizer.continuous
    assert parts.normaliser is not None
    parts.normaliser.set(0.0, 1.0)  # so that encode gives raw latents
    statistics = LatentStatistics(per)
    for images in batches:
        statistics.update(tokenizer.encode(images.to(tokenizer.device))[stream])
    return statistics, parts.normaliser


def normalise(
    tokenizer: Tokenizer,
    dataset: Images,
    per: Per = "channel",
    *,
    batch_size: int = 16,
    size: int | None = None,
    progress: bool = True,
) -> LatentStatistics:
    """Measures the latents of a dataset, in their mode, and sets the tokenizer's normaliser; in this process alone.

    The measurement is noted in ``provenance["latent_statistics"]``.

    Args:
        tokenizer: A continuous one.
        dataset: Images as ``vistok.data`` gives them.
        per: See ``LatentStatistics``.
        batch_size: Images at once.
        size: Cut the central square of that many pixels; None takes images as the dataset gives them.
        progress: Show a progress bar.

    Raises:
        TokenizerError: a discrete tokenizer.
        DataError: no images, or several sizes where every element has statistics of its own.
    """
    if tokenizer.continuous is None:
        raise TokenizerError(f"{tokenizer.name} is discrete: it has no latents to normalise")
    if hasattr(dataset, "fitted_to"):
        dataset = dataset.fitted_to(tokenizer.spec)
    with counting(len(dataset), progress, "normalise") as count:

        def batches() -> Iterator[Tensor]:
            for images, _, keys in same_size_batches(dataset, batch_size, size):
                yield images
                count(len(keys))

        statistics, normaliser = measure(tokenizer, batches(), per)
    statistics.give_to(normaliser)
    told = {"images": statistics.num_images, "per": per, **({"size": size} if size else {})}
    tokenizer.provenance = {**tokenizer.provenance, "latent_statistics": told}
    return statistics
