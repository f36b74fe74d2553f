"""Datasets of images: folders, WebDataset shards, tables, lists, photographs, procedural images; crops and views of them."""

from vistok.data.base import ImageDataset
from vistok.data.buckets import Buckets
from vistok.data.crops import RandomCrops, Tiles
from vistok.data.fields import Fields
from vistok.data.folder import ImageFiles, ImageFolder
from vistok.data.open import open_images
from vistok.data.path_list import PathList
from vistok.data.photos import Photos
from vistok.data.procedural import Procedural
from vistok.data.sampling import EpochOrder, PositionSampler, Shuffled
from vistok.data.tables import TableImages
from vistok.data.tars import WebDatasetImages
from vistok.data.views import Views, view_names, with_views

__all__ = [
    "Buckets",
    "EpochOrder",
    "Fields",
    "ImageDataset",
    "ImageFiles",
    "ImageFolder",
    "PathList",
    "Photos",
    "PositionSampler",
    "Procedural",
    "RandomCrops",
    "Shuffled",
    "TableImages",
    "Tiles",
    "Views",
    "WebDatasetImages",
    "open_images",
    "view_names",
    "with_views",
]
