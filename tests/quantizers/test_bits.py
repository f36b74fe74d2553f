import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from tests.ranks import group
from vistok.quantizers import BSQ, LFQ, GroupedBits


def some(dim, size=300, scale=0.3):
    return scale * torch.randn(2, size, dim, generator=torch.Generator().manual_seed(0))


def dense(latent, codes, temperature):
    """Both entropies from the whole softmax in float64."""
    logits = 2 * temperature * latent.double().flatten(0, 1) @ codes.double().T
    probabilities = logits.softmax(dim=1)
    entropy = torch.special.entr
    return entropy(probabilities).sum(1).mean(), entropy(probabilities.mean(0)).sum()


@pytest.mark.parametrize("cls", [LFQ, BSQ])
def test_the_first_channel_is_the_most_significant_bit_and_zero_is_bit_zero(cls):
    latent = torch.tensor([[[1.0, -1.0, 1.0], [0.0, 0.0, 2.0], [-1.0, -1.0, -1.0]]])
    assert cls(3).eval()(latent).indices.tolist() == [[0b101, 0b001, 0b000]]


@pytest.mark.parametrize("cls", [LFQ, BSQ])
@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_exact_entropies_are_those_of_the_whole_softmax(cls, temperature):
    quantizer = cls(7, entropy="exact", inverse_temperature=temperature).train()
    latent = some(7)
    losses = quantizer(latent).losses
    seen = torch.nn.functional.normalize(latent, dim=-1) if cls is BSQ else latent
    sample, batch = dense(seen, quantizer.decode(torch.arange(128)), temperature)
    torch.testing.assert_close(losses["sample_entropy"].double(), sample, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(-losses["batch_entropy"].double(), batch, atol=1e-5, rtol=1e-5)


def test_entropies_have_the_gradient_of_the_whole_softmax():
    quantizer = LFQ(6, inverse_temperature=2.0).train()
    latent = some(6, 40).requires_grad_()
    sample, batch = dense(latent, quantizer.decode(torch.arange(64)), 2.0)
    (expected,) = torch.autograd.grad(sample - batch, latent)
    losses = quantizer(latent).losses
    (gradient,) = torch.autograd.grad(losses["sample_entropy"] + losses["batch_entropy"], latent)
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-4)


def test_larger_groups_come_closer_to_the_exact_entropy_from_above():
    latent = some(8) + 0.3 * some(1)

    def batch(**arguments):
        return -LFQ(8, inverse_temperature=3.0, **arguments).train()(latent).losses["batch_entropy"].item()

    exact = batch(entropy="exact")
    by_size = [batch(entropy="grouped", group_size=size) for size in (1, 2, 4, 8)]
    assert by_size == sorted(by_size, reverse=True)
    assert by_size[0] == pytest.approx(batch(entropy="factorised"), abs=1e-5)
    assert by_size[-1] == pytest.approx(exact, abs=1e-5) and by_size[0] > exact + 1e-3


def test_a_group_size_that_does_not_divide_the_bits_leaves_a_smaller_last_group():
    latent = some(7)
    loss = LFQ(7, "grouped", group_size=3, inverse_temperature=2.0).train()(latent).losses["batch_entropy"]
    parts = latent.split([3, 3, 1], dim=-1)
    singles = [LFQ(p.shape[-1], inverse_temperature=2.0).train()(p).losses["batch_entropy"] for p in parts]
    torch.testing.assert_close(loss, sum(singles))


def test_uniform_codes_have_the_largest_batch_entropy_and_sure_ones_no_sample_entropy():
    corners = LFQ(5).eval().decode(torch.arange(32)).unsqueeze(0)
    losses = LFQ(5).train()(corners).losses
    assert losses["batch_entropy"].item() == pytest.approx(-5 * math.log(2), abs=1e-5)
    assert losses["sample_entropy"].item() == pytest.approx(0, abs=1e-6)
    assert losses["commitment"].item() == 0


def test_entropies_are_left_out_in_evaluation_and_where_none_are_asked_for():
    assert set(LFQ(5).eval()(some(5)).losses) == {"commitment"}
    assert set(LFQ(5, entropy="none").train()(some(5)).losses) == {"commitment"}
    assert LFQ(5, entropy="none").loss_names == ("commitment",)


def test_the_commitment_is_the_closed_form_and_the_sign_passes_the_gradient():
    latent = some(4).requires_grad_()
    output = LFQ(4, entropy="none")(latent)
    torch.testing.assert_close(output.losses["commitment"], (latent - latent.sign()).square().mean())
    weight = torch.randn_like(latent)
    (gradient,) = torch.autograd.grad((output.quantized * weight).sum(), latent)
    torch.testing.assert_close(gradient, weight)


