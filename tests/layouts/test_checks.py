"""What a caller may get wrong: one line each, before anything is done with it."""

import pytest
import torch

from tests.layouts.systems import CHARACTERS, PIXEL, SYSTEMS, Values, continuous, discrete, with_stream
from vistok.errors import LayoutError
from vistok.layouts import Layout, Template
from vistok.layouts.template import Label, Special, StreamRule, Tokens

TWO = with_stream(codebook_size=2)
NAMED = """
system: T
specials: {a: a, b: b}
mask: m
streams: {i: {token: 'c{id}'}}
sequence: [a, {tokens: i}, b]
"""
DUAL = "{system: T, streams: {semantic: {token: 'c{id}'}, pixel: {token: 'c{id}'}}, sequence: [{tokens: semantic}, {tokens: pixel}]}"


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


CHAMELEON = Layout("chameleon", discrete())
LLAMAGEN = Layout("llamagen", discrete())
JANUS = Layout("janus", discrete(), 0)
LAVIT = Layout("lavit", SYSTEMS["lavit"].spec, 0)
ILLUME = Layout("illume_plus", SYSTEMS["illume_plus"].spec, 0)
VAR = Layout("var", SYSTEMS["var"].spec)
BAGEL = Layout("bagel", continuous(), 0)
IDS = CHAMELEON.pack(zeros(1, 4, 1), (2, 2)).ids
HELD = JANUS.pack(zeros(1, 4, 1), (2, 2)).ids


class Ragged(dict):
    def __init__(self, pixel, lengths=()):
        super().__init__(pixel=pixel)
        self.lengths = torch.tensor(lengths, dtype=torch.int64)


def named(vocabulary):
    return Layout(Template.from_yaml(NAMED), TWO, vocabulary)


def headed(text):
    return Layout("emu3", discrete(PIXEL), text=text).length((2, 2))


