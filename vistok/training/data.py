"""Training and validation images for the Trainer, in an order that depends on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from vistok.data import ImageDataset, PositionSampler, RandomCrops, open_images
from vistok.errors import DataError, RecipeError
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer
from vistok.training.guard import refuse_bad_images

if TYPE_CHECKING:
    from vistok.training.module import TokenizerModule

Item = dict[str, Any]


class Stream(IterableDataset[list[Item]]):
    """Batches of one process without end, worker by worker in turn; equal at any number of workers.

    An iterable dataset, because Lightning would replace the sampler of any other under DDP.

    Args:
        items: Items by position.
        sampler: Which positions make a batch.
    """

    def __init__(self, items: RandomCrops, sampler: PositionSampler) -> None:
        super().__init__()
        self.items, self.sampler = items, sampler

    def __iter__(self) -> Iterator[list[Item]]:
        index, stride = _worker()
        while True:
            yield [self.items[position] for position in self.sampler.batch(index)]
            index += stride


class Share(IterableDataset[list[Item]]):
    """Every item once over all processes: this one's share of a dataset, without repeats to fill it up."""

    def __init__(self, items: Any, rank: int, world_size: int) -> None:
        super().__init__()
        self.items, self.rank, self.world_size = items, rank, world_size

    def __iter__(self) -> Iterator[list[Item]]:
        worker, num_workers = _worker()
        for index in range(
            self.rank + worker * self.world_size, len(self.items), num_workers * self.world_size
        ):
            yield [self.items[index]]