def test_spherical_codes_have_length_one_and_ignore_the_length_of_latents():
    quantizer = BSQ(9).eval()
    latent = some(9)
    output = quantizer(latent)
    torch.testing.assert_close(output.quantized.norm(dim=-1), torch.ones(2, 300))
    again = quantizer(latent * 40)
    torch.testing.assert_close(again.losses["commitment"], output.losses["commitment"])
    # on the sphere the squared distance is 2 - 2 |z|_1 / sqrt(d), at most 2 - 2 / sqrt(d)
    seen = torch.nn.functional.normalize(latent, dim=-1)
    expected = (2 - 2 * seen.abs().sum(-1) / 3).mean() / 9
    torch.testing.assert_close(output.losses["commitment"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_18_bits_are_packed_exactly_in_half_precision(dtype):
    latent = some(18).to(dtype)
    indices = LFQ(18, entropy="none").eval()(latent).indices
    expected = [int("".join("1" if value > 0 else "0" for value in row), 2) for row in latent[0].tolist()]
    assert indices[0].tolist() == expected


def test_half_precision_entropies_are_finite():
    latent = (50 * some(8)).half().requires_grad_()
    losses = LFQ(8).train()(latent).losses
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values()) and latent.grad.isfinite().all()


@pytest.mark.parametrize("cls", [LFQ, BSQ])
@pytest.mark.parametrize("num_bits", [62, 64, 128])
def test_as_many_bits_as_wanted_go_there_and_back(cls, num_bits):
    labels = num_bits > 62
    quantizer = cls(num_bits, entropy="factorised", bit_labels=labels).train()
    output = quantizer(some(num_bits, 20))
    assert output.indices.shape == ((2, 20, num_bits) if labels else (2, 20))
    torch.testing.assert_close(quantizer.decode(output.indices), output.quantized)
    assert output.losses["batch_entropy"].isfinite()
    assert quantizer.stream().bits == (1 if labels else 62)


def test_bit_labels_are_the_bits_of_the_index():
    latent = some(6, 20)
    indices, labels = LFQ(6).eval()(latent).indices, LFQ(6, bit_labels=True).eval()(latent).indices
    assert torch.equal(LFQ(6).labels(indices), labels)


def test_groups_of_bits_are_those_of_one_long_index():
    latent = some(12)
    grouped, single = GroupedBits(3, 4).eval(), LFQ(12).eval()
    parts = grouped(latent).indices
    assert torch.equal(parts[..., 0] * 256 + parts[..., 1] * 16 + parts[..., 2], single(latent).indices)
    assert grouped.depthwise(parts).shape == (2, 300, 3, 4)
    torch.testing.assert_close(grouped.depthwise(parts).flatten(-2), grouped.decode(parts))
    losses = GroupedBits(3, 4, inverse_temperature=2.0).train()(latent).losses
    same = LFQ(12, "grouped", group_size=4, inverse_temperature=2.0).train()(latent).losses
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in same.items()}


def test_vector_quantize_pytorch_gives_the_same_indices_and_losses_in_one_process():
    from vector_quantize_pytorch import LFQ as Peer

    peer = Peer(dim=8, codebook_size=256, commitment_loss_weight=1.0).train()
    latent = some(8)
    # its logarithm is cut at 1e-5, so the temperature must keep probabilities above
    (_, indices, _), theirs = peer(latent, inv_temperature=0.5, return_loss_breakdown=True)
    output = LFQ(8, inverse_temperature=0.5).train()(latent)
    assert torch.equal(output.indices, indices.long())
    torch.testing.assert_close(
        output.losses["sample_entropy"], theirs.per_sample_entropy, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(-output.losses["batch_entropy"], theirs.batch_entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.losses["commitment"], theirs.commitment)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LFQ(63, entropy="none"), "bit_labels"),
        (lambda: LFQ(0), "num_bits"),
        (lambda: LFQ(30), "grouped"),
        (lambda: LFQ(8, entropy="some"), "entropy"),
        (lambda: BSQ(8, "grouped", group_size=0), "groups of 0"),
        (lambda: BSQ(8, inverse_temperature=0), "inverse_temperature"),
        (lambda: GroupedBits(0, 4), "num_groups"),
        (lambda: GroupedBits(2, 63), "group_size"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _entropies(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    # built before the process group exists, as Lightning does
    quantizers = [
        LFQ(6, inverse_temperature=2.0).train(),
        BSQ(6, inverse_temperature=2.0).train(),
        GroupedBits(2, 3, inverse_temperature=2.0).train(),
    ]
    with group(rank, world_size, folder):
        share = some(6, 20).flatten(0, 1).chunk(world_size)[rank]
        results = []
        for quantizer in quantizers:
            weight = torch.ones(6, requires_grad=True)
            losses = quantizer((share * weight).unsqueeze(0)).losses
            (losses["batch_entropy"] + 0.5 * losses["sample_entropy"]).backward()
            gradient = weight.grad
            if world_size > 1:  # what data-parallel training does
                dist.all_reduce(gradient)
                gradient /= world_size
            results.append((losses["batch_entropy"].item(), gradient))
        if rank == world_size - 1:
            torch.save(results, Path(folder) / f"entropies{world_size}.pt")


def test_batch_entropy_and_its_gradient_are_equal_on_1_2_and_4_processes(tmp_path):
    _entropies(0, 1, str(tmp_path))
    for world_size in (2, 4):
        spawn(_entropies, (world_size, str(tmp_path)), nprocs=world_size)
    one, *others = (torch.load(tmp_path / f"entropies{size}.pt") for size in (1, 2, 4))
    for other in others:
        for (expected, expected_gradient), (value, gradient) in zip(one, other, strict=True):
            assert value == pytest.approx(expected, abs=1e-6)
            torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-5)
