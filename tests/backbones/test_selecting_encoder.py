from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from tests.ranks import group
from vistok.backbones import ConvEncoder, SelectingEncoder
from vistok.training.draws import WholeBatchDraws


def make(**options):
    torch.manual_seed(0)
    trunk = ConvEncoder(8, channels=8, multipliers=(1,), num_res_blocks=1, patch=8)
    return SelectingEncoder(trunk, max_tokens=16, depth=1, num_heads=2, **options)


def images(count=4):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def decide(encoder, logits):
    """Makes an encoder want to keep what the logits say, whatever it sees."""
    encoder._logits = lambda features: logits.expand(len(features), -1)
    return encoder


def test_the_likelier_decision_is_taken_in_evaluation():
    logits = torch.full((1, 16), -1.0)
    logits[0, [3, 7, 8]] = 1
    output = decide(make().eval(), logits).latents(images())
    assert output.latent.shape == (4, 3, 8) and output.lengths.tolist() == [3] * 4
    assert output.losses["keep"] == pytest.approx((3 / 16 - 1 / 3) ** 2)


def test_at_least_one_feature_stays():
    output = decide(make().eval(), torch.linspace(-9, -5, 16)[None]).latents(images())
    assert output.lengths.tolist() == [1] * 4


def test_kept_latents_depend_on_dropped_features_and_on_none_after_them():
    logits = torch.full((1, 16), -1.0)
    logits[0, [3, 7, 12]] = 1
    encoder = decide(make().eval(), logits)
    features = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    encoder.trunk.forward = lambda image: features
    second = encoder.latents(images(1)).latent[0, 1]
    (gradient,) = torch.autograd.grad(second.square().sum(), features)
    reached = gradient.reshape(16, 8).abs().sum(dim=1) > 0
    assert reached[3] and reached[7] and not reached[12]  # those kept before it, itself, not the one after
    assert reached[0] and reached[15]  # what was dropped


def test_training_draws_and_gradients_reach_the_decision():
    encoder = make().train()
    torch.manual_seed(1)
    lengths = {tuple(encoder.latents(images()).lengths.tolist()) for _ in range(5)}
    assert len(lengths) > 1
    output = encoder.latents(images())
    output.latent.square().sum().backward()
    assert encoder.decide[2].weight.grad.abs().sum() > 0


def test_the_loss_moves_the_share_towards_what_is_wanted():
    encoder = make(keep=0.25).train()
    optimizer = torch.optim.Adam([*encoder.look.parameters(), *encoder.decide.parameters()], lr=0.01)
    for _ in range(60):
        loss = encoder.latents(images(8)).losses["keep"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shares = [encoder.latents(images(8)).lengths.float().mean() / 16 for _ in range(10)]
    assert float(torch.stack(shares).mean()) == pytest.approx(0.25, abs=0.07)


def _keep_loss(rank: int, world_size: int, folder: str) -> None:
    with group(rank, world_size, folder):
        encoder = make().train()
        share = images(8).chunk(world_size)[rank]
        torch.manual_seed(3)
        with WholeBatchDraws(len(share), rank, world_size):
            loss = encoder.latents(share).losses["keep"]
        loss.backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        if world_size > 1:
            for gradient in gradients.values():
                dist.all_reduce(gradient)  # as data-parallel training averages gradients
                gradient /= world_size
        torch.save((loss.detach(), gradients), Path(folder) / f"{world_size}-{rank}.pt")


def test_one_process_and_two_have_the_same_loss_and_gradient(tmp_path):
    _keep_loss(0, 1, str(tmp_path))
    spawn(_keep_loss, (2, str(tmp_path)), nprocs=2)
    one = torch.load(tmp_path / "1-0.pt")
    assert float(one[0]) > 0 and one[1]["decide.2.weight"].abs().sum() > 0
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"2-{rank}.pt"), one, atol=1e-6, rtol=1e-4)
