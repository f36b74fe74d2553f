from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.spawn import spawn

from tests.ranks import group
from vistok.quantizers import VQ, FrozenCodebook, IndexSoftmax, MovingAverage, ProjectedCodebook
from vistok.quantizers.kmeans import kmeans


def test_the_nearest_code_is_chosen_and_ties_take_the_lowest_index():
    quantizer = VQ(3, 2, init="uniform").eval()
    quantizer.codebook.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert quantizer(torch.tensor([[[0.0, 2.0], [2.0, 0.0], [0.5, 0.5]]])).indices.tolist() == [[1, 0, 0]]


def test_losses_are_the_closed_form_and_move_their_own_side_only():
    quantizer = VQ(4, 3, init="uniform").train()
    latent = torch.randn(2, 5, 3, requires_grad=True)
    output = quantizer(latent)
    code = quantizer.codebook[output.indices]
    expected = ((latent - code) ** 2).mean()
    torch.testing.assert_close(output.losses["commitment"], expected)
    torch.testing.assert_close(output.losses["codebook"], expected)
    (from_commitment,) = torch.autograd.grad(output.losses["commitment"], latent, retain_graph=True)
    torch.testing.assert_close(from_commitment, (2 * (latent - code) / latent.numel()).detach())
    assert torch.autograd.grad(
        output.losses["commitment"], quantizer.codebook, allow_unused=True, retain_graph=True
    ) == (None,)
    assert torch.autograd.grad(output.losses["codebook"], latent, allow_unused=True) == (None,)


def test_straight_through_passes_the_gradient_unchanged():
    latent = torch.randn(1, 6, 3, requires_grad=True)
    weight = torch.randn(1, 6, 3)
    (VQ(8, 3, init="uniform")(latent).quantized * weight).sum().backward()
    torch.testing.assert_close(latent.grad, weight)


def test_the_rotation_trick_rotates_and_scales_the_gradient():
    torch.manual_seed(0)
    quantizer = VQ(8, 3, init="uniform", estimator="rotation_trick")
    quantizer.codebook.data = torch.randn(8, 3)
    latent = torch.randn(1, 6, 3, requires_grad=True)
    output = quantizer(latent)
    code = quantizer.codebook[output.indices].detach()
    torch.testing.assert_close(output.quantized, code)
    # a gradient along the code comes back along the latent, scaled by |code| / |latent|
    (output.quantized * F.normalize(code, dim=-1)).sum().backward()
    expected = (
        F.normalize(latent.detach(), dim=-1)
        * code.norm(dim=-1, keepdim=True)
        / latent.detach().norm(dim=-1, keepdim=True)
    )
    torch.testing.assert_close(latent.grad, expected, atol=1e-5, rtol=1e-4)


def test_cosine_ignores_the_length_of_latents():
    quantizer = VQ(16, 4, metric="cosine", init="uniform").eval()
    latent = torch.randn(1, 50, 4)
    assert torch.equal(quantizer(latent).indices, quantizer(latent * 7.5).indices)
    torch.testing.assert_close(quantizer(latent).quantized.norm(dim=-1), torch.ones(1, 50))


def test_the_ema_codebook_moves_to_the_mean_of_its_latents():
    quantizer = VQ(2, 1, update=MovingAverage(0.0), init="uniform").train()
    quantizer.codebook.data = torch.tensor([[-1.0], [1.0]])
    quantizer(torch.tensor([[[-3.0], [-5.0], [2.0]]]))
    quantizer.update()
    assert quantizer.codebook.tolist() == [[-4.0], [2.0]]


def test_an_unused_ema_code_stays_where_it_is():
    quantizer = VQ(2, 1, update=MovingAverage(0.9), init="uniform").train()
    quantizer.codebook.data = torch.tensor([[-1.0], [1.0]])
    quantizer.ema_sums.copy_(quantizer.codebook)
    for _ in range(2000):
        quantizer(torch.tensor([[[2.0]]]))
        quantizer.update()
    torch.testing.assert_close(quantizer.codebook.flatten(), torch.tensor([-1.0, 2.0]), atol=1e-4, rtol=0)


