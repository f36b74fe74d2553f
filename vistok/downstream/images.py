"""From what a user names to tokens: images are split, encoded and read back; shards are read."""

from __future__ import annotations

from pathlib import Path

from vistok.data import ImageDataset, Views, open_images
from vistok.downstream.tokens import Tokens, held_out_names, read_tokens, without_tile
from vistok.downstream.views import Chosen, tiles, whole_images
from vistok.errors import DataError
from vistok.tokenizer import Tokenizer

Images = ImageDataset | str | Path
# fewer images than this are cut to tiles, more are taken whole
FEW_IMAGES = 200
MOST_IMAGES = {"train": 4096, "held_out": 512}
_POSITIONS_A_SIDE = 8
_LEAST_SIZE = 32


def prepare(
    tokenizer: Tokenizer,
    images: Images,
    out: Path,
    *,
    size: int | None = None,
    captions: bool = False,
    progress: bool = False,
) -> dict[str, Tokens]:
    """Training and held-out tokens.

    Images are encoded to ``out/shards``, and read back from there; run again, what is there is kept. The packaged
    photographs have their own split; of other images every fifth is held out whole.

    Args:
        tokenizer: Encodes.
        images: A dataset, what ``open_images`` takes, or a directory that this tokenizer's shards are in.
        out: Where shards go.
        size: Side of the images in pixels; default: see ``image_size``.
        captions: Give each image a caption; see ``read_tokens``.
        progress: Show a bar.

    Raises:
        DataError: fewer than two images, or a size that the tokenizer does not take.
        ShardError: shards of another tokenizer or other images.
    """
    import vistok.shards

    if not isinstance(images, ImageDataset) and _holds_shards(Path(images)):
        return read_tokens(Path(images), tokenizer, captions)
    train, held_out = split(images)
    pixels = image_size(tokenizer, size)
    pieces: ImageDataset
    if len(train) + len(held_out) < FEW_IMAGES:
        try:
            pieces = tiles(train, held_out, pixels)
        except DataError:  # all are smaller than a tile
            pieces = whole_images(train, held_out, pixels)
    else:
        pieces = whole_images(
            _some(train, MOST_IMAGES["train"]), _some(held_out, MOST_IMAGES["held_out"]), pixels
        )
    vistok.shards.encode(tokenizer, pieces, out / "shards", batch_size=32, progress=progress)
    return read_tokens(out / "shards", tokenizer, captions)


def split(images: Images) -> tuple[ImageDataset, ImageDataset]:
    """Training and held-out images, by whole images.

    Raises:
        DataError: none, or one only.
    """
    if str(images) == "photos":
        return open_images("photos:train"), open_images("photos:held_out")
    dataset = images if isinstance(images, ImageDataset) else open_images(images)
    # views and tiles of an image stay on one side
    keys = dataset.keys()
    if isinstance(dataset, Views):
        keys = [key.rpartition("#")[0] for key in keys]
    names = [without_tile(key) for key in keys]
    held_out = held_out_names(names)
    if len(set(names)) < 2:
        raise DataError(f"there is {len(set(names))} image: give at least two, one of them is held out")
    sides = ([i for i, name in enumerate(names) if (name in held_out) == side] for side in (False, True))
    train, apart = (Chosen(dataset, indices) for indices in sides)
    return train, apart


def image_size(tokenizer: Tokenizer, side: int | None = None) -> tuple[int, int]:
    """Height and width in pixels: of the side given, the tokenizer's own, or what makes 8 x 8 positions, at least 32.

    Raises:
        DataError: not a multiple of what the tokenizer takes.
    """
    spec = tokenizer.spec
    if side is None:
        side = max(_LEAST_SIZE, _POSITIONS_A_SIDE * spec.multiple_of)
        return spec.image.size or (side, side)
    if side < 1 or side % spec.multiple_of:
        raise DataError(
            f"size {side} is not a multiple of {spec.multiple_of}, which {spec.name} needs: give one that is"
        )
    return side, side


def _holds_shards(path: Path) -> bool:
    from vistok.shards.fingerprint import FILE_NAME

    return (path / FILE_NAME).is_file()


def _some(dataset: ImageDataset, limit: int) -> ImageDataset:
    if len(dataset) <= limit:
        return dataset
    return Chosen(dataset, [index * len(dataset) // limit for index in range(limit)])
