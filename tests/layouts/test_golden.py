"""Sequences written out by hand from what the systems' papers and code say."""

import pytest
import torch

from tests.layouts.systems import CHARACTERS, Values, continuous, discrete, with_stream
from vistok.layouts import Layout
from vistok.spec import StreamSpec


def ord_of(text: str) -> list[int]:
    return [ord(character) for character in text]


def of_size(size: int, **fields):
    return with_stream(codebook_size=size, **fields)


def column(*indices: int) -> torch.Tensor:
    return torch.tensor(indices).view(1, -1, 1)


def test_chameleon_writes_its_codes_between_two_tokens():
    layout = Layout("chameleon", of_size(8192))
    packed = layout.pack(column(0, 1, 8191, 5), grid=(2, 2))
    assert packed.ids.tolist() == [[8197, 4, 5, 8195, 9, 8196]]
    assert layout.vocabulary_size == 65536
    assert packed.loss_mask.tolist() == [False, True, True, True, True, True]
    assert packed.rows.tolist() == [-1, 0, 0, 1, 1, -1] and packed.columns.tolist() == [-1, 0, 1, 0, 1, -1]
    assert packed.labels.tolist() == [[-100, 4, 5, 8195, 9, 8196]]


def test_an_image_of_chameleon_has_1024_codes():
    layout = Layout("chameleon", of_size(8192))
    assert layout.length(grid=(32, 32)) == 1026


def test_chameleons_codes_are_found_by_their_names():
    names = {"<racm3:break>": 50, "<eoss>": 51, "<image>": 52}
    letters = {"IMGIMGAZ": 9, "IMGIMGBZ": 3, "IMGIMGCZ": 40, "IMGIMGDZ": 7}
    layout = Layout("chameleon", of_size(4), {**names, **letters})
    packed = layout.pack(column(0, 1, 2, 3), grid=(2, 2))
    assert packed.ids.tolist() == [[50, 9, 3, 40, 7, 51]]
    assert layout.unpack(packed.ids).values.flatten().tolist() == [0, 1, 2, 3]
    assert layout.allowed(packed.ids[:, :1], (2, 2))[0].nonzero().flatten().tolist() == [3, 7, 9, 40]
    assert layout.vocabulary_size == 53 and layout.added_tokens == []


