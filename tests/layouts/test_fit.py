"""Every layout that comes with vistok against every kind of tokenizer that there is."""

from dataclasses import replace

import pytest

from tests.layouts.systems import CHARACTERS, SYSTEMS
from vistok.errors import LayoutError
from vistok.layouts import Layout, Template, fitting, names
from vistok.quantizers import (
    BSQ,
    FSQ,
    VQ,
    Conditional,
    Gaussian,
    GroupedBits,
    MultiScale,
    Product,
    Residual,
    SharedIndex,
)
from vistok.spec import LatentSpec, StreamSpec, TokenizerSpec


def spec_of(*streams: StreamSpec) -> TokenizerSpec:
    continuous = [stream for stream in streams if stream.codebook_size is None]
    kind = "discrete" if not continuous else "continuous" if len(continuous) == len(streams) else "both"
    latents = LatentSpec(channels=continuous[0].dim) if continuous else None
    return TokenizerSpec("small", kind, streams, latents=latents)


def on_grid(quantizer, **fields) -> StreamSpec:
    return replace(quantizer.stream(), factor=16, **fields)


def in_sequence(quantizer, topology: str = "1d") -> StreamSpec:
    return replace(quantizer.stream(), topology=topology, factor=0, max_tokens=9)


SEMANTIC = on_grid(VQ.tiny(), name="semantic", role="semantic")
TOKENIZERS = {
    "vq": spec_of(on_grid(VQ.tiny())),
    "fsq": spec_of(on_grid(FSQ.tiny())),
    "bsq": spec_of(on_grid(BSQ.tiny())),
    "shared": spec_of(on_grid(SharedIndex.tiny())),
    "conditional": spec_of(on_grid(Conditional.tiny())),
    "residual": spec_of(on_grid(Residual(VQ.tiny(), 4))),
    "product": spec_of(on_grid(Product(VQ.tiny(), 8))),
    "multi-scale": spec_of(on_grid(MultiScale.tiny())),
    "multi-scale bits": spec_of(on_grid(MultiScale(BSQ.tiny(), (1, 2, 4)))),
    "multi-scale shared": spec_of(on_grid(MultiScale(SharedIndex.tiny(), (1, 2, 4)))),
    "1-d": spec_of(in_sequence(VQ.tiny())),
    "ragged": spec_of(in_sequence(VQ.tiny(), "ragged")),
    "dual": spec_of(on_grid(VQ.tiny()), SEMANTIC),
    "latents": spec_of(on_grid(Gaussian.tiny())),
    "latents 1-d": spec_of(in_sequence(Gaussian.tiny())),
    "dual latents": spec_of(on_grid(Gaussian.tiny()), SEMANTIC),
}
# one index a position, row by row
ONE = {"vq", "fsq", "bsq", "shared", "conditional"}
SCALES = {"multi-scale", "multi-scale bits", "multi-scale shared"}
FITS = {
    **dict.fromkeys(("anole", "chameleon", "liquid", "emu3", "emu3_5", "x_omni", "tar"), ONE),
    **dict.fromkeys(("show_o", "mmada", "janus", "llamagen"), ONE),
    "unitok": {"product"},
    "vila_u": {"residual"},
    "var": SCALES,
    "tokenflow": SCALES,
    "infinity": {"multi-scale bits"},
    "seed": {"1-d"},
    "lavit": {"ragged"},
    "illume_plus": {"dual"},
    **{name: {"latents"} for name in ("bagel", "transfusion", "harmon", "rae")},
    "metamorph": {"latents", "latents 1-d"},
}


def test_the_table_names_every_layout():
    assert sorted(FITS) == names()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", sorted(FITS))
def test_a_layout_takes_the_tokenizers_of_its_system_and_refuses_others_in_one_line(name, tokenizer):
    spec = TOKENIZERS[tokenizer]
    options = SYSTEMS[name].options
    if tokenizer in FITS[name]:
        assert Layout(name, spec, **options).template.system
        return
    with pytest.raises(LayoutError) as raised:
        Layout(name, spec, **options)
    told = str(raised.value)
    system = Template.named(name).system
    assert told.startswith(f"{system} takes ") and "tokenizer 'small'" in told and "\n" not in told
    assert "take a layout that fits it (" in told or "write a template for it" in told
    assert any(stream.name in told for stream in spec.streams)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_layouts_that_fit_are_those_that_can_be_built(tokenizer):
    assert fitting(TOKENIZERS[tokenizer]) == [name for name in names() if tokenizer in FITS[name]]


