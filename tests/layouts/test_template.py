import pytest
import torch

from tests.layouts.systems import CHARACTERS, PIXEL, Values, continuous, discrete, with_stream
from vistok.errors import LayoutError
from vistok.layouts import Layout, Template, names
from vistok.layouts.template import FOLDER

OTHER = """
system: Other
specials: {start: <s>, stop: </s>, line: <l>}
streams:
  image: {groups: interleaved, own_ranges: true, reversed: true}
sequence: [start, {tokens: image, between_rows: line}, stop]
"""


def test_a_layout_from_a_string_is_a_system_more():
    layout = Layout(Template.from_yaml(OTHER), with_stream(codebook_size=8, num_groups=2), 0)
    tokens = torch.tensor([[[0, 1], [2, 3], [4, 5], [6, 7]]])
    ids = layout.pack(tokens, grid=(2, 2)).ids
    # the last position first; each group has ids of its own, from 3 and from 11 on
    assert ids.tolist() == [[0, 3 + 6, 11 + 7, 3 + 4, 11 + 5, 2, 3 + 2, 11 + 3, 3 + 0, 11 + 1, 1]]
    assert torch.equal(layout.unpack(ids).values, tokens)
    assert layout.allowed(ids[:, :1], (2, 2))[0].nonzero().flatten().tolist() == list(range(3, 11))
    assert layout.allowed(ids[:, :2], (2, 2))[0].nonzero().flatten().tolist() == list(range(11, 19))


def test_groups_can_be_written_one_after_the_other():
    text = OTHER.replace("interleaved, own_ranges: true, reversed: true", "grouped")
    layout = Layout(Template.from_yaml(text), with_stream(codebook_size=8, num_groups=2), 0)
    tokens = torch.tensor([[[0, 1], [2, 3]]])
    ids = layout.pack(tokens, grid=(1, 2)).ids
    assert ids.tolist() == [[0, 3, 5, 2, 4, 6, 1]]
    assert torch.equal(layout.unpack(ids).values, tokens)


def test_indices_can_be_split_into_sub_tokens():
    text = "{system: Split, text_vocabulary: 0, streams: {image: {split: [6, 12], groups: interleaved, own_ranges: true}}, sequence: [{tokens: image}]}"
    layout = Layout(Template.from_yaml(text), with_stream(codebook_size=1 << 18))
    tokens = torch.tensor([0, (1 << 18) - 1, 5000]).view(1, 3, 1)
    ids = layout.pack(tokens, grid=(1, 3)).ids
    assert ids.tolist() == [[0, 64, 63, 64 + 4095, 1, 64 + 904]] and layout.vocabulary_size == 64 + 4096
    assert torch.equal(layout.unpack(ids).values, tokens)


def test_scales_can_be_marked():
    text = """
system: Scales
specials: {scale: <scale>, then: <then>}
streams: {image: }
sequence: [{tokens: image, before_scale: scale, between_scales: then}]
"""
    layout = Layout(Template.from_yaml(text), with_stream(topology="multiscale", scales=(1, 2)), 0)
    assert layout.pack(torch.zeros(1, 5, 1, dtype=torch.int64), grid=(2, 2)).ids.tolist() == [
        [0, 2, 1, 0, 2, 2, 2, 2]
    ]


def test_a_layout_can_be_like_another():
    template = Template.from_yaml("{like: chameleon, system: Mine, sequence: [{tokens: image}, eoi]}")
    assert Layout(template, discrete()).pack(
        torch.zeros(1, 1, 1, dtype=torch.int64), grid=(1, 1)
    ).ids.tolist() == [[4, 8196]]


