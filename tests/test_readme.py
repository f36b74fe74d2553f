"""What the README says works as written, on every kind of tokenizer."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from vistok import shards
from vistok.backbones import ConvDecoder, ConvEncoder, Linear
from vistok.data import Photos, Tiles
from vistok.quantizers import FSQ, VQ, Gaussian
from vistok.tokenizer import Tokenizer

README = Path(__file__).parent.parent / "README.md"
# what a short training changes in recipes/semantic_vq.yaml; everything else stays as published there
SHORT = """
trainer: {max_steps: 200, accelerator: cpu, precision: 32-true, val_check_interval: 200, log_every_n_steps: 10}
data: {val: null, size: 64, batch_size: 16, workers: 0, scale: [0.1, 0.4]}
by_class:
  VQ: {codebook_size: 512, revive_after: 20}
  FeatureDecoder: {width: 128, depth: 1}
  ConvDecoder: {channels: 16, num_res_blocks: 1, attention_at: []}
  LossTerms: {perceptual: null, weights: {l1: 1.0, semantic: 1.0, commitment: 0.25, perceptual: 0}}
model: {optimizer: {lr: 3.0e-3, warmup_steps: 10, cosine_steps: 200}, ema_decay: 0.0}
"""


def conv_tokenizer(quantizer):
    return Tokenizer(
        ConvEncoder(16, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4),
        quantizer,
        ConvDecoder(16, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4),
        project_in=Linear(16, quantizer.dim_in),
        project_out=Linear(quantizer.dim, 16),
    ).eval()


@pytest.fixture(scope="session")
def semantic_tokenizer(tmp_path_factory):
    from vistok.training import fit

    room = tmp_path_factory.mktemp("semantic")
    (room / "short.yaml").write_text(SHORT)
    module, _ = fit(
        ["semantic_vq", str(room / "short.yaml")], ["--trainer.default_root_dir", str(room / "run")]
    )
    return module.exported.eval()


@pytest.fixture(params=["vq", "fsq", "semantic", "continuous"])
def tokenizer(request):
    if request.param == "semantic":
        return request.getfixturevalue("semantic_tokenizer")
    made = {"vq": lambda: VQ(64, 8), "fsq": lambda: FSQ((8, 5, 5)), "continuous": lambda: Gaussian(4)}
    return conv_tokenizer(made[request.param]())


def test_the_python_of_the_readme_runs_as_written_on_all_four_kinds(tokenizer, tmp_path, monkeypatch, capsys):
    # lanes of `encode` run on one thread each: the last bits of latents are those of one thread
    torch.set_num_threads(1)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.M | re.S)
    assert len(blocks) >= 1
    monkeypatch.chdir(tmp_path)
    tokenizer.save("runs/demo/tokenizer")
    shards.encode(tokenizer, Tiles(Photos("held_out"), 128), "runs/demo/shards", batch_size=1, progress=False)
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})
    assert tokenizer.spec.kind in capsys.readouterr().out
    # decoding a shard is decoding the direct path, bit for bit, for batches of the same images
    with torch.no_grad():
        for item in list(shards.open("runs/demo/shards", tokenizer))[:2]:
            batch = shards.collate([item])
            x = Tiles(Photos("held_out"), 128).pil(item["key"])
            direct = tokenizer.decode(tokenizer.encode(tokenizer.preprocess(x)))
            assert torch.equal(tokenizer.decode(shards.to_encoded(batch)), direct)


def test_semantic_features_of_a_held_out_photo_agree_with_the_teacher(semantic_tokenizer):
    x = semantic_tokenizer.preprocess(Photos("held_out").pil("coffee"))
    with torch.no_grad():
        teacher = semantic_tokenizer.encoder(x).flatten(1, 2)
        cosine = F.cosine_similarity(semantic_tokenizer.semantic(x), teacher, dim=-1).mean()
    assert cosine >= 0.7, f"cosine {cosine:.3f}"


def test_the_first_two_bash_blocks_are_one_command_each():
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(), flags=re.M | re.S)
    assert blocks[0].strip() == "pip install -e '.[demo]' && vistok demo"
    assert blocks[1].strip() == "pip install -e '.[test]' && pytest"


def test_every_recipe_stands_in_the_readme():
    from vistok.recipes import recipe_folder, recipe_names

    text = README.read_text()
    for name in recipe_names():
        assert f"`{name}`" in text or f"recipes/{name}.yaml" in text, name
        assert isinstance(yaml.safe_load((recipe_folder() / f"{name}.yaml").read_text()), dict)
