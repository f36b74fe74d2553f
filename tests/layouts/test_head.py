import pytest
import torch
import torch.nn.functional as F

from vistok.downstream.parts import Parts, PartTable
from vistok.errors import LayoutError
from vistok.layouts import TokenEmbedder, TokenHead
from vistok.layouts.transformer import AlongGroups

HEAD = TokenHead(TokenEmbedder(torch.randn(2, 8, 4), 8), 1)


@pytest.mark.parametrize("num_layers", [0, 2])
def test_a_head_predicts_every_group_given_those_before(num_layers):
    embedder = TokenEmbedder(torch.randn(3, 16, 4), 32)
    head = TokenHead(embedder, num_layers).eval()
    hidden, indices = torch.randn(2, 5, 32), torch.randint(16, (2, 5, 3))
    logits = head(hidden, indices)
    assert logits.shape == (2, 5, 3, 16)
    changed = indices.clone()
    changed[..., 1] = (changed[..., 1] + 1) % 16
    other = head(hidden, changed)
    assert torch.allclose(logits[:, :, :2], other[:, :, :2], atol=1e-6)
    assert torch.allclose(logits[:, :, 2], other[:, :, 2], atol=1e-6) == (num_layers == 0)
    drawn = head.sample(hidden[:, 0])
    assert drawn.shape == (2, 3) and int(drawn.min()) >= 0 and int(drawn.max()) < 16


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TokenHead(TokenEmbedder(torch.randn(2, 8, 4), 6), 1), "width 6 for 4 attention heads"),
        (lambda: TokenHead(TokenEmbedder(torch.randn(2, 8, 4), 8), -1), "-1 layers"),
        (lambda: HEAD(torch.zeros(1, 2, 5)), r"hidden is \(B, N, 8\), it is \(1, 2, 5\)"),
        (lambda: HEAD(torch.zeros(1, 2, 8)), "give indices, or call sample"),
        (
            lambda: HEAD(torch.zeros(1, 2, 8), torch.zeros(1, 3, 2, dtype=torch.int64)),
            "of the same positions",
        ),
        (lambda: HEAD.sample(torch.zeros(1, 8), temperature=0), "temperature is 0"),
    ],
)
def test_what_a_head_cannot_do_is_told_in_one_line(make, told):
    with pytest.raises(LayoutError, match=told) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_groups_are_predicted_by_the_part_that_the_downstream_models_use():
    tables = [PartTable(None, torch.full((3,), 1 / 3), 8) for _ in range(2)]
    assert type(HEAD.along) is type(Parts(tables, 8, 2).along) is AlongGroups


def test_states_of_groups_hear_nothing_of_later_groups():
    along = AlongGroups(3, 8, 2, 2).eval()
    hidden, read = torch.randn(2, 5, 8), list(torch.randn(3, 2, 5, 8))
    states = along(hidden, read)
    assert states.shape == (2, 5, 3, 8)
    assert torch.allclose(along(hidden, read[:1]), states[:, :, :2], atol=1e-6)
    assert torch.allclose(along(hidden, []), states[:, :, :1], atol=1e-6)


def test_a_head_with_layers_learns_what_a_group_says_of_the_next():
    torch.manual_seed(0)
    embedder = TokenEmbedder(torch.randn(2, 8, 4), 32, shared=False)
    head = TokenHead(embedder, 1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    hidden = torch.zeros(64, 1, 32)
    for _ in range(150):
        first = torch.randint(8, (64, 1, 1))
        indices = torch.cat([first, (first + 3) % 8], dim=2)
        loss = F.cross_entropy(head(hidden, indices).flatten(0, 2), indices.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = head.eval().sample(hidden[:, 0])
    assert float((drawn[:, 1] == (drawn[:, 0] + 3) % 8).float().mean()) > 0.9
    with pytest.raises(LayoutError, match="reads the groups before"):
        head(hidden)