def test_a_layout_is_read_from_any_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(OTHER)
    assert Layout(tmp_path / "mine.yaml", with_stream(num_groups=2), 0).template.system == "Other"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2", "not YAML"),
        ("- 1", "a mapping of fields"),
        ("{system: A, streams: {i: {}}}", "has no 'sequence'"),
        ("{system: A, streams: {i: {}}, sequence: [{tokens: i}], colour: red}", "has the field 'colour'"),
        ("{system: A, streams: {i: {bits: 3}}, sequence: [{tokens: i}]}", "stream 'i', has the field 'bits'"),
        ("{system: A, streams: {i: {}}, sequence: [boi, {tokens: i}]}", "uses 'boi'"),
        ("{system: A, streams: {i: {}}, sequence: [{tokens: j}]}", "writes the streams j and defines i"),
        ("{system: A, streams: {i: {}}, sequence: [{tokens: i, after: x}]}", "has the field 'after'"),
        ("{system: A, streams: {i: {}}, sequence: [3]}", "has the item 3"),
        ("{system: A, streams: {i: {groups: sideways}}, sequence: [{tokens: i}]}", "groups 'sideways'"),
        ("{system: A, streams: {i: {latents: true}}, sequence: [{tokens: i}]}", "needs a placeholder"),
        ("{system: A, streams: {i: {patch: 2}}, sequence: [{tokens: i}]}", "patch 2"),
        ("{system: A, streams: {i: {placeholder: image}}, sequence: [{tokens: i}]}", "uses 'image'"),
        ("{system: A, streams: {i: {}}, specials: {a: 3}, sequence: [{tokens: i}]}", "the special 3"),
        ("{system: A, streams: {i: {}}, choices: {a: {by: x, tokens: {1: b}}}, sequence: [{tokens: i}]}", "by 'x'"),
        ("{system: A, streams: {i: {}}, growth: [codes], sequence: [{tokens: i}]}", "must name each of"),
        ("{system: A, streams: 3, sequence: [{tokens: i}]}", "streams = 3, it must be a mapping"),
        ("{system: A, streams: {i: {token: 3}}, sequence: [{tokens: i}]}", "token 3: it must be str"),
        ("{system: A, streams: {i: {token: '{x}'}}, sequence: [{tokens: i}]}", "may have the fields id, letters"),
        ("{system: A, streams: {i: {}}, sequence: [{text: '{x}'}, {tokens: i}]}", "may have the fields h, w"),
        ("{like: nothing}", "vistok does not have"),
        ("{system: A, streams: {i: {topology: 3d}}, sequence: [{tokens: i}]}", "topology '3d': it must be of 2d, 1d"),
        ("{system: A, streams: {i: {topology: [1d, 7]}}, sequence: [{tokens: i}]}", "topology 7: it must be of"),
        ("{system: A, streams: {i: {combinator: sum}}, sequence: [{tokens: i}]}", "combinator 'sum': it must be of single"),
        ("{system: A, streams: {i: {reads: 3}}, sequence: [{tokens: i}]}", "reads 3: it must be str"),
        ("{system: A, streams: {i: {topology: 1d}}, specials: {a: a}, sequence: [{tokens: i, after_row: a}]}", "takes topology 1d for 'i'"),
        ("{system: A, streams: {i: {groups: beside}}, sequence: [{tokens: i}]}", "with a placeholder"),
        ("{system: A, streams: {i: {groups: stacked, placeholder: -1}}, sequence: [{tokens: i}]}", "with a placeholder"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_told_in_one_line(text, told):
    with pytest.raises(LayoutError, match=told.replace("[", r"\[")) as raised:
        Template.from_yaml(text)
    assert "\n" not in str(raised.value)


def test_an_unknown_layout_names_those_that_there_are():
    with pytest.raises(LayoutError, match=r"no layout 'nonsense'.*chameleon, emu3"):
        Layout("nonsense", discrete())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Layout("chameleon", continuous()), "takes indices, stream 'pixel' of tokenizer 'small' has latents"),
        (lambda: Layout("bagel", discrete(), 0), "takes latents"),
        (lambda: Layout("chameleon", with_stream(num_groups=8)), "takes one index a position.*has 8"),
        (lambda: Layout("infinity", with_stream(topology="multiscale", scales=(1, 2))), "takes bits, stream 'pixel'"),
        (lambda: Layout("illume_plus", discrete(), 0), "takes a stream 'semantic'"),
        (lambda: Layout("janus", discrete()), "give vocabulary="),
        (lambda: Layout("chameleon", with_stream(codebook_size=9000)), "4 to 9003.*meet 'boi'|4 to 9003.*meet 'eoi'"),
        (lambda: Layout("emu3", discrete(), {"<|visual token 000000|>": 4}), "not '<.visual token 000001.>'"),
        (lambda: Layout("emu3", discrete(), 10).length((2, 2)), "writes '2\\*2' as text"),
        (lambda: Layout("emu3", discrete(), {"2": 1}).length((2, 2)), "has no '\\*'"),
        (lambda: Layout("tar", discrete(), 0).length((3, 3)), "for N = 729, 169, 81, not for 9"),
        (lambda: Layout("bagel", continuous(), 0).length((3, 4)), "grid of 3 x 4 is not a multiple"),
        (lambda: Layout("chameleon", discrete()).length((4,)), r"is \(h, w\)"),
        (lambda: Layout("chameleon", discrete()).allowed(torch.zeros(1, 0, dtype=torch.int64)), "say grid="),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_is_told_in_one_line(make, told):
    with pytest.raises(LayoutError, match=told) as raised:
        make()
    assert "\n" not in str(raised.value)


LAYOUT = Layout("emu3", discrete(PIXEL), CHARACTERS)
IDS = LAYOUT.pack(torch.arange(6).view(1, 6, 1), grid=(2, 3)).ids