def test_dead_codes_are_revived_after_the_stated_number_of_steps():
    torch.manual_seed(0)
    quantizer = VQ(4, 2, init="uniform", revive_after=3).train()
    quantizer.codebook.data = torch.tensor([[0.0, 0.0], [90.0, 90.0], [91.0, 91.0], [92.0, 92.0]])
    latent = torch.randn(1, 32, 2)
    for step in range(3):
        assert quantizer(latent).indices.unique().tolist() == [0], step
        quantizer.update()
    assert quantizer(latent).indices.unique().numel() == 4


def test_kmeans_init_uses_every_code_and_happens_once():
    torch.manual_seed(0)
    quantizer = VQ(32, 4, revive_after=0).train()
    latent = torch.randn(8, 64, 4)
    quantizer.prepare(latent)
    assert quantizer(latent).indices.unique().numel() == 32
    before = quantizer.codebook.clone()
    quantizer.prepare(latent + 5)
    assert torch.equal(before, quantizer.codebook)


def test_kmeans_finds_separated_clusters_and_survives_too_few_rows():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    rows = (centres.repeat(50, 1) + 0.1 * torch.randn(100, 2))[torch.randperm(100)]
    found = kmeans(rows, 2, iterations=20)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.2
    assert kmeans(rows[:3], 10).isfinite().all()


def test_kmeans_rounds_never_raise_the_quantization_error():
    rows = torch.randn(500, 4)
    errors = [
        torch.cdist(rows, kmeans(rows, 16, iterations=n)).min(dim=1).values.square().mean()
        for n in (0, 1, 2, 5, 10)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]


