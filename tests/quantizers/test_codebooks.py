import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vistok.quantizers import (
    VQ,
    BridgeCodebook,
    FrozenCodebook,
    MovingAverage,
    ProjectedCodebook,
    Residual,
)
from vistok.recorded import build
from vistok.tokenizer.saving import exported_classes

KINDS = [FrozenCodebook(), ProjectedCodebook(), BridgeCodebook(group=4, width=8, num_heads=2, chunk=3)]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)


def step(quantizer, latent):
    """One optimizer step of all that learns."""
    weights = [weight for weight in quantizer.parameters() if weight.requires_grad]
    output = quantizer.train()(latent)
    sum(output.losses.values()).backward()
    if weights:
        torch.optim.SGD(weights, lr=0.5).step()
    quantizer.zero_grad()
    quantizer.update()


@each
def test_every_kind_starts_at_the_raw_codes_and_quantizes_like_a_free_codebook(kind):
    torch.manual_seed(0)
    free, other = VQ(50, 6, init="normal"), VQ(50, 6, init="uniform", codebook=kind)
    other.set_codebook(free.codebook.detach())
    latent = torch.randn(2, 40, 6)
    expected, found = free.eval()(latent), other.eval()(latent)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.quantized, expected.quantized)
    torch.testing.assert_close(other.decode(found.indices), found.quantized)


def test_one_step_of_one_code_moves_all_codes_behind_a_linear_map():
    torch.manual_seed(0)
    quantizer = VQ(64, 4, init="normal", codebook=ProjectedCodebook())
    raw, before = quantizer.codebook.clone(), quantizer.table().detach().clone()
    step(quantizer, torch.randn(1, 1, 4))
    assert (quantizer.table() != before).any(dim=1).all()
    assert torch.equal(quantizer.codebook, raw)


def test_one_step_of_one_code_moves_all_codes_behind_a_bridge():
    torch.manual_seed(0)
    quantizer = VQ(50, 4, init="normal", codebook=BridgeCodebook(group=1, width=8, num_heads=2, chunk=16))
    before = quantizer.table().detach().clone()
    step(quantizer, torch.randn(1, 1, 4))
    assert (quantizer.table() != before).any(dim=1).all()


def test_a_bridge_lets_a_code_depend_on_the_others_of_its_chunk_only():
    torch.manual_seed(0)
    quantizer = VQ(24, 3, init="normal", codebook=BridgeCodebook(group=2, width=8, num_heads=2, chunk=6))
    torch.nn.init.normal_(quantizer.codes.recover.weight)
    (gradient,) = torch.autograd.grad(quantizer.table()[0].sum(), quantizer.codebook)
    moved = gradient.abs().sum(dim=1) > 0
    assert moved[:12].all() and not moved[12:].any()


def test_a_free_codebook_moves_the_chosen_code_only():
    quantizer = VQ(64, 4, init="normal")
    before = quantizer.codebook.clone()
    step(quantizer, torch.randn(1, 1, 4))
    assert (quantizer.codebook != before).any(dim=1).sum() == 1


def test_a_frozen_codebook_never_moves_once_it_is_prepared():
    quantizer = VQ(16, 4, codebook=FrozenCodebook())
    quantizer.prepare(torch.randn(1, 100, 4))
    before = quantizer.codebook.clone()
    for _ in range(3):
        step(quantizer, torch.randn(1, 20, 4).requires_grad_())
    assert torch.equal(quantizer.codebook, before)
    assert quantizer.loss_names == ("commitment",)
    assert not any(weight.requires_grad for weight in quantizer.parameters())


@each
def test_what_moves_single_codes_is_refused_where_there_are_none(kind):
    for wrong in ({"update": "ema"}, {"revive_after": 3}):
        with pytest.raises(ValueError, match=type(kind).__name__):
            VQ(8, 4, codebook=kind, **wrong)


@each
def test_a_config_builds_it_again_and_stages_have_weights_of_their_own(kind):
    quantizer = Residual(VQ(16, 4, codebook=kind), 2).eval()
    first, second = quantizer.stages
    assert first.codes is not second.codes and first.codes is not kind
    again = build(quantizer.to_config(), exported_classes()).eval()
    again.load_state_dict(quantizer.state_dict())
    latent = torch.randn(1, 9, 4)
    assert torch.equal(again(latent).indices, quantizer(latent).indices)