@pytest.mark.parametrize(
    ("tokens", "grid", "told"),
    [
        (
            torch.tensor([[[3], [32], [40], [0]]]),
            (2, 2),
            r"image 0 holds index 32 at position 1 .*outside \[0, 32\)",
        ),
        (torch.tensor([[[3], [-1], [0], [0]]]), (2, 2), "index -1 at position 1"),
        (torch.zeros(1, 4, 1), (2, 2), "integer indices"),
        (torch.zeros(1, 5, 1, dtype=torch.int64), (2, 2), r"on a grid of 2 x 2 is \(B, 4, 1\)"),
        (torch.zeros(1, 4, 1, dtype=torch.int64), None, "say grid="),
    ],
)
def test_the_first_wrong_index_is_named(tokens, grid, told):
    with pytest.raises(LayoutError, match=told):
        LAYOUT.pack(tokens, grid=grid)


def test_the_first_wrong_id_is_named():
    ids = IDS.clone()
    ids[0, 8] = 3
    with pytest.raises(LayoutError, match=r"image 0 holds id 3 at position 8, where Emu3 has 'eol' \(23\)"):
        LAYOUT.unpack(ids, grid=(2, 3))
    ids = IDS.clone()
    ids[0, 6] = 500
    with pytest.raises(
        LayoutError, match=r"holds id 500 at position 6, where Emu3 has a code of 'image' \(26 to 57\)"
    ):
        LAYOUT.unpack(ids, grid=(2, 3))
    with pytest.raises(LayoutError, match=r"with 15 ids, these are 14"):
        LAYOUT.unpack(IDS[:, :-1], grid=(2, 3))
    with pytest.raises(LayoutError, match="complete with 15 ids, 16 are given"):
        LAYOUT.allowed(torch.cat([IDS, IDS[:, :1]], 1), (2, 3))
    with pytest.raises(LayoutError, match="integers"):
        LAYOUT.unpack(IDS.float())


def test_labels_are_checked():
    layout = Layout("llamagen", discrete())
    tokens = torch.zeros(2, 1, 1, dtype=torch.int64)
    with pytest.raises(LayoutError, match="begins with a class label"):
        layout.pack(tokens, grid=(1, 1))
    with pytest.raises(LayoutError, match=r"image 1 has label 1001, outside \[0, 1001\)"):
        layout.pack(tokens, grid=(1, 1), labels=torch.tensor([0, 1001]))
    with pytest.raises(LayoutError, match="leave out labels="):
        LAYOUT.pack(tokens, grid=(1, 1), labels=torch.tensor([0, 1]))


def test_placeholders_need_their_values():
    layout = Layout("janus", discrete(), 0)
    ids = layout.pack(torch.zeros(1, 4, 1, dtype=torch.int64), grid=(2, 2)).ids
    with pytest.raises(LayoutError, match="give values="):
        layout.unpack(ids)
    with pytest.raises(LayoutError, match="4 placeholders"):
        layout.unpack(ids, {"image": torch.zeros(1, 3, 1)})
    with pytest.raises(LayoutError, match="placeholders stand for them"):
        layout.codes()


def test_images_of_varying_length_are_packed_by_length():
    class Ragged(dict):
        lengths = torch.tensor([2, 2])

    layout = Layout("lavit", with_stream(topology="ragged", factor=0, max_tokens=4), 0)
    tokens = Ragged(pixel=Values(torch.tensor([[1, 2, 0, 0], [3, 4, 0, 0]]).unsqueeze(-1), (4,)))
    assert layout.pack(tokens).ids.tolist() == [[0, 3, 4, 1], [0, 5, 6, 1]]
    tokens.lengths = torch.tensor([2, 3])
    with pytest.raises(LayoutError, match="image 0 has 2 tokens, image 1 3: pack those of each length apart"):
        layout.pack(tokens)


def test_a_tokenizer_of_reversed_order_is_written_from_its_last_token():
    layout = Layout("seed", with_stream(topology="1d", factor=0, max_tokens=3, order="reversed"), 0)
    tokens = torch.tensor([[[0], [1], [2]]])
    packed = layout.pack(tokens, grid=(3,))
    assert packed.ids.tolist() == [[32, 2, 1, 0, 33]] and packed.columns.tolist() == [-1, 2, 1, 0, -1]
    assert torch.equal(layout.unpack(packed.ids).values, tokens)


def test_layouts_of_latents_say_that_their_placeholder_is_ours():
    for name in names():
        text = (FOLDER / f"{name}.yaml").read_text()
        if "placeholder: -1," in text:
            comment = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
            assert "ours" in comment.casefold() and "placeholder -1" in comment, name