def test_a_vq_and_vector_quantize_pytorch_choose_alike():
    from vector_quantize_pytorch import VectorQuantize

    peer = VectorQuantize(dim=8, codebook_size=64, use_cosine_sim=True).eval()
    quantizer = VQ(64, 8, metric="cosine", init="uniform").eval()
    quantizer.codebook.data = peer.codebook.clone()
    latent = torch.randn(2, 100, 8)
    assert torch.equal(quantizer(latent).indices, peer(latent)[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": "manhattan"},
        {"update": "none"},
        {"revive_after": -1},
        {"init": "x.npy"},
        {"codebook_size": 0},
        {"estimator": "x"},
    ],
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VQ(**{"codebook_size": 4, "dim": 2, **wrong})


def _train(rank: int, world_size: int, folder: str, update: str) -> None:
    # built before the process group exists, as Lightning does
    torch.manual_seed(0)
    quantizer = VQ(24, 3, update=update, revive_after=2, metric="cosine").train()
    with group(rank, world_size, folder, update):
        generator = torch.Generator().manual_seed(1)
        for step in range(6):
            batch = torch.randn(8, 5, 3, generator=generator) + torch.tensor([3.0, 0.0, 0.0])
            share = batch.chunk(world_size)[rank]
            if step == 0:
                quantizer.prepare(share)
            quantizer(share)
            quantizer.update()
        if rank == 0:
            torch.save(quantizer.state_dict(), Path(folder) / f"state{world_size}{update}.pt")


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_init_ema_and_revival_are_equal_on_1_2_and_4_processes(tmp_path, update):
    for world_size in (1, 2, 4):
        if world_size == 1:
            _train(0, 1, str(tmp_path), update)
        else:
            spawn(_train, (world_size, str(tmp_path), update), nprocs=world_size)
    states = {n: torch.load(tmp_path / f"state{n}{update}.pt", weights_only=True) for n in (1, 2, 4)}
    for name, value in states[1].items():
        torch.testing.assert_close(states[2][name], value, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(states[4][name], value, atol=1e-6, rtol=1e-6)


def dense_index_softmax(latent, codebook, scale, metric):
    if metric == "euclid":
        scores = -scale * torch.cdist(latent, codebook).square()
    elif metric == "cosine":
        scores = scale * F.normalize(latent, dim=-1) @ F.normalize(codebook, dim=-1).T
    else:
        scores = scale * latent @ codebook.T
    soft = scores.softmax(dim=-1)
    hard = F.one_hot(soft.argmax(dim=-1), len(codebook)).float()
    return (hard + soft - soft.detach()) @ codebook, soft.argmax(dim=-1)


@pytest.mark.parametrize("metric", ["dot", "euclid", "cosine"])
def test_index_softmax_gives_every_code_the_gradient_of_the_dense_softmax(metric):
    torch.manual_seed(0)
    quantizer = VQ(40, 6, metric=metric, init="normal", estimator=IndexSoftmax(1.5))
    latent, weight = torch.randn(2, 25, 6, requires_grad=True), torch.randn(2, 25, 6)
    output = quantizer(latent)
    ((output.quantized * weight).sum() + output.losses["index"]).backward()
    ours, codes = latent.grad.clone(), quantizer.codebook.grad.clone()
    latent.grad, quantizer.codebook.grad = None, None
    scaled = F.normalize(latent, dim=-1) if metric == "cosine" else latent
    table = F.normalize(quantizer.codebook, dim=-1) if metric == "cosine" else quantizer.codebook
    expected, indices = dense_index_softmax(scaled, table, 1.5, metric)
    ((expected * weight).sum() + F.mse_loss(expected, scaled)).backward()
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(output.quantized, expected)
    torch.testing.assert_close(ours, latent.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codes, quantizer.codebook.grad, rtol=1e-5, atol=1e-5)
    assert (codes.abs().sum(dim=1) > 0).all()


def test_index_softmax_has_the_two_quantization_losses_and_the_codebooks():
    quantizer = VQ(16, 4, metric="dot", init="normal", estimator="index_softmax")
    latent = torch.randn(1, 9, 4, requires_grad=True)
    losses = quantizer(latent).losses
    assert set(losses) == {"commitment", "codebook", "index"}
    torch.testing.assert_close(losses["index"], losses["commitment"])
    for gradient in torch.autograd.grad(losses["index"], (latent, quantizer.codebook)):
        assert (gradient.flatten(0, -2).abs().sum(dim=1) > 0).all()


def test_options_at_odds_are_refused():
    for wrong, name in (
        ({"metric": "dot"}, "index_softmax"),
        ({"estimator": "index_softmax", "update": "ema"}, "index_softmax"),
        ({"estimator": "index_softmax", "codebook": FrozenCodebook()}, "index_softmax"),
    ):
        with pytest.raises(ValueError, match=name):
            VQ(8, 4, **wrong)
    with pytest.raises(ValueError, match="scale"):
        IndexSoftmax(0)


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
def test_an_average_given_by_its_decay_is_the_one_given_by_name(metric):
    torch.manual_seed(0)
    named = VQ(8, 4, metric=metric, update="ema", init="uniform").train()
    given = VQ(8, 4, metric=metric, update=MovingAverage(0.99), init="uniform").train()
    given.load_state_dict(named.state_dict())
    for quantizer in (named, given):
        quantizer(torch.ones(1, 3, 4))
        quantizer.update()
    assert torch.equal(named.codebook, given.codebook)


def test_the_names_of_weights_are_the_ones_that_saved_tokenizers_have():
    assert list(VQ(8, 4).state_dict()) == ["codebook", "age", "num_updates", "prepared"]


def test_codes_that_are_called_dead_become_latents_and_others_stay():
    quantizer = VQ(8, 3, init="uniform", update="ema")
    before = quantizer.codebook.detach().clone()
    dead = torch.zeros(1, 8, dtype=torch.bool)
    dead[0, [2, 5]] = True
    latent = 10 + torch.rand(2, 6, 3)
    assert quantizer.revive(dead, latent)
    changed = (quantizer.codebook != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [2, 5]
    assert all((latent.reshape(-1, 3) == code).all(dim=1).any() for code in quantizer.codebook[[2, 5]])
    assert not VQ(8, 3, init="normal", codebook=ProjectedCodebook()).revive(dead, latent)


def test_averages_stay_in_float32_in_a_half_precision_model():
    quantizer = VQ(8, 4, update="ema", init="normal").to(torch.bfloat16).train()
    assert quantizer.codebook.dtype == torch.bfloat16
    quantizer(torch.randn(1, 50, 4, dtype=torch.bfloat16))
    quantizer.update()
    assert quantizer.ema_counts.dtype == quantizer.ema_sums.dtype == torch.float32
    assert quantizer.double().ema_sums.dtype == torch.float32