CASES = [
    # a batch
    (lambda: CHAMELEON.pack(zeros(0, 4, 1), (2, 2)), "there is no image to pack"),
    (lambda: LAVIT.pack(Ragged(pixel=Values(zeros(0, 4, 1), (4,)))), "there is no image to pack"),
    (lambda: CHAMELEON.unpack(zeros(0, 6)), r"there is no image in ids \(0, 6\)"),
    (lambda: ILLUME.pack({"pixel": Values(zeros(2, 32, 1), (8, 4)), "semantic": Values(zeros(1, 8, 1), (4, 2))}), r"have \[2, 1\] images|have \[1, 2\] images"),
    (lambda: LAVIT.pack(Ragged(pixel=Values(zeros(1, 4, 1), (4,)), lengths=[0])), r"grid is \(0,\)"),
    (lambda: LAVIT.pack(Ragged(pixel=Values(zeros(4), (4,)), lengths=[2])), r"is \(B, N, S\)"),
    # tokens
    (lambda: CHAMELEON.pack({3: zeros(1)}), "takes stream 'pixel', given are 3"),
    (lambda: CHAMELEON.pack({"pixel": Values(zeros(1, 4, 1), 4)}), "grid is 4"),
    (lambda: CHAMELEON.pack([[1, 2]], (2, 2)), "takes a tensor, or what encode gave, not a list"),
    (lambda: CHAMELEON.pack(None, (2, 2)), "not a NoneType"),
    (lambda: CHAMELEON.pack(zeros(1, 4, 1).numpy(), (2, 2)), "not a ndarray"),
    (lambda: CHAMELEON.pack({"pixel": [1]}), "stream 'pixel' is a list"),
    (lambda: CHAMELEON.pack(torch.tensor([1])), r"is \(B, N, S\), it is given as \(1,\)"),
    (lambda: CHAMELEON.pack(torch.tensor(1), (2, 2)), r"is \(B, 4, 1\), it is given as \(\)"),
    (lambda: CHAMELEON.pack(zeros(1, 4, 1).bool(), (2, 2)), "takes integer indices, these are torch.bool"),
    (lambda: CHAMELEON.pack(zeros(1, 4, 1).to(torch.complex64), (2, 2)), "takes integer indices"),
    (lambda: BAGEL.pack(zeros(1, 4, 3), (2, 2)), "takes floating latents"),
    # labels
    (lambda: LLAMAGEN.pack(zeros(2, 4, 1), (2, 2), torch.tensor([1, 2, 3])), r"integers \(2,\), one an image, these are torch.int64 \(3,\)"),
    (lambda: LLAMAGEN.pack(zeros(2, 4, 1), (2, 2), torch.tensor([1])), r"integers \(2,\)"),
    (lambda: LLAMAGEN.pack(zeros(2, 4, 1), (2, 2), zeros(2, 1)), r"integers \(2,\)"),
    (lambda: LLAMAGEN.pack(zeros(2, 4, 1), (2, 2), torch.tensor([1.0, 2.0])), "these are torch.float32"),
    (lambda: LLAMAGEN.pack(zeros(2, 4, 1), (2, 2), torch.tensor([True, False])), "these are torch.bool"),
    (lambda: LLAMAGEN.pack(zeros(2, 4, 1), (2, 2), [1, 2]), r"these are \[1, 2\]"),
    (lambda: LLAMAGEN.prompt((2, 2), 3), "these are 3: give a tensor"),
    (lambda: LLAMAGEN.prompt((2, 2), torch.tensor([0.5])), "these are torch.float32"),
    (lambda: LLAMAGEN.prompt((2, 2), torch.tensor(3)), r"these are torch.int64 \(\)"),
    # a vocabulary
    (lambda: Layout("liquid", discrete(), -5), "vocabulary is -5"),
    (lambda: Layout("liquid", discrete(), 5.5), "vocabulary is 5.5"),
    (lambda: Layout("liquid", discrete(), True), "vocabulary is True"),
    (lambda: Layout("liquid", discrete(), ["a"]), r"vocabulary is \['a'\]"),
    (lambda: Layout("liquid", discrete(), {"a": "b"}), "has 'a' at 'b'"),
    (lambda: Layout("liquid", discrete(), {"<boi>": -7}), "has '<boi>' at -7"),
    (lambda: named({"a": 0, "b": 0}), "'a' and 'b' both have the id 0 in the vocabulary of T"),
    (lambda: named({"a": 0, "b": 1, "m": 1}), "'b' and 'mask' both have the id 1"),
    (lambda: named({"a": 0, "b": 1, "c0": 2, "c1": 2}), "two of the codes of stream 'i' have the id 2"),
    (lambda: named({"a": 0, "b": 1, "m": 2, "c0": 2, "c1": 3}), r"have the ids 2 to 3, which meet 'mask' \(2\)"),
    (lambda: named({"a": 0, "b": 1, "word": 1, "c0": 2, "c1": 3}), "'b' and 'word' of the text vocabulary both have the id 1"),
    (lambda: named({"a": 0, "b": 1, "word": 3, "c0": 2, "c1": 3}), "'word' and 'c1' of the text vocabulary both have the id 3"),
    (lambda: Layout(Template.from_yaml(DUAL), SYSTEMS["illume_plus"].spec, {f"c{n}": n for n in range(32)}), "the codes of stream 'pixel' and the codes of stream 'semantic' both have the id 0"),
    # a size or a grid
    (lambda: CHAMELEON.pack(zeros(1, 0, 1), (0, 4)), r"grid is \(0, 4\): give \(h, w\)"),
    (lambda: CHAMELEON.pack(zeros(1, 4, 1), (-2, -2)), r"grid is \(-2, -2\)"),
    (lambda: CHAMELEON.allowed(zeros(1, 0), (-2, 2)), r"grid is \(-2, 2\)"),
    (lambda: CHAMELEON.pack(zeros(1, 4, 1), (2.0, 2.0)), "of integers from 1 on"),
    (lambda: CHAMELEON.length(4), "grid is 4"),
    (lambda: CHAMELEON.length(()), "0 grids are said"),
    (lambda: CHAMELEON.length("ab"), "grid is 'ab'"),
    (lambda: CHAMELEON.length((None, 2)), "grid is"),
    (lambda: CHAMELEON.length(torch.tensor([2, 2])), "grid is"),
    (lambda: CHAMELEON.length(), "needs to know which sizes there can be"),
    (lambda: CHAMELEON.complete(IDS), "needs to know which sizes there can be"),
    (lambda: VAR.length((0, 0)), r"grid is \(0, 0\)"),
    (lambda: LAVIT.length((-1,)), r"grid is \(-1,\)"),
    (lambda: LAVIT.length((100,)), "has at most 9 tokens, the grid says 100"),
    (lambda: ILLUME.length((2, 2)), "has 2 streams, 1 grids are said"),
    (lambda: Layout("chameleon", discrete(), sizes=[(33, 40)]), r"sizes holds \(33, 40\), of which Chameleon takes multiples of 16"),
    (lambda: Layout("chameleon", discrete(), sizes=[(32, 32), (8, 8)]), r"sizes holds \(8, 8\)"),
    (lambda: Layout("bagel", continuous(), 0, sizes=[(24, 24)]), r"BAGEL takes multiples of 16"),
    (lambda: Layout("chameleon", discrete(), sizes=[(-16, 16)]), r"sizes holds \(-16, 16\)"),
    (lambda: Layout("chameleon", discrete(), sizes=(16, 16)), "sizes holds 16"),
    (lambda: Layout("chameleon", discrete(), sizes=16), "sizes is 16"),
    # ids
    (lambda: CHAMELEON.unpack([[1, 2]]), r"integers \(B, L\), these are \[\[1, 2\]\]"),
    (lambda: CHAMELEON.allowed(None, (2, 2)), "these are None"),
    (lambda: CHAMELEON.complete(IDS.float(), (2, 2)), "these are torch.float32"),
    (lambda: CHAMELEON.complete(IDS.bool(), (2, 2)), "these are torch.bool"),
    (lambda: CHAMELEON.unpack(torch.full((1, 6), 1 << 40), grid=(2, 2)), "image 0 holds id 1099511627776 at position 0"),
    (lambda: CHAMELEON.allowed(torch.full((1, 2), 1 << 40), (2, 2)), "image 0 holds id 1099511627776 at position 0"),
    (lambda: CHAMELEON.allowed(torch.cat([IDS] * 2, 1), (2, 2)), "is complete with 6 ids, 12 are given"),
    # what stands beside
    (lambda: JANUS.unpack(HELD, {"image": [1]}), "takes integer indices, these are"),
    (lambda: JANUS.unpack(HELD, zeros(1, 4, 1)), "give values="),
    (lambda: JANUS.unpack(HELD, {"image": zeros(3, 4, 1)}), r"is \(1, 4, 1\), it is given as \(3, 4, 1\)"),
    (lambda: JANUS.unpack(HELD, {"image": zeros(1, 4, 1) + 99}), "image 0 holds index 99 at position 0"),
    (lambda: BAGEL.unpack(zeros(1, 3) + torch.tensor([0, -1, 1]), {"image": torch.zeros(1, 1, 5)}), r"is \(1, 1, 12\)"),
    (lambda: Layout("seed", with_stream(topology="1d", factor=0), sizes=[(32, 32)]).length(), "needs to know which sizes"),
    # the rest
    (lambda: Template.from_yaml(None), "given as a NoneType"),
    (lambda: Layout("liquid", None), "give tokenizer.spec"),
    (lambda: Layout(3, discrete()), "there is no layout '3'"),
    (lambda: headed(3), "text is 3: give a function"),
    (lambda: headed(lambda text: ["a"]), r"gives \['a'\]: it must be a list of ids below 184622"),
    (lambda: headed(lambda text: "ab"), "gives 'ab'"),
    (lambda: headed(lambda text: None), "gives None"),
    (lambda: headed(lambda text: [1 << 40]), "it must be a list of ids below"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "told"), CASES)
