import torch

from vistok.downstream.next_scale import NextScale
from vistok.downstream.tokens import Tokens


def model_and_tokens(tiny_tokenizer, photographs):
    tokenizer = tiny_tokenizer("multi-scale")
    encoded = tokenizer.encode(torch.stack([photographs[i]["image"][:, :32, :32] for i in range(4)]))
    tokens = Tokens(encoded)
    return NextScale.of(tokenizer, tokens).eval(), tokens


def test_a_scale_sees_coarser_scales_only(tiny_tokenizer, photographs):
    model, tokens = model_and_tokens(tiny_tokenizer, photographs)
    assert model.scales == [1, 4, 16]
    changed = tokens.values.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 64
    finest = model.sums(tokens.values), model.sums(changed)
    assert torch.equal(*finest)  # the finest scale is predicted, never read
    changed[:, 1:5] = (changed[:, 1:5] + 1) % 64
    before, after = (model.hidden(model.sums(v)) for v in (tokens.values, changed))
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])


def test_the_inputs_of_a_scale_need_the_scales_before_it_alone(tiny_tokenizer, photographs):
    model, tokens = model_and_tokens(tiny_tokenizer, photographs)
    whole = model.sums(tokens.values)
    for known, inputs in ((1, 4), (5, 20)):
        assert torch.allclose(model.sums(tokens.values[:, :known]), whole[:, :inputs], atol=1e-5)


def test_the_quantizer_is_no_part_of_the_model(tiny_tokenizer, photographs):
    model, _ = model_and_tokens(tiny_tokenizer, photographs)
    assert not any("quantizer" in name for name in model.state_dict())
