"""Datasets of images: folders, WebDataset shards, packaged photographs, procedural images, and crops of them."""

from vistok.data.base import ImageDataset
from vistok.data.crops import RandomCrops, Tiles
from vistok.data.folder import ImageFiles, ImageFolder
from vistok.data.open import open_images
from vistok.data.photos import Photos
from vistok.data.procedural import Procedural
from vistok.data.sampling import EpochOrder, PositionSampler, Shuffled
from vistok.data.tars import WebDatasetImages

__all__ = [
    "EpochOrder",
    "ImageDataset",
    "ImageFiles",
    "ImageFolder",
    "Photos",
    "PositionSampler",
    "Procedural",
    "RandomCrops",
    "Shuffled",
    "Tiles",
    "WebDatasetImages",
    "open_images",
]