class ImageData(pl.LightningDataModule):
    """Random crops to train on, and whole held-out images to validate on.

    What is meant by ``train`` and ``val``: ``photos:train``, ``photos:held_out``, ``procedural:100``, a folder, .tar files; see
    ``vistok.data.open_images``. A batch depends on the seed and its number only, so a run resumes in the middle of
    an epoch; there are no epochs, the Trainer counts steps.

    Args:
        train: Images to train on.
        val: Images to validate on, none of them a training image; None does not validate.
        size: Side of the crops in pixels.
        batch_size: Images of a micro-batch over all processes together.
        scale: Smallest and largest share of an image's short side that a crop covers.
        flip: Mirror half of the crops.
        workers: Processes that read images; 0 reads in the training process.
        seed: Of the crops.

    Raises:
        RecipeError: sizes out of their range.
    """

    def __init__(
        self,
        train: str = "photos:train",
        val: str | None = "photos:held_out",
        size: int = 256,
        batch_size: int = 16,
        scale: tuple[float, float] = (0.5, 1.0),
        flip: bool = True,
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(size, batch_size) < 1 or workers < 0:
            raise RecipeError(
                f"size and batch_size must be at least 1, workers at least 0: {size}, {batch_size}, {workers}"
            )
        self.train, self.val, self.size, self.batch_size = train, val, size, batch_size
        self.scale, self.flip, self.workers, self.seed = scale, flip, workers, seed
        # listing a large folder takes a while, so it is done once
        self._training: ImageDataset | None = None
        self._held_out: ImageDataset | None = None

    def check(self, command: str, tokenizer: Tokenizer) -> None:
        """Looks for the images that a command needs, before anything is started.

        Args:
            command: ``fit``, ``validate`` or ``test``.
            tokenizer: What it is for.

        Raises:
            RecipeError: a size that the factor does not divide, or nothing to validate on.
            DataError: no images.
        """
        if command != "fit":
            if self.val is None:
                raise RecipeError(f"vistok {command} needs images, and data.val is null: set data.val")
        else:
            self._check_size(tokenizer)
            if len(self._training_images()) == 0:
                raise DataError(f"there are no images in {self.train!r}: change data.train")
        if self.val is not None and len(self._held_out_images(tokenizer)) == 0:
            raise DataError(f"there are no images in {self.val!r}: change data.val, or set it to null")

    def check_shares(self, world_size: int) -> None:
        """Refuses a batch that processes cannot share evenly.

        Raises:
            RecipeError: naming both numbers.
        """
        if self.batch_size % world_size:
            raise RecipeError(
                f"data.batch_size={self.batch_size} cannot be shared by {world_size} processes: make it a multiple"
            )

    def train_dataloader(self) -> DataLoader[list[Item]]:
        """Batches from the one that the module's step counter asks for next."""
        assert self.trainer is not None
        module: TokenizerModule = self.trainer.lightning_module  # type: ignore[assignment]
        self._check_size(module.tokenizer)
        return self.training_batches(module.step * module.accumulate)

    def training_batches(self, first: int) -> DataLoader[list[Item]]:
        """This process's share of all micro-batches from one on, without end.

        Args:
            first: Number of the first micro-batch, counted from 0 since the run began.
        """
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        self.check_shares(world_size)
        images = self._training_images()
        crops = RandomCrops(images, size=self.size, scale=self.scale, flip=self.flip, seed=self.seed)
        start = first * self.batch_size
        sampler = PositionSampler(self.batch_size // world_size, rank, world_size, start)
        return self._loader(Stream(crops, sampler))

    def val_dataloader(self) -> DataLoader[list[Item]] | list[Any]:
        """Whole images, one at a time, cut to a multiple of the tokenizer's factor."""
        assert self.trainer is not None
        if self.val is None:
            return []
        module: TokenizerModule = self.trainer.lightning_module  # type: ignore[assignment]
        images = self._held_out_images(module.tokenizer)
        return self._loader(Share(images, self.trainer.global_rank, self.trainer.world_size))

    def test_dataloader(self) -> DataLoader[list[Item]] | list[Any]:
        """The same as for validation."""
        return self.val_dataloader()

    def on_before_batch_transfer(self, batch: Item, dataloader_idx: int) -> Item:
        """Refuses images that are not finite while they are still on the CPU."""
        step = getattr(self.trainer.lightning_module, "step", 0) if self.trainer is not None else 0
        refuse_bad_images(batch["image"], batch["key"], step)
        return batch

    def _check_size(self, tokenizer: Tokenizer) -> None:
        only = None if tokenizer.decoder is None else tokenizer.decoder.image_size
        if only is not None and only != (self.size, self.size):
            raise RecipeError(
                f"data.size={self.size}, but the tokenizer decodes to {only[0]} x {only[1]} alone: make them equal"
            )
        factor = tokenizer.multiple_of
        if self.size % factor:
            nearest = max(1, round(self.size / factor)) * factor
            raise RecipeError(
                f"data.size={self.size} is not a multiple of {factor}, which the tokenizer demands: make it {nearest}, say"
            )

    def _training_images(self) -> ImageDataset:
        if self._training is None:
            self._training = open_images(self.train, policy=ImagePolicy(), multiple_of=1)
        return self._training

    def _held_out_images(self, tokenizer: Tokenizer) -> ImageDataset:
        assert self.val is not None
        if self._held_out is None:
            multiple = tokenizer.multiple_of
            self._held_out = open_images(self.val, policy=tokenizer.image_policy, multiple_of=multiple)
        return self._held_out

    def _loader(self, batches: IterableDataset[list[Item]]) -> DataLoader[list[Item]]:
        return DataLoader(
            batches,
            batch_size=None,  # what comes is whole batches
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Items to one batch: images stacked to (B, 3, H, W), keys and every other field (caption, label) as lists.

    An item without a field that another has gets None.
    """
    others = dict.fromkeys(
        name for item in items for name in item if name not in ("image", "key", "position")
    )
    return {
        "image": default_collate([item["image"] for item in items]),
        "key": [str(item["key"]) for item in items],
        **{name: [item.get(name) for item in items] for name in others},
    }


def _worker() -> tuple[int, int]:
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker is not None else (0, 1)
