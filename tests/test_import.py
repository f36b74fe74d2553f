import json
import subprocess
import sys

import pytest

import vistok


def loaded_by(statement):
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_vistok_loads_nothing_heavy():
    heavy = {
        "torch",
        "lightning",
        "timm",
        "wandb",
        "webdataset",
        "matplotlib",
        "torchvision",
        "triton",
        "skimage",
        "lpips",
    }
    assert not heavy & loaded_by("import vistok")


def test_loading_a_tokenizer_needs_torch_but_no_training_stack():
    heavy = {
        "lightning",
        "timm",
        "wandb",
        "webdataset",
        "matplotlib",
        "triton",
        "skimage",
        "lpips",
        "vector_quantize_pytorch",
    }
    modules = loaded_by("import vistok; vistok.load; vistok.Tokenizer; vistok.Encoded")
    assert "torch" in modules and not heavy & modules


def test_every_exported_name_exists_and_unknown_ones_do_not():
    for name in vistok.__all__:
        assert getattr(vistok, name) is not None
    assert set(vistok.__all__) <= set(dir(vistok))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = vistok.nonsense