def test_the_digits_of_chameleons_names_are_letters():
    names = {
        f"IMGIMG{name}Z": n for n, name in enumerate(["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "BA"])
    }
    layout = Layout("chameleon", of_size(11), names)
    assert layout.codes().all_ids().tolist() == [list(range(11))]


def test_anole_is_chameleon():
    first, second = (Layout(name, of_size(8192)) for name in ("chameleon", "anole"))
    tokens = column(7, 8, 9, 10)
    assert torch.equal(first.pack(tokens, grid=(2, 2)).ids, second.pack(tokens, grid=(2, 2)).ids)


def test_liquid_adds_the_codes_behind_the_text():
    layout = Layout("liquid", of_size(8192), {"<boi>": 7, "<eoi>": 8, "word": 99})
    assert layout.pack(column(0, 8191), grid=(1, 2)).ids.tolist() == [[7, 100, 100 + 8191, 8]]
    assert Layout("liquid", of_size(8192)).codes().all_ids()[0, 0] == 256000


def test_emu3_ends_every_row_and_the_frame():
    layout = Layout("emu3", of_size(32768), text=ord_of)
    ids = layout.pack(column(0, 1, 2, 3, 4, 32767), grid=(2, 3)).ids
    v = 151854
    header = [151852, ord("2"), ord("*"), ord("3"), 151851]
    rows = [v, v + 1, v + 2, 151846, v + 3, v + 4, v + 32767, 151846]
    assert ids.tolist() == [[*header, *rows, 151847, 151853]]
    assert layout.vocabulary_size == 184622
    assert layout.prompt(grid=(2, 3)).tolist() == [header]


def test_emu3_5_only_separates_rows():
    vocabulary = {
        **CHARACTERS,
        "<|image start|>": 30,
        "<|image token|>": 31,
        "<|extra_200|>": 32,
        "<|image end|>": 33,
    }
    layout = Layout("emu3_5", of_size(8), vocabulary)
    ids = layout.pack(column(0, 1, 2, 3), grid=(2, 2)).ids
    assert ids.tolist() == [[30, 2, 10, 2, 31, 34, 35, 32, 36, 37, 33]]
    assert layout.added_tokens[3] == "<|visual token 000003|>"


def test_show_o_has_ten_tokens_then_codes_then_the_mask():
    layout = Layout("show_o", of_size(8192))
    assert layout.pack(column(0, 8191), grid=(1, 2)).ids.tolist() == [[50296, 50305, 50305 + 8191, 50297]]
    assert (layout.vocabulary_size, layout.mask_id) == (58498, 58497)
    assert layout.specials["t2i"] == 50300


def test_mmada_uses_reserved_ids():
    layout = Layout("mmada", of_size(8192))
    assert layout.pack(column(3), grid=(1, 1)).ids.tolist() == [[126084, 126467, 126085]]
    assert (layout.vocabulary_size, layout.mask_id) == (134656, 126336)


def test_janus_writes_placeholders_and_gives_indices_beside():
    names = {"<begin_of_image>": 5, "<image_placeholder>": 6, "<end_of_image>": 7}
    layout = Layout("janus", of_size(16384), names)
    packed = layout.pack(column(9, 16383), grid=(1, 2))
    assert packed.ids.tolist() == [[5, 6, 6, 7]] and packed.values["image"].flatten().tolist() == [9, 16383]
    assert packed.labels.tolist() == [[-100, -100, -100, 7]]
    assert packed.placeholders["image"].tolist() == [False, True, True, False]
    assert layout.vocabulary_size == 8


def test_llamagen_begins_with_a_class_label():
    layout = Layout("llamagen", of_size(16384))
    packed = layout.pack(column(0, 1, 2, 16383), grid=(2, 2), labels=torch.tensor([207]))
    assert packed.ids.tolist() == [[16384 + 207, 0, 1, 2, 16383]]
    assert packed.loss_mask.tolist() == [False, True, True, True, True]
    assert layout.vocabulary_size == 16384 + 1001


def test_unitok_has_eight_codes_behind_each_placeholder():
    layout = Layout("unitok", of_size(4096, num_groups=8, combinator="product"))
    tokens = torch.arange(16).view(1, 2, 8)
    packed = layout.pack(tokens, grid=(1, 2))
    assert packed.ids.tolist() == [[3, -200, -200, 4]] and torch.equal(packed.values["image"], tokens)


def test_vila_u_stacks_stages_that_share_their_ids():
    layout = Layout("vila_u", of_size(16384, num_groups=4, combinator="residual"), 100)
    tokens = torch.tensor([[[0, 1, 2, 16383], [5, 5, 5, 5]]])
    ids = layout.pack(tokens, grid=(1, 2)).ids
    first, code = [100] * 4, 102
    assert ids.tolist() == [[first, [code, code + 1, code + 2, code + 16383], [code + 5] * 4, [101] * 4]]
    assert layout.vocabulary_size == 102 + 16384


VAR = {"topology": "multiscale", "scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)}


def test_var_writes_680_tokens_scale_by_scale():
    layout = Layout("var", of_size(4096, **VAR))
    tokens = torch.arange(680).view(1, 680, 1)
    packed = layout.pack(tokens, grid=(16, 16), labels=torch.tensor([1000]))
    assert packed.ids.tolist() == [[5096, *range(680)]]
    assert torch.bincount(packed.scales[1:]).tolist() == [1, 4, 9, 16, 25, 36, 64, 100, 169, 256]
    assert (packed.rows[-1], packed.columns[-1], packed.rows[1], packed.rows[5]) == (15, 15, 0, 1)


def test_schedules_of_their_own_are_followed():
    own = (((1, 1), (2, 3), (4, 6)),)
    layout = Layout("tokenflow", of_size(8, topology="multiscale", scales=(1, 2, 4), schedules=own), 0)
    packed = layout.pack(torch.zeros(1, 31, 1, dtype=torch.int64), grid=(4, 6))
    assert torch.bincount(packed.scales[packed.is_token]).tolist() == [1, 6, 24]


def test_infinity_writes_bits_most_significant_first():
    layout = Layout("infinity", of_size(1 << 32, bits=32, topology="multiscale", scales=(1, 2)))
    tokens = torch.tensor([0, 1, 1 << 31, 6, (1 << 32) - 1]).view(1, 5, 1)
    packed = layout.pack(tokens, grid=(2, 2))
    assert packed.ids.shape == (1, 5, 32) and layout.vocabulary_size == 2
    assert packed.ids[0, 1].tolist() == [0] * 31 + [1] and packed.ids[0, 2].tolist() == [1] + [0] * 31
    assert packed.ids[0, 3].tolist() == [0] * 29 + [1, 1, 0]
    assert torch.equal(layout.unpack(packed.ids).values, tokens)


def test_tokenflow_names_its_codes():
    layout = Layout("tokenflow", of_size(4, topology="multiscale", scales=(1, 2)), {"<img>": 0, "</img>": 1})
    assert layout.pack(column(3, 0, 1, 2, 3), grid=(2, 2)).ids.tolist() == [[0, 5, 2, 3, 4, 5, 1]]
    assert layout.added_tokens == [f"<vq_token_{n}>" for n in range(4)]


def test_seed_adds_32_codes_from_32000_on():
    layout = Layout("seed", of_size(8192, topology="1d", factor=0, max_tokens=32))
    packed = layout.pack(torch.arange(32).view(1, 32, 1), grid=(32,))
    assert packed.ids.tolist() == [[40192, *range(32000, 32032), 40193]]
    assert layout.added_tokens[7] == "<img_00007>"


def test_lavit_takes_as_many_codes_as_there_are():
    layout = Layout("lavit", of_size(16384, topology="ragged", factor=0, max_tokens=256))
    packed = layout.pack(column(0, 1, 2), grid=(3,))
    assert packed.ids.tolist() == [[32000, 32002, 32003, 32004, 32001]]
    assert layout.unpack(packed.ids).grid == (3,)
    # another code, or the end
    following = layout.allowed(packed.ids[:, :4])[0].nonzero().flatten().tolist()
    assert following == [32001, *range(32002, 32002 + 16384)]


def test_x_omni_says_the_grid_as_text():
    layout = Layout("x_omni", of_size(16384), {**CHARACTERS, "<SOM>": 40, "<IMAGE>": 41, "<EOM>": 42})
    assert layout.pack(column(0, 1, 2), grid=(1, 3)).ids.tolist() == [[40, 1, 12, 3, 41, 43, 44, 45, 42]]


def test_tar_says_how_many_positions_follow():
    layout = Layout("tar", of_size(65536), 10)
    ids = [
        layout.pack(torch.zeros(1, n * n, 1, dtype=torch.int64), grid=(n, n)).ids[0, :3] for n in (27, 13, 9)
    ]
    assert [row.tolist() for row in ids] == [[10, 12, 15], [10, 13, 15], [10, 14, 15]]
    assert layout.added_tokens[2:6] == ["<S0>", "<S1>", "<S2>", "<I0>"]


def test_illume_plus_writes_the_semantic_grid_before_the_pixel_grid():
    semantic = StreamSpec("semantic", "semantic", codebook_size=32768, factor=32)
    layout = Layout("illume_plus", discrete(semantic, StreamSpec("pixel", codebook_size=98304, factor=16)), 0)
    tokens = {
        "pixel": Values(torch.arange(32).view(1, 32, 1), (8, 4)),
        "semantic": Values(torch.arange(8).view(1, 8, 1), (4, 2)),
    }
    ids = layout.pack(tokens).ids
    names = layout.added_tokens
    written = [names[i] for i in ids[0].tolist()]
    assert written[:9] == [
        "<height_128>", "<width_64>", "<start_of_image>", "<start_of_level0>",
        "<|image_level0_0|>", "<|image_level0_1|>", "<end_of_line>", "<|image_level0_2|>", "<|image_level0_3|>",
    ]  # fmt: skip
    assert written[16:20] == [
        "<end_of_level0>",
        "<start_of_level1>",
        "<|image_level1_0|>",
        "<|image_level1_1|>",
    ]
    assert written[-4:] == ["<|image_level1_31|>", "<end_of_line>", "<end_of_level1>", "<end_of_image>"]


@pytest.mark.parametrize("name", ["bagel", "transfusion"])
def test_squares_of_latents_are_packed_channels_last(name):
    layout = Layout(name, continuous(16), 10)
    grid = torch.randn(1, 16, 4, 6)
    packed = layout.pack(grid.flatten(2).transpose(1, 2), grid=(4, 6))
    expected = torch.einsum("chpwq->hwpqc", grid[0].reshape(16, 2, 2, 3, 2)).reshape(-1, 64)
    assert torch.equal(packed.values["image"][0], expected)
    assert packed.ids.tolist() == [[10, -1, -1, -1, -1, -1, -1, 11]]
    assert packed.rows[packed.is_token].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(layout.unpack(packed.ids, packed.values).values, grid.flatten(2).transpose(1, 2))


def test_harmon_and_rae_have_no_ids_at_all():
    for name in ("harmon", "rae"):
        layout = Layout(name, continuous())
        latents = torch.randn(2, 6, 3)
        packed = layout.pack(latents, grid=(2, 3))
        assert packed.ids.tolist() == [[-1] * 6] * 2 and layout.vocabulary_size == 0
        assert torch.equal(packed.values["image"], latents)


def test_metamorph_adds_two_tokens_to_llama_3():
    layout = Layout("metamorph", continuous())
    packed = layout.pack(torch.randn(1, 2, 3), grid=(1, 2))
    assert packed.ids.tolist() == [[128256, -1, -1, 128257]] and layout.vocabulary_size == 128258
