"""What downstream generative models make of a tokenizer: small backbones, trained here and now on its tokens.

from vistok import downstream

result = downstream.run(tokenizer, "photos", "ar", seconds=60)
result.bits_per_image, result.baseline, result.samples
"""

from vistok.downstream.result import Result
from vistok.downstream.run import BACKBONES, backbone_for, run
from vistok.downstream.training import Budget, Point

__all__ = ["BACKBONES", "Budget", "Point", "Result", "backbone_for", "run"]
