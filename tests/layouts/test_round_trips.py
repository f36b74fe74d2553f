import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layouts.systems import SYSTEMS, drawn, labels_for
from vistok.errors import LayoutError
from vistok.layouts import Layout, names

# the published ids of Emu3 make masks of 184,622; those of characters do not
SMALL = settings(max_examples=8, deadline=None)
CASES = st.tuples(st.integers(0, 99), st.integers(1, 3), st.integers(0, 1 << 16))


def packed(name: str, case: tuple[int, int, int]):
    system = SYSTEMS[name]
    choice, batch, seed = case
    layout, grid = system.layout(name), system.grids[choice % len(system.grids)]
    tokens = drawn(system.spec, grid, batch, seed)
    return layout, grid, tokens, layout.pack(tokens, labels=labels_for(layout, batch))


def test_every_layout_that_comes_with_vistok_is_tested():
    assert sorted(SYSTEMS) == names()


@pytest.mark.parametrize("name", sorted(SYSTEMS))
@SMALL
@given(case=CASES)
def test_what_is_packed_comes_out_again(name, case):
    layout, grid, tokens, sequence = packed(name, case)
    assert sequence.ids.dtype == torch.int64 and int(sequence.ids.max()) < max(1, layout.vocabulary_size)
    again = layout.unpack(sequence.ids, sequence.values, grid=grid)
    assert list(again.streams) == list(tokens) and (again.labels is None) == (
        "label" not in name_of_items(layout)
    )
    for stream, own in tokens.items():
        assert (
            torch.equal(again.streams[stream].values, own.values) and again.streams[stream].grid == own.grid
        )
    if again.labels is not None:
        assert torch.equal(again.labels, torch.arange(len(sequence.ids)))


def name_of_items(layout: Layout) -> set[str]:
    return {next(iter(vars(item))) for item in layout.template.sequence if not isinstance(item, str)}


@pytest.mark.parametrize("name", sorted(SYSTEMS))
@SMALL
@given(case=CASES)
def test_every_prefix_allows_the_id_that_follows(name, case):
    layout, grid, _, sequence = packed(name, case)
    for position in range(sequence.ids.shape[1]):
        allowed = layout.allowed(sequence.ids[:, :position], grid)
        following = sequence.ids[:, position].unsqueeze(-1)
        if int(following.min()) < 0:
            assert not bool(allowed.any())
        else:
            assert bool(allowed.gather(-1, following).all())
    assert not bool(layout.allowed(sequence.ids, grid).any()) and bool(
        layout.complete(sequence.ids, grid).all()
    )


@pytest.mark.parametrize("name", sorted(SYSTEMS))
@SMALL
@given(case=CASES)
def test_what_is_drawn_among_allowed_ids_can_be_unpacked(name, case):
    system = SYSTEMS[name]
    choice, batch, seed = case
    layout, grid = system.layout(name), system.grids[choice % len(system.grids)]
    generator = torch.Generator().manual_seed(seed)
    stacked = (layout.num_stacked,) if layout.num_stacked else ()
    ids = torch.zeros(batch, 0, *stacked, dtype=torch.int64)
    placeholder = next(iter(layout.template.streams.values())).placeholder
    while not bool(layout.complete(ids, grid).all()):
        allowed = layout.allowed(ids, grid)
        if bool(allowed.any()):
            flat = allowed.flatten(0, -2).float()
            following = torch.multinomial(flat, 1, generator=generator).view(batch, 1, *stacked)
        else:
            following = torch.full((batch, 1, *stacked), placeholder)
        ids = torch.cat([ids, following], dim=1)
    tokens = drawn(system.spec, grid, batch, seed)
    beside = layout.pack(tokens, labels=labels_for(layout, batch)).values
    found = layout.unpack(ids, beside, grid=grid)
    assert torch.equal(layout.pack(found.streams, labels=found.labels).ids, ids)


@pytest.mark.parametrize("name", sorted(set(SYSTEMS) - {"illume_plus"}))
@SMALL
@given(case=CASES)
def test_the_grid_is_found_where_the_ids_say_it(name, case):
    layout, grid, tokens, sequence = packed(name, case)
    if SYSTEMS[name].spec.main.topology == "multiscale" and grid[0] != grid[1]:
        with pytest.raises(LayoutError, match="say grid="):
            layout.unpack(sequence.ids)
        return
    found = layout.unpack(sequence.ids, sequence.values)
    if name in ("emu3", "emu3_5", "x_omni"):
        assert found.grid == grid
    if grid[0] == grid[-1]:
        assert found.grid == grid and torch.equal(found.values, tokens["pixel"].values)


@SMALL
@given(case=CASES, place=st.integers(0, 1 << 16), wrong=st.integers(0, 1 << 16))
def test_one_wrong_id_is_refused_or_is_another_code(case, place, wrong):
    layout, grid, tokens, sequence = packed("emu3", case)
    ids = sequence.ids.clone()
    position = place % ids.shape[1]
    ids[0, position] = wrong % layout.vocabulary_size
    try:
        found = layout.unpack(ids, grid=grid)
    except LayoutError as error:
        assert f"image 0 holds id {int(ids[0, position])} at position {position}" in str(error)
    else:
        changed = (found.values != tokens["pixel"].values).sum()
        assert bool(sequence.is_token[position]) or int(changed) == 0


def test_any_of_several_sizes_is_allowed_until_the_header_decides():
    system = SYSTEMS["emu3"]
    layout = Layout("emu3", system.spec, sizes=[(32, 48), (64, 48), (32, 16)], **system.options)
    boi = torch.tensor([[layout.specials["boi"]]])
    assert layout.allowed(boi)[0].nonzero().flatten().tolist() == [2, 4]
    after = layout.allowed(torch.tensor([[*boi[0].tolist(), 2, 10]]))
    assert after[0].nonzero().flatten().tolist() == [1, 3]
    with pytest.raises(LayoutError, match="image 0 holds id 7 at position 1"):
        layout.allowed(torch.tensor([[*boi[0].tolist(), 7]]))
    ids = layout.pack(torch.zeros(1, 12, 1, dtype=torch.int64), grid=(4, 3)).ids
    assert layout.unpack(ids).grid == (4, 3)
