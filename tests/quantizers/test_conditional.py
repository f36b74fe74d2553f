import pytest
import torch
import torch.nn.functional as F

from vistok.quantizers import FSQ, VQ, Conditional, Gaussian, Product


def some(dim, size=200):
    return torch.randn(2, size, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
def test_the_child_is_the_nearest_in_the_sub_codebook_of_its_parent(metric):
    torch.manual_seed(0)
    quantizer = Conditional(VQ(8, 4, init="uniform"), 5, 3, metric=metric).eval()
    quantizer.codebook.data = torch.randn(40, 3)
    latent = some(7)
    output = quantizer(latent)
    parents = quantizer.parent(latent[..., :4]).indices
    table = quantizer.codebook.detach()
    fine = latent[..., 4:]
    if metric == "cosine":
        table, fine = F.normalize(table, dim=-1), F.normalize(fine, dim=-1)
    children = (table.reshape(8, 5, 3)[parents] - fine.unsqueeze(-2)).square().sum(-1).argmin(-1)
    assert torch.equal(output.indices, parents * 5 + children)
    assert torch.equal(quantizer.parts(output.indices), torch.stack([parents, children], -1))
    assert torch.equal(quantizer.join(quantizer.parts(output.indices)), output.indices)
    torch.testing.assert_close(output.quantized[..., 4:], table[output.indices])


def test_equal_children_take_the_lowest_index():
    quantizer = Conditional(VQ(2, 2, init="uniform"), 3, 2).eval()
    quantizer.codebook.data = torch.ones(6, 2)
    assert (quantizer(some(4)).indices % 3 == 0).all()


def test_blocks_of_rows_do_not_change_the_answer(monkeypatch):
    quantizer = Conditional(VQ(8, 4, init="uniform"), 5, 3).eval()
    whole = quantizer(some(7)).indices
    monkeypatch.setattr("vistok.quantizers.conditional._BLOCK", 60)
    assert torch.equal(quantizer(some(7)).indices, whole)


def test_a_frozen_parent_neither_moves_nor_asks_for_weights():
    parent = VQ(8, 4, update="ema", init="uniform")
    quantizer = Conditional(parent, 3, 2, frozen_parent=True).train()
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    output = quantizer(some(6))
    sum(output.losses.values()).backward()
    quantizer.update()
    assert quantizer.loss_names == ("child_commitment", "child_codebook") and not parent.training
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    assert quantizer.codebook.grad.abs().sum() > 0


def test_a_parent_that_learns_keeps_its_own_losses():
    quantizer = Conditional(VQ(8, 4), 3, 2).train()
    assert quantizer.loss_names == ("commitment", "codebook", "child_commitment", "child_codebook")
    latent = some(6)
    quantizer.prepare(latent)
    output = quantizer(latent)
    fine = latent[..., 4:]
    expected = (fine - quantizer.codebook[output.indices]).square().mean()
    torch.testing.assert_close(output.losses["child_commitment"], expected)


def test_children_start_at_latents_of_their_parent():
    quantizer = Conditional(FSQ((2, 2)), 6, 2).train()
    latent = some(4)
    quantizer.prepare(latent)
    parents = quantizer.parent(latent[..., :2]).indices.flatten()
    for parent in range(4):
        own = latent[..., 2:].reshape(-1, 2)[parents == parent]
        codes = quantizer.codebook[parent * 6 : parent * 6 + 6]
        assert (torch.cdist(codes, own).amin(1) == 0).all()
    assert quantizer.stream().children == 6 and quantizer.stream().combinator == "conditional"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conditional(Gaussian(4), 2, 2), "Gaussian"),
        (lambda: Conditional(Product(VQ(4, 2), 2), 2, 2), "one index"),
        (lambda: Conditional(VQ.tiny(), 0, 2), "num_children"),
        (lambda: Conditional(VQ.tiny(), 2, 2, metric="dot"), "metric"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
