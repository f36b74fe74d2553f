"""The training loop's inside: what happens to a batch, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor

from vistok.errors import RecipeError, VistokError
from vistok.evaluation import psnr
from vistok.losses import Adversarial, LossTerms, encoder_layer
from vistok.tokenizer import Tokenizer
from vistok.tokenizer.normaliser import latent_grids, take_grids
from vistok.training.draws import WholeBatchDraws, seed_draws
from vistok.training.ema import EMA
from vistok.training.guard import batch_keys, describe_keys, refuse_non_finite
from vistok.training.means import RunningMeans
from vistok.training.optimizer import OptimizerSettings

Batch = dict[str, Any]
STEP_KEY, GRIDS_KEY = "vistok_step", "vistok_latent_grids"  # of a checkpoint


class TokenizerModule(pl.LightningModule):
    """Trains a tokenizer, with or without a discriminator, by manual optimization.

    ``step`` counts optimizer steps of the tokenizer, from 0. It drives every schedule, is what
    ``trainer.global_step`` and ``max_steps`` mean, and is saved and restored. Every micro-batch draws its random
    numbers from (seed, number of the micro-batch, place of the image in the whole batch), so that a resumed run repeats
    what an uninterrupted one does, and any number of processes what one does, up to rounding; see ``WholeBatchDraws``.

    Args:
        tokenizer: What to train.
        losses: Named terms and their weights.
        optimizer: Of the tokenizer.
        adversarial: Discriminator and its schedule; None trains without.
        discriminator_optimizer: Of the discriminator, its schedule counted from ``adversarial.start``; the tokenizer's
            settings where None.
        ema_decay: Of the moving average of weights, which is validated and exported; 0 keeps none.
        accumulate: Micro-batches per optimizer step.
        seed: Of everything that is drawn during training.

    Raises:
        RecipeError: losses and quantizer that do not fit each other, or values out of their range.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        losses: LossTerms,
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008  (frozen)
        adversarial: Adversarial | None = None,
        discriminator_optimizer: OptimizerSettings | None = None,
        ema_decay: float = 0.0,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if accumulate < 1:
            raise RecipeError(f"accumulate is {accumulate}, it must be at least 1")
        losses.check(tokenizer.loss_names)
        if adversarial is not None and tokenizer.decoder is not None and tokenizer.decoder.loss_names:
            raise RecipeError(
                f"{type(tokenizer.decoder).__name__} does not decode in training, so no discriminator can judge it: "
                "drop adversarial"
            )
        self.tokenizer = tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.losses = losses
        self.adversarial = adversarial if adversarial is not None and adversarial.weight > 0 else None
        if self.adversarial is not None:
            self.adversarial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = optimizer
        self.discriminator_settings = discriminator_optimizer or optimizer
        self.accumulate, self.seed = accumulate, seed
        self.ema = EMA(self.tokenizer, ema_decay) if ema_decay else None
        self.provenance: dict[str, Any] = {}  # where this training came from, for what it exports
        self.step = 0
        self._gathered = 0  # micro-batches whose gradients wait for the next optimizer step
        self._unchecked: dict[str, Tensor] = {}
        self._waiting_keys: list[str] = []
        self._means = RunningMeans()

    @property
    def exported(self) -> Tokenizer:
        """The tokenizer that is validated and saved: the moving average where there is one."""
        return self.ema.average if self.ema is not None else self.tokenizer  # type: ignore[return-value]

    def setup(self, stage: str) -> None:
        """Tells DDP what a discriminator and statistics gathered per process ask of it."""
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):
            # a broadcast of buffers would overwrite the statistics that each process has gathered since the last step
            strategy._ddp_kwargs.setdefault("broadcast_buffers", False)
            strategy._ddp_kwargs.setdefault("find_unused_parameters", self.adversarial is not None)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for the tokenizer and what its losses train and, with an adversarial part, one for the discriminator."""
        optimizers: list[torch.optim.Optimizer] = [self.settings.build(self.tokenizer, self.losses)]
        if self.adversarial is not None:
            optimizers.append(self.discriminator_settings.build(self.adversarial))
        return optimizers

    def on_train_start(self) -> None:
        """Forgets gradients of a micro-batch that an interruption left behind."""
        self._gathered = 0
        self._unchecked, self._waiting_keys = {}, []

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Gradients of one micro-batch and, after ``accumulate`` of them, one optimizer step.

        Returns:
            ``image``, ``reconstruction`` (B, 3, H, W), ``indices`` (B, N, S) or None, the same by stream in ``streams``,
            and ``stepped``.
        """
        keys = batch_keys(batch)
        batch = _channels_last(batch)
        image = batch["image"]
        seed_draws(self.seed, self.step * self.accumulate + self._gathered)
        if self.step == 0 and self._gathered == 0:
            self.tokenizer.prepare(image)
            if self.ema is not None:
                self.ema.reset(self.tokenizer)
        self._waiting_keys += keys
        last = self._gathered + 1 == self.accumulate
        with self._gradients_kept_local(not last), self._draws(len(keys)):
            output, logged = self._backward(batch)
        self._gathered += 1
        self.log_dict({f"loss/{name}": value for name, value in logged.items()}, batch_size=len(keys))
        if last:
            self._optimizer_step()
        self.log("step", float(self.step), batch_size=len(keys))
        image_out = output.image.detach() if output.image is not None else None
        return {
            "image": image,
            "reconstruction": image_out,
            "indices": output.indices,
            "streams": output.streams,
            "stepped": last,
        }

    def _backward(self, batch: Batch) -> tuple[Any, dict[str, Tensor]]:
        image = batch["image"]
        try:
            output = self.tokenizer(image)
        except ValueError as error:  # the quantizer refuses latents that are not finite
            raise VistokError(
                f"step {self.step}, images {describe_keys(self._waiting_keys)}: {error}"
            ) from error
        layer = encoder_layer(self.tokenizer) if self.losses.adaptive else None
        total, logged = self.losses(batch, output, layer)
        adversarial = (
            self.adversarial if self.adversarial is not None and self.adversarial.active(self.step) else None
        )
        if adversarial is not None:
            decoder = self.tokenizer.decoder
            last_layer = decoder.last_layer if decoder is not None else None
            loss, more = adversarial.generator_loss(output.image, total, last_layer)
            total, logged = total + loss, {**logged, **more}
        self.manual_backward(total / self.accumulate)
        self._unchecked[f"loss {self._gathered}" if self.accumulate > 1 else "loss"] = total.detach()
        if adversarial is not None:
            loss, more = adversarial.discriminator_loss(image, output.image)
            self.manual_backward(loss / self.accumulate)
            self._unchecked[f"discriminator loss {self._gathered}"] = loss.detach()
            logged.update(more)
        logged["total"] = total.detach()
        return output, logged

    def _optimizer_step(self) -> None:
        wrapped: Any = self.optimizers()
        wrapped = wrapped if isinstance(wrapped, list) else [wrapped]
        chosen = [(wrapped[0].optimizer, self.settings, self.step)]
        adversarial = self.adversarial
        if adversarial is not None and adversarial.active(self.step):
            chosen.append((wrapped[1].optimizer, self.discriminator_settings, self.step - adversarial.start))
        # One scaler for both optimizers, updated once, so that both see gradients of one scale. LightningOptimizer.step
        # would update it in between.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        for optimizer, settings, step in chosen:
            if scaler is not None:
                scaler.unscale_(optimizer)
            name = (
                "grad_norm"
                if settings is self.settings and optimizer is chosen[0][0]
                else "discriminator_grad_norm"
            )
            norm = settings.clip_gradients(optimizer)
            if scaler is None:  # a scaler expects to overflow now and then, and skips that step by itself
                self._unchecked[name] = norm
            self.log(f"optimizer/{name}", norm, batch_size=1)
            self.log(
                "optimizer/lr" if name == "grad_norm" else "optimizer/discriminator_lr",
                settings.set_lr(optimizer, step),
                batch_size=1,
            )
        refuse_non_finite(self._unchecked, self._waiting_keys, self.step)
        wrapped[0]._on_before_step()
        for optimizer, _, _ in chosen:
            optimizer.step() if scaler is None else scaler.step(optimizer)
            optimizer.zero_grad()
        if scaler is not None:
            scaler.update()
        # counted once however many optimizers moved, so that max_steps and global_step mean steps of the tokenizer
        wrapped[0]._on_after_step()
        self.tokenizer.update()
        if len(chosen) > 1 and adversarial is not None:
            adversarial.update()
        if self.ema is not None:
            self.ema.update(self.tokenizer, self.step)
        self.step += 1
        self._gathered, self._unchecked, self._waiting_keys = 0, {}, []

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """PSNR of reconstructions by the exported weights, and the losses that need no discriminator."""
        batch = _channels_last(batch)
        image = batch["image"]
        output = self.exported(image)
        count = len(image)
        total, terms = self.losses(batch, output)
        values = {f"val/{name}": value for name, value in {**terms, "total": total.detach()}.items()}
        reconstruction = None
        if output.image is not None:
            reconstruction = output.image.float().clamp(-1, 1)
            values["val/psnr"] = psnr(image, reconstruction).mean()
        self._means.add(values, count)
        return {"image": image, "reconstruction": reconstruction, "indices": output.indices}

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all held-out images of all processes."""
        self.log_dict({**self._means.finish(), "step": float(self.step)})

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The same as validation."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """The same as after validation."""
        self.on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the step counter, and the grids of latents that are normalised per element."""
        checkpoint[STEP_KEY] = self.step
        checkpoint[GRIDS_KEY] = latent_grids(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the step counter, and makes room for latents that are normalised per element."""
        self.step = int(checkpoint[STEP_KEY])
        take_grids(self, checkpoint.get(GRIDS_KEY, {}))

    def _draws(self, num_images: int) -> contextlib.AbstractContextManager[Any]:
        if self.trainer.world_size == 1:
            return contextlib.nullcontext()
        return WholeBatchDraws(num_images, self.global_rank, self.trainer.world_size)

    @contextlib.contextmanager
    def _gradients_kept_local(self, local: bool) -> Iterator[None]:
        strategy = self.trainer.strategy
        if local and isinstance(strategy, ParallelStrategy):
            with strategy.block_backward_sync():
                yield
        else:
            yield


def _channels_last(batch: Batch) -> Batch:
    return {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}
