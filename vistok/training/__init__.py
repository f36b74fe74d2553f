"""Training: the Lightning module, its data and callbacks, and what turns a recipe into a run."""

from vistok.training.data import ImageData
from vistok.training.ema import EMA
from vistok.training.health import CodebookWatchdog
from vistok.training.images import ImageLog
from vistok.training.module import TokenizerModule
from vistok.training.optimizer import OptimizerSettings
from vistok.training.progress import LiveBar
from vistok.training.run import build, fit
from vistok.training.saving import Checkpoint, SaveTokenizer, StopOnCtrlC
from vistok.training.stage import Stage
from vistok.training.usage import UsageMonitor

__all__ = [
    "EMA",
    "Checkpoint",
    "CodebookWatchdog",
    "ImageData",
    "ImageLog",
    "LiveBar",
    "OptimizerSettings",
    "SaveTokenizer",
    "Stage",
    "StopOnCtrlC",
    "TokenizerModule",
    "UsageMonitor",
    "build",
    "fit",
]
