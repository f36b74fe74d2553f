import copy

import pytest
import torch
import torch.nn.functional as F

from vistok.quantizers import BSQ, FSQ, VQ, Gaussian, MultiScale, Product, ProjectedCodebook
from vistok.quantizers.schedule import ScaleSchedule


def latents(side=8, dim=4, size=2, width=None):
    shape = (size, side, width or side, dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def prepared(quantizer, latent):
    torch.manual_seed(0)
    quantizer.prepare(latent)
    return quantizer


def by_hand(quantizer, latent, sides):
    """The published loop, on channels-first planes: codes and the sums up to each scale."""
    f = latent.permute(0, 3, 1, 2)
    table = quantizer.stage.decode(torch.arange(quantizer.codebook_size))
    rest, total, sums, chosen = f.clone(), torch.zeros_like(f), [], []
    ticks = torch.linspace(1 / 12, 11 / 12, 4)
    for number, side in enumerate(sides):
        small = F.interpolate(rest, size=(side, side), mode="area").permute(0, 2, 3, 1)
        index = torch.cdist(small.reshape(-1, 4), table).argmin(1)
        codes = table[index].reshape(-1, side, side, 4).permute(0, 3, 1, 2)
        up = F.interpolate(codes, size=f.shape[-2:], mode="bicubic")
        phi = quantizer.convolutions[(ticks - number / (len(sides) - 1)).abs().argmin()]
        up = 0.5 * up + 0.5 * phi(up)
        total, rest = total + up, rest - up
        sums.append(total.permute(0, 2, 3, 1))
        chosen.append(index.reshape(len(latent), -1))
    return torch.cat(chosen, 1), sums


def test_it_is_the_published_loop_step_by_step():
    latent = latents()
    quantizer = prepared(MultiScale(VQ(32, 4), (1, 2, 3, 5, 8)), latent).eval()
    output = quantizer(latent)
    indices, sums = by_hand(quantizer, latent, (1, 2, 3, 5, 8))
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(output.quantized, sums[-1], atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(quantizer.partial_sums(indices), sums, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    expected = torch.stack([(total - latent).square().mean() for total in sums]).mean()
    torch.testing.assert_close(output.losses["commitment"], expected)
    torch.testing.assert_close(output.losses["codebook"], expected)


def test_the_encoder_gets_its_gradient_once_and_codes_and_convolutions_theirs():
    latent = latents().requires_grad_()
    quantizer = MultiScale(VQ(16, 4, init="uniform"), (1, 2, 4, 8)).train()
    output = quantizer(latent)
    (gradient,) = torch.autograd.grad(output.quantized.sum(), latent, retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    (gradient,) = torch.autograd.grad(output.losses["commitment"], latent, retain_graph=True)
    sums = quantizer.partial_sums(output.indices)
    expected = sum(2 * (latent - total) / latent.numel() / 4 for total in sums).detach()
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-4)
    output.losses["codebook"].backward()
    assert latent.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in quantizer.parameters())


@pytest.mark.parametrize("num_convolutions", [0, 1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metric": "cosine", "estimator": "rotation_trick"},
        {"update": "ema", "revive_after": 1},
        {"update": "ema", "metric": "cosine"},
        {"codebook": ProjectedCodebook(), "init": "normal"},
    ],
    ids=str,
)
def test_one_op_gives_what_the_loop_over_scales_gives(options, num_convolutions, monkeypatch):
    torch.manual_seed(0)
    quantizer = MultiScale(VQ(32, 4, **options), (1, 2, 3, 6), num_convolutions=num_convolutions)
    quantizer.prepare(latents(side=6))
    other, outcomes = copy.deepcopy(quantizer), []
    for module in (quantizer, other):
        latent = latents(side=6, width=9).requires_grad_()
        module.train()
        for _ in range(2):
            output = module(latent)
            (sum(output.losses.values()) + output.quantized.square().mean()).backward()
        noted = module.stage._pending
        module.update()
        gradients = [latent.grad, *(p.grad for p in module.parameters() if p.requires_grad)]
        moved = [] if noted.counts is None else [noted.counts, noted.sums, module.stage.age]
        outcomes.append([output.indices, output.quantized, *output.losses.values(), *gradients, *moved])
        monkeypatch.setattr(MultiScale, "_searching_stage", lambda self: None)
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_finer_scales_come_closer():
    latent = latents(size=8)
    quantizer = prepared(MultiScale(VQ(64, 4), (1, 2, 4, 8), num_convolutions=0), latent).eval()
    errors = [(s - latent).square().mean() for s in quantizer.partial_sums(quantizer(latent).indices)]
    assert errors[-1] < 0.8 * errors[0]


def test_a_constant_image_needs_the_first_scale_only():
    quantizer = MultiScale(VQ(3, 2, init="uniform"), (1, 2, 4), num_convolutions=0).eval()
    quantizer.stage.codebook.data = torch.tensor([[0.0, 0.0], [1.0, 2.0], [9.0, 9.0]])
    output = quantizer(torch.tensor([1.0, 2.0]).expand(1, 4, 4, 2))
    assert output.indices.tolist() == [[1] + [0] * 20]
    torch.testing.assert_close(output.quantized, torch.tensor([1.0, 2.0]).expand(1, 4, 4, 2))


def test_sums_up_to_a_scale_are_shrunk_to_it_and_feed_the_next():
    latent = latents()
    quantizer = prepared(MultiScale(VQ(16, 4), (1, 2, 4, 8)), latent).eval()
    indices = quantizer(latent).indices
    sums = [s.permute(0, 3, 1, 2) for s in quantizer.partial_sums(indices)]

    def shrunk(total, side):
        return F.interpolate(total, size=(side, side), mode="area").flatten(2).transpose(1, 2)

    own = torch.cat([shrunk(s, side) for s, side in zip(sums, (1, 2, 4, 8), strict=True)], 1)
    after = torch.cat([shrunk(s, side) for s, side in zip(sums, (2, 4, 8), strict=False)], 1)
    torch.testing.assert_close(quantizer.cumulative(indices), own)
    torch.testing.assert_close(quantizer.next_inputs(indices), after)
    # while generating only the first scales exist
    torch.testing.assert_close(quantizer.next_inputs(indices[:, :5], (8, 8)), after[:, : 4 + 16])
    torch.testing.assert_close(quantizer.decode(indices[:, :5], (8, 8)), quantizer.partial_sums(indices)[1])


@pytest.mark.parametrize(
    "stage",
    [
        BSQ(4, inverse_temperature=1.0),
        BSQ(4, bit_labels=True, inverse_temperature=1.0),
        FSQ((5, 5, 3, 3)),
        Product(VQ(16, 2), 2),
        VQ(16, 4, update="ema"),
    ],
    ids=["bsq", "bit_labels", "fsq", "product", "ema"],
)
def test_stages_of_every_kind_go_there_and_back(stage):
    latent = latents(4, width=6)
    quantizer = MultiScale(stage, (1, 2, 4), num_convolutions=0).train()
    quantizer.prepare(latent)
    output = quantizer(latent)
    quantizer.update()
    assert set(output.losses) == set(quantizer.loss_names)
    output = quantizer.eval()(latent)
    grids = quantizer.schedule((4, 6))
    assert grids == ((1, 2), (2, 3), (4, 6))
    expected = (2, 32) if stage.num_groups == 1 else (2, 32, stage.num_groups)
    assert output.indices.shape == expected
    torch.testing.assert_close(quantizer.decode(output.indices, (4, 6)), output.quantized)


def test_the_schedule_keeps_proportions_and_obeys_its_table():
    table = [[[1, 1], [1, 2], [2, 4]]]
    schedule = ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), table)
    assert schedule((16, 16)) == tuple((p, p) for p in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert schedule.num_tokens((16, 16)) == 680
    assert schedule((32, 32))[-1] == (32, 32) and schedule((24, 12))[-1] == (24, 12)
    assert schedule((2, 4)) == ((1, 1), (1, 2), (2, 4))
    assert schedule.square(680) == (16, 16)
    with pytest.raises(ValueError, match="say grid"):
        schedule.square(681)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiScale(VQ.tiny(), ()), "scales"),
        (lambda: MultiScale(VQ.tiny(), (4, 2)), "scales"),
        (lambda: MultiScale(VQ.tiny(), (1,), [[[2, 2], [1, 4]]]), "never shrink"),
        (lambda: MultiScale(Gaussian(4), (1, 2)), "Gaussian"),
        (lambda: MultiScale(VQ.tiny(), (1, 2), num_convolutions=-1), "num_convolutions"),
        (lambda: MultiScale.tiny()(torch.zeros(1, 16, 4)), "must be \\(B, h, w, 4\\)"),
        (lambda: MultiScale.tiny().decode(torch.zeros(1, 20, dtype=torch.int64), (4, 4)), "whole scales"),
        (lambda: MultiScale.tiny().decode(torch.zeros(1, 4, 4, dtype=torch.int64)), "\\(B, N\\)"),
    ],
)
def test_wrong_calls_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()
