import pytest
import torch

from vistok.backbones import ConvDecoder, MaskTokenDecoder, MaskTokenHead, SoftCodes, ViTDecoder


def head(dim_out=12):
    torch.manual_seed(0)
    return MaskTokenHead(4, dim_out, (3, 5), 6, width=16, depth=2, num_heads=2).eval()


def tokens(batch=2, count=6):
    return torch.randn(batch, count, 4, generator=torch.Generator().manual_seed(1))


def test_a_sequence_becomes_features_on_the_grid():
    assert head()(tokens()).shape == (2, 3, 5, 12)


def test_lengths_hide_what_lies_beyond_them():
    network, x = head(), tokens()
    lengths = torch.tensor([6, 2])
    changed = x.clone()
    changed[1, 2:] = 100
    assert torch.equal(network(changed, lengths), network(x, lengths))
    assert not torch.allclose(network(x)[1], network(x, lengths)[1])
    # rows of a batch do as the same sequence alone
    torch.testing.assert_close(network(x[1:, :2], torch.tensor([2]))[0], network(x, lengths)[1])


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="5 tokens came, the decoder was made for 6"):
        head()(tokens(count=5))
    with pytest.raises(ValueError, match="7 tokens came"):
        head()(tokens(count=7), torch.tensor([7, 7]))


def test_pixels_come_from_any_decoder_of_grids():
    decoder = MaskTokenDecoder(head(), ViTDecoder(8, 12, depth=0, num_heads=1))
    assert decoder(tokens()).shape == (2, 3, 24, 40)
    assert decoder.image_size == (24, 40) and decoder.topology == "1d"
    assert decoder.last_layer is decoder.decoder.last_layer


def test_a_proxys_codebook_stands_between():
    pixels = ConvDecoder(8, channels=8, multipliers=(1,), num_res_blocks=1, patch=4)
    decoder = MaskTokenDecoder(head(10), pixels, project=SoftCodes(10, 8))
    x = tokens().requires_grad_()
    decoder(x).square().mean().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="expects 8 channels, 12 arrive"):
        MaskTokenDecoder(head(12), pixels)


def test_soft_codes_of_certain_logits_are_the_codes():
    codes = SoftCodes(5, 3)
    certain = 1e4 * torch.nn.functional.one_hot(torch.tensor([[2, 4]]), 5).float()
    torch.testing.assert_close(codes(certain)[0], codes.codebook[[2, 4]])
    torch.testing.assert_close(codes(torch.zeros(1, 5))[0], codes.codebook.mean(dim=0))
