"""A system more costs a recipe and a layout, and nothing else: here both are strings."""

import torch

from vistok import load, shards
from vistok.data import Procedural
from vistok.layouts import Layout, Template
from vistok.training import fit

RECIPE = """
# Paper:    nobody's
trainer: {max_steps: 3, default_root_dir: runs/new}
data: {train: "photos:train", size: 64, batch_size: 16}
model:
  tokenizer:
    class_path: vistok.Tokenizer
    init_args:
      name: new
      encoder: {class_path: vistok.backbones.ConvEncoder, init_args: {dim: 12, channels: 64, multipliers: [1, 2], patch: 4}}
      quantizer:
        class_path: vistok.quantizers.Product
        init_args: {num_groups: 2, part: {class_path: vistok.quantizers.FSQ, init_args: {levels: [8, 6, 5, 5, 5, 5]}}}
      decoder: {class_path: vistok.backbones.ConvDecoder, init_args: {dim: 12, channels: 64, multipliers: [1, 2], patch: 4}}
  losses: {class_path: vistok.losses.LossTerms, init_args: {weights: {l1: 1.0}}}
"""
LAYOUT = """
system: New
specials: {first: <image>, last: </image>, line: <line>}
streams:
  image: {groups: interleaved, own_ranges: true}
sequence: [first, {tokens: image, between_rows: line}, last]
"""


def test_a_recipe_and_a_layout_from_strings_are_a_system(tmp_path):
    recipe = tmp_path / "new.yaml"
    recipe.write_text(RECIPE)
    fit(
        [str(recipe), "tiny"],
        ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "3"],
    )
    tokenizer = load(tmp_path / "run" / "tokenizer")
    shards.encode(tokenizer, Procedural(2, 64), tmp_path / "shards", progress=False)
    encoded = shards.to_encoded(shards.collate(list(shards.open(tmp_path / "shards", tokenizer))))
    layout = Layout(Template.from_yaml(LAYOUT), tokenizer.spec, 32000)
    packed = layout.pack(encoded)
    again = layout.unpack(packed.ids)
    assert torch.equal(again.values, encoded.tokens)
    assert tokenizer.decode(indices=again.values, grid=encoded.grid).shape == (2, 3, 64, 64)
