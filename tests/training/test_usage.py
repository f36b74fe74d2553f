"""Usage and perplexity of training are those of a direct count."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from tests.training.parts import make_data, make_module, make_tokenizer, make_trainer
from vistok.quantizers import BSQ, LFQ, Quantizer
from vistok.training import UsageMonitor


class Recorder(pl.Callback):
    """Keeps the indices of all steps."""

    def __init__(self) -> None:
        self.indices: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.indices.append(outputs["indices"].flatten(0, 1))


@pytest.mark.parametrize(
    "quantizer",
    [
        BSQ(10, inverse_temperature=1.0),
        LFQ(20, entropy="factorised"),
        BSQ(12, bit_labels=True),
        LFQ(16, entropy="grouped", group_size=4),
    ],
    ids=lambda quantizer: str(quantizer.to_config()["args"]),
)
def test_binary_codes_are_counted_by_index_whatever_their_number(tmp_path, quantizer: Quantizer):
    recorder = Recorder()
    module = make_module(tokenizer=make_tokenizer(quantizer))
    trainer = make_trainer(tmp_path, 6, callbacks=[recorder, UsageMonitor(window=3)])
    trainer.fit(module, make_data())
    last = torch.cat(recorder.indices[3:])  # the last window: (T, S)
    counts = [torch.unique(group, return_counts=True)[1].double() for group in last.T]
    shares = [count / len(last) for count in counts]
    perplexity = torch.stack([torch.exp(-(share * share.log()).sum()) for share in shares]).mean()
    usage = sum(len(count) for count in counts) / (len(counts) * quantizer.codebook_size)
    metrics = trainer.callback_metrics
    assert float(metrics["codebook/perplexity"]) == pytest.approx(float(perplexity), rel=1e-5)
    assert float(metrics["codebook/usage"]) == pytest.approx(usage, rel=1e-5)
    assert 1 <= float(perplexity) <= quantizer.codebook_size
