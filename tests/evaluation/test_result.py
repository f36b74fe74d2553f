import json
import math

from vistok.evaluation import Evaluation, Metric

RESULT = Evaluation(
    tokenizer="toy",
    weights_hash="0123456789abcdef",
    num_images=2,
    metrics={
        "psnr": Metric(20.5, "psnr/v1:whole"),
        "fd_efflite0": Metric(3.0, "fd/v1", "unreliable: n < 2 x 1280 dims"),
    },
    per_image={"psnr": [20.0, math.inf]},
    keys=["a", "b"],
    left_out={"ssim": "images smaller than its window"},
)


def test_a_value_is_read_by_its_name():
    assert RESULT["psnr"] == 20.5


def test_json_is_strict_and_holds_everything():
    data = json.loads(RESULT.to_json(), parse_constant=lambda name: 1 / 0)
    assert data["metrics"]["psnr"] == {"value": 20.5, "protocol": "psnr/v1:whole", "note": ""}
    assert data["per_image"]["psnr"] == [20.0, None]
    assert data["weights_hash"] == "0123456789abcdef"


def test_records_are_what_a_spec_keeps():
    assert RESULT.records()[0] == {"name": "psnr", "value": 20.5, "protocol": "psnr/v1:whole", "note": ""}


def test_the_table_is_aligned_and_marks_what_is_unreliable_or_missing():
    head, *lines = RESULT.table().splitlines()
    assert head == "toy (0123456789ab), 2 images"
    assert [line.split()[0] for line in lines] == ["metric", "psnr", "fd_efflite0", "ssim"]
    assert (
        len(
            {
                line.index(word)
                for line, word in zip(lines, ("protocol", "psnr/v1", "fd/v1", "left out"), strict=True)
            }
        )
        == 1
    )
    assert lines[2].endswith("(unreliable: n < 2 x 1280 dims)")