@pytest.mark.parametrize(
    ("name", "tokenizer", "told"),
    [
        ("chameleon", "dual", "Chameleon takes 1 stream and does not say which (reads: of a template), tokenizer 'small' has pixel, semantic: take a layout that fits it (illume_plus)"),
        ("var", "vq", "VAR takes tokens of topology multiscale, stream 'pixel' of tokenizer 'small' is 2d"),
        ("metamorph", "vq", "MetaMorph takes latents, stream 'pixel' of tokenizer 'small' has indices"),
        ("seed", "ragged", "SEED takes tokens of topology 1d, stream 'pixel' of tokenizer 'small' is ragged: take a layout that fits it (lavit)"),
        ("vila_u", "product", "VILA-U takes indices of combinator residual, stream 'pixel' of tokenizer 'small' is product: take a layout that fits it (unitok)"),
        ("janus", "residual", "Janus takes one index a position (a template takes more by groups:), stream 'pixel' of tokenizer 'small' has 4"),
        ("infinity", "multi-scale", "Infinity takes bits, stream 'pixel' of tokenizer 'small' has none, its quantizer is VQ: take a layout that fits it (tokenflow, var)"),
        ("illume_plus", "vq", "ILLUME+ takes a stream 'semantic', tokenizer 'small' has pixel"),
        ("bagel", "latents 1-d", "BAGEL takes tokens of topology 2d, stream 'pixel' of tokenizer 'small' is 1d"),
    ],
)  # fmt: skip
def test_what_is_wrong_first_is_told(name, tokenizer, told):
    with pytest.raises(LayoutError) as raised:
        Layout(name, TOKENIZERS[tokenizer], **SYSTEMS[name].options)
    assert str(raised.value).startswith(told)


def test_a_template_may_say_which_stream_it_reads():
    text = "{like: tar, streams: {image: {token: '<I{id}>', topology: 2d, reads: semantic}}}"
    layout = Layout(Template.from_yaml(text), TOKENIZERS["dual"], 0)
    frame = layout.spec.streams[1]
    assert layout.codes().sizes.tolist() == [frame.codebook_size]
    with pytest.raises(LayoutError, match="Tar takes a stream 'semantic', tokenizer 'small' has pixel"):
        Layout(Template.from_yaml(text), TOKENIZERS["vq"], 0)


def test_a_stream_that_nobody_reads_is_refused():
    three = spec_of(on_grid(VQ.tiny()), SEMANTIC, replace(SEMANTIC, name="depth"))
    with pytest.raises(LayoutError, match="ILLUME\\+ takes 2 streams and does not say which"):
        Layout("illume_plus", three, 0)


@pytest.mark.parametrize(
    ("sequence", "fits"),
    [
        ("[{tokens: image}]", ["2d", "1d", "multiscale", "ragged"]),
        ("[{text: '{N}'}, {tokens: image}]", ["2d", "1d", "multiscale", "ragged"]),
        ("[{tokens: image, after_row: a}]", ["2d", "multiscale"]),
        ("[{text: '{h}*{w}'}, {tokens: image}]", ["2d", "multiscale"]),
        ("[size, {tokens: image}]", ["2d", "multiscale"]),
        ("[{tokens: image, before_scale: a}]", ["multiscale"]),
    ],
)
def test_a_template_that_names_no_topology_takes_what_its_sequence_can_write(sequence, fits):
    choices = "{size: {by: H, tokens: {64: b}}}"
    text = f"{{system: Mine, specials: {{a: a}}, choices: {choices}, streams: {{image: }}, sequence: {sequence}}}"
    by_topology = {"2d": "vq", "1d": "1-d", "multiscale": "multi-scale", "ragged": "ragged"}
    for topology, tokenizer in by_topology.items():
        if topology in fits:
            Layout(Template.from_yaml(text), TOKENIZERS[tokenizer], CHARACTERS)
        else:
            with pytest.raises(LayoutError, match=f"Mine takes tokens of topology .* is {topology}"):
                Layout(Template.from_yaml(text), TOKENIZERS[tokenizer], CHARACTERS)


def test_groups_of_bits_are_bits():
    spec = spec_of(on_grid(MultiScale(GroupedBits(4, 2), (1, 2))))
    assert Layout("infinity", spec).num_stacked == 8