def test_a_mistake_is_told_in_one_line(make, told):
    with pytest.raises(LayoutError, match=told) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_header_may_be_a_row_of_a_tensor():
    assert headed(lambda text: torch.tensor([1, 2, 3])) == headed(lambda text: [1, 2, 3])


def test_what_follows_a_whole_image_is_nobodys_affair():
    after = torch.cat([IDS, torch.full((1, 3), 1 << 40)], 1)
    assert CHAMELEON.complete(after, (2, 2)).tolist() == [True]
    assert CHAMELEON.complete(after.flip(1), (2, 2)).tolist() == [False]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("streams: {i: {start: -4}}, sequence: [{tokens: i}]", "is -4, it must be an integer of at least 0"),
        ("streams: {i: {table: [a]}}, sequence: [{tokens: i}]", "is 'a', it must be an integer"),
        ("streams: {i: {split: [-1, 2]}}, sequence: [{tokens: i}]", "one of split is -1"),
        ("streams: {i: {split: bytes}}, sequence: [{tokens: i}]", "split 'bytes'"),
        ("streams: {i: {placeholder: 3}}, sequence: [{tokens: i}]", "placeholder 3: the name of a special"),
        ("specials: {a: {token: a, id: -2}}, streams: {i: }, sequence: [a, {tokens: i}]", "id of a is -2"),
        ("specials: {a: x, b: x}, streams: {i: }, sequence: [a, {tokens: i}, b]", "the token 'x' twice"),
        ("text_vocabulary: -9, streams: {i: }, sequence: [{tokens: i}]", "text_vocabulary is -9"),
        ("streams: {i: }, sequence: [{label: -3}, {tokens: i}]", "label is -3"),
        ("streams: {i: }, sequence: [{label: a}, {tokens: i}]", "label 'a': it must be an integer"),
        ("streams: {i: }, sequence: [{label: 3}, {label: 4}, {tokens: i}]", "has two class labels"),
        ("streams: {i: }, sequence: [{tokens: 3}]", "tokens 3: it must be text"),
        ("streams: {i: }, sequence: [{text: 3}, {tokens: i}]", "text 3: it must be text"),
        ("growth: [3], streams: {i: }, sequence: [{tokens: i}]", r"growth = \[3\]"),
    ],
)
def test_a_template_with_impossible_numbers_is_told_in_one_line(fields, told):
    with pytest.raises(LayoutError, match=told) as raised:
        Template.from_yaml(f"{{system: T, {fields}}}")
    assert "\n" not in str(raised.value)


def test_a_template_built_in_python_is_checked_too():
    rule, item = StreamRule(), Tokens("i")
    with pytest.raises(LayoutError, match="has two class labels"):
        Template("T", (Label(2), Label(3), item), {"i": rule})
    with pytest.raises(LayoutError, match="the token 'x' twice"):
        Template("T", (item,), {"i": rule}, {"a": Special("x")}, mask=Special("x"))


def test_a_vocabulary_in_which_other_texts_share_an_id_is_nobodys_affair():
    words = {"a": 0, "b": 1, "m": 4, "c0": 2, "c1": 3, "word": 9, "Word": 9}
    assert named(words).vocabulary_size == 10
    assert Layout("emu3", discrete(PIXEL), {**CHARACTERS, "Word": 30, "word": 30}).vocabulary_size > 30
