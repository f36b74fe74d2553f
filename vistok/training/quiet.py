"""Keeps a terminal for what matters."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Silences remarks of Lightning and torch that a user of vistok can do nothing about."""
    for pattern in (
        r".*does not have many workers.*",
        r".*Experiment logs directory .* exists and is not empty.*",
        r".*in eval mode at the start of training.*",
        r"Total length of `list` across ranks is zero.*",
        r"`broadcast_buffers` is deprecated.*",  # its successor is younger than the oldest torch that vistok runs on
        r"It is recommended to use `self.log\(.*sync_dist=True.*",  # means over processes are taken by RunningMeans
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`log\(.*\)` in your `.*` but .*",
    ):
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logger = logging.getLogger(name)
        if _worth_saying not in logger.filters:
            logger.addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(
        start in message
        for start in (
            "Tip:",
            "GPU available",
            "TPU available",
            "HPU available",
            "LOCAL_RANK:",
            "Seed set to",
            "`Trainer.fit` stopped",
        )
    )