def test_codes_start_at_the_table_of_a_file_whose_name_is_not_saved(tmp_path):
    table = torch.randn(16, 4)
    np.save(tmp_path / "codes.npy", table.numpy())
    save_file({"embedding": table}, tmp_path / "codes.safetensors")
    for name in ("codes.npy", "codes.safetensors"):
        quantizer = VQ(16, 4, init=str(tmp_path / name), codebook=FrozenCodebook())
        quantizer.prepare(torch.randn(1, 50, 4))
        assert torch.equal(quantizer.codebook, table)
        assert name not in str(quantizer.to_config())
    wide = VQ(16, 2, init=str(tmp_path / "codes.npy"), codebook=ProjectedCodebook(dim=4))
    assert wide.table().shape == (16, 2)


def test_tables_that_do_not_fit_are_refused_by_name(tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((3, 4), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((16, 4), np.int64))
    save_file({"a": torch.zeros(16, 4), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    (tmp_path / "codes.txt").write_text("1 2")
    for name, reason in (
        ("codes.npy", r"\(3, 4\)"),
        ("whole.npy", "floating"),
        ("two.safetensors", "2 tensors"),
        ("codes.txt", "safetensors"),
        ("nothing.npy", "no such file"),
    ):
        with pytest.raises(ValueError, match=reason):
            VQ(16, 4, init=str(tmp_path / name))
    with pytest.raises(ValueError, match="init='normal'"):
        VQ(16, 2, codebook=ProjectedCodebook(dim=4))
    with pytest.raises(ValueError, match=r"\(16, 4\)"):
        VQ(16, 4).set_codebook(torch.zeros(16, 5))


def test_wrong_numbers_of_a_bridge_and_an_average_are_refused():
    for wrong in ({"group": 0}, {"width": 10, "num_heads": 4}):
        with pytest.raises(ValueError, match="num_heads"):
            BridgeCodebook(**wrong)
    with pytest.raises(ValueError, match="decay"):
        MovingAverage(1.0)
    with pytest.raises(ValueError, match="dim"):
        ProjectedCodebook(0)


def test_a_linear_map_and_vector_quantize_pytorchs_simvq_agree_in_value_loss_and_gradient():
    from vector_quantize_pytorch import SimVQ

    torch.manual_seed(0)
    peer = SimVQ(dim=8, codebook_size=64)
    quantizer = VQ(64, 8, init="uniform", estimator="rotation_trick", codebook=ProjectedCodebook())
    quantizer.set_codebook(peer.frozen_codebook)
    quantizer.codes.projection.weight.data = peer.code_transform.weight.detach().clone()
    latent = torch.randn(2, 30, 8)
    ours, theirs = latent.clone().requires_grad_(), latent.clone().requires_grad_()
    output, (quantized, indices, loss) = quantizer(ours), peer(theirs)
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(output.quantized, quantized)
    total = output.losses["codebook"] + 0.25 * output.losses["commitment"]
    torch.testing.assert_close(total, loss)
    (output.quantized.square().sum() + total).backward()
    (quantized.square().sum() + loss).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        quantizer.codes.projection.weight.grad, peer.code_transform.weight.grad, rtol=1e-4, atol=1e-6
    )


_LARGE = """
import resource, torch
from vistok.quantizers import *
arguments = {{"init": "normal", {arguments}}}
quantizer = VQ(500_000, {dim}, **arguments).train()
latent = torch.randn(1, {tokens}, {dim}, requires_grad=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
output = quantizer(latent)
(output.quantized.sum() + sum(output.losses.values())).backward()
quantizer.update()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(
    ("arguments", "dim", "tokens", "tables"),
    [
        ('"update": "ema"', 8, 1024, 12),
        ('"codebook": ProjectedCodebook()', 16, 1024, 6),
        ('"estimator": "index_softmax", "metric": "dot"', 16, 64, 10),
    ],
)
def test_half_a_million_codes_train_in_the_memory_of_a_few_tables(arguments, dim, tokens, tables):
    script = _LARGE.format(arguments=arguments, dim=dim, tokens=tokens)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    table_mib = 500_000 * dim * 4 / 2**20
    weights_mib = 500_000 * tokens * 4 / 2**20
    used = float(run.stdout)
    assert used < tables * table_mib + 64, used
    assert used < weights_mib or tokens < 1024


@pytest.mark.parametrize("dim", [4, 2048])
def test_the_narrowest_and_the_widest_codes_quantize(dim):
    quantizer = VQ(32, dim, init="normal").eval()
    codes = quantizer.codebook.detach()
    assert torch.equal(quantizer(codes[None]).indices, torch.arange(32)[None])
