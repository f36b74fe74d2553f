import json
import math

import pytest
import torch

from vistok.backbones import ConvDecoder, ConvEncoder, FeatureDecoder
from vistok.errors import DataError, RecipeError
from vistok.evaluation import evaluate, psnr, round_to_uint8, ssim
from vistok.evaluation.evaluate import same_size_batches
from vistok.quantizers import FSQ, Gaussian
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer


class Crops:
    """Cuts of real photographs, of the given sizes."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        from skimage.data import astronaut, coffee

        photos = [
            torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 127.5 - 1 for p in (astronaut(), coffee())
        ]
        self.images = [
            photos[i % 2][:, 90 + 8 * i : 90 + 8 * i + h, 120 : 120 + w] for i, (h, w) in enumerate(sizes)
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "key": f"crop{index}"}


def conv_tokenizer(quantizer) -> Tokenizer:
    torch.manual_seed(0)
    encoder = ConvEncoder(dim=quantizer.dim_in, channels=8, multipliers=(1, 2), num_res_blocks=1)
    decoder = ConvDecoder(dim=quantizer.dim, channels=8, multipliers=(1, 2), num_res_blocks=1)
    return Tokenizer(encoder, quantizer, decoder, name="tiny").eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return conv_tokenizer(FSQ((5, 5, 4)))


SIZES = ((64, 64), (32, 64), (64, 64), (64, 64), (48, 40))


@pytest.fixture(scope="module")
def result(tokenizer):
    return evaluate(tokenizer, Crops(*SIZES), batch_size=2, progress=False)


def test_every_metric_comes_with_its_protocol(result):
    assert set(result.metrics) == {
        "psnr", "ssim", "perceptual_efflite0", "bits_per_pixel", "fd_efflite0", "kd_efflite0", "usage", "perplexity", "dead_codes",
    }  # fmt: skip
    version = torch.__version__.split("+")[0]
    assert result.metrics["psnr"].protocol == f"psnr/v1:whole:native:uint8:range1:cap100:n=5:torch-{version}"
    assert (
        result.metrics["usage"].protocol
        == f"usage/v1:whole:native:K=100:S=1:tokens={sum(h * w // 4 for h, w in SIZES)}:n=5"
    )
    assert (
        result.metrics["fd_efflite0"].protocol
        == f"fd_efflite0/v1:whole:native:uint8:tile64:n=3:torch-{version}"
    )
    assert result.metrics["fd_efflite0"].note == "unreliable: n < 2 x 1280 dims"
    assert result.left_out == {}
    json.loads(result.to_json())


def test_values_are_means_over_images_in_the_order_of_the_dataset(tokenizer, result):
    assert result.keys == [f"crop{i}" for i in range(5)]
    for index, item in enumerate(Crops(*SIZES)[i] for i in range(5)):
        image = item["image"][None]
        with torch.no_grad():
            reconstruction = round_to_uint8(tokenizer.decode(tokenizer.encode(image)))
        assert result.per_image["psnr"][index] == pytest.approx(psnr(image, reconstruction).item(), abs=0.01)
        assert result.per_image["ssim"][index] == pytest.approx(ssim(image, reconstruction).item(), abs=1e-3)
    assert result["psnr"] == pytest.approx(sum(result.per_image["psnr"]) / 5)


def test_the_batch_size_does_not_matter(tokenizer, result):
    other = evaluate(tokenizer, Crops(*SIZES), batch_size=3, distribution=False, progress=False)
    for name in ("psnr", "ssim", "perceptual_efflite0"):
        assert other[name] == pytest.approx(result[name], rel=1e-3)
    for name in ("usage", "perplexity", "dead_codes", "bits_per_pixel"):
        assert other[name] == pytest.approx(result[name])


def test_bits_per_pixel_count_ideal_bits_of_indices(result):
    assert result["bits_per_pixel"] == pytest.approx(math.log2(100) / 4)


def test_bits_per_pixel_of_a_continuous_tokenizer_are_those_of_its_latents():
    continuous = conv_tokenizer(Gaussian(dim=4))
    result = evaluate(continuous, Crops((32, 32)), perceptual=None, distribution=False, progress=False)
    assert result["bits_per_pixel"] == 4 * 32 / 4
    assert set(result.metrics) == {"psnr", "ssim", "bits_per_pixel"}


def test_a_tokenizer_without_pixels_has_the_metrics_of_its_tokens():
    torch.manual_seed(0)
    encoder = ConvEncoder(dim=2, channels=8, multipliers=(1, 2), num_res_blocks=1)
    head = FeatureDecoder(dim=2, dim_out=5, width=16, depth=1, num_heads=1)
    semantic = Tokenizer(encoder, FSQ((4, 4)), feature_head=head)
    result = evaluate(semantic, Crops((32, 32)), progress=False)
    assert set(result.metrics) == {"bits_per_pixel", "usage", "perplexity", "dead_codes"}
    assert result.left_out == {"psnr": "the tokenizer does not decode to pixels"}


def test_a_size_cuts_the_centre_and_is_part_of_the_protocol(tokenizer):
    dataset = Crops((64, 64), (48, 40))
    dataset.policy = ImagePolicy(size=(64, 64))
    result = evaluate(tokenizer, dataset, size=32, perceptual=None, progress=False)
    assert ":crop64x64-center32:bicubic:" in result.metrics["psnr"].protocol
    assert set(result.left_out) == {"fd_efflite0", "kd_efflite0"}
    image = dataset.images[1][None, :, 8:40, 4:36]
    with torch.no_grad():
        expected = psnr(image, round_to_uint8(tokenizer.decode(tokenizer.encode(image)))).item()
    assert result.per_image["psnr"][1] == pytest.approx(expected, abs=0.01)
    with pytest.raises(DataError, match="'crop1' has 48 x 40 pixels, fewer than size=64"):
        evaluate(tokenizer, dataset, size=64, perceptual=None, distribution=False, progress=False)


def test_the_cut_to_multiples_is_part_of_the_protocol(tokenizer):
    dataset = Crops((16, 16))
    dataset.multiple_of = 8
    result = evaluate(tokenizer, dataset, perceptual=None, distribution=False, progress=False)
    assert result.metrics["psnr"].protocol.startswith("psnr/v1:whole-multiple8:native:")


def test_ssim_is_left_out_if_some_image_is_too_small_for_it(tokenizer):
    result = evaluate(
        tokenizer, Crops((32, 32), (8, 32)), perceptual=None, distribution=False, progress=False
    )
    assert "ssim" not in result.metrics
    assert "window" in result.left_out["ssim"]


def test_few_tokens_are_noted_beside_the_usage(tokenizer):
    result = evaluate(tokenizer, Crops((8, 16)), perceptual=None, distribution=False, progress=False)
    assert result.metrics["usage"].note == "32 tokens can use 32.0% at most"


def test_nothing_is_trained_or_left_in_another_mode(tokenizer):
    tokenizer.train()
    evaluate(tokenizer, Crops((16, 16)), perceptual=None, distribution=False, progress=False)
    assert tokenizer.training
    assert all(p.grad is None for p in tokenizer.parameters())
    tokenizer.eval()


def test_batches_hold_one_size_and_every_image_once():
    dataset = Crops(*[(16 + 4 * (i % 7), 16) for i in range(30)])
    batches = list(same_size_batches(dataset, batch_size=3))
    assert sorted(position for _, positions, _ in batches for position in positions) == list(range(30))
    assert all(len(images) <= 3 for images, _, _ in batches)
    for images, positions, _ in batches:
        assert all(image.equal(dataset.images[p]) for image, p in zip(images, positions, strict=True))


def test_an_empty_dataset_and_a_senseless_batch_size_are_refused(tokenizer):
    with pytest.raises(DataError, match="no images"):
        evaluate(tokenizer, Crops(), perceptual=None, distribution=False, progress=False)
    with pytest.raises(RecipeError, match="batch_size is 0"):
        evaluate(tokenizer, Crops((16, 16)), batch_size=0)
