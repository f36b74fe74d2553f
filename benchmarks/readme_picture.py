"""The README's picture and figures, from a finished demo: ``python benchmarks/readme_picture.py runs/demo``."""

import json
import sys
from pathlib import Path

from PIL import Image, ImageChops

demo = Path(sys.argv[1])
names = sorted(json.loads((demo / "summary.json").read_text())["held_out_psnr"])
rows = []
for name in names:
    original, reconstruction = (
        Image.open(demo / "held_out" / f"{name}-{kind}.png").convert("RGB")
        for kind in ("original", "reconstruction")
    )
    # four times the difference, so that it can be seen
    error = ImageChops.difference(original, reconstruction).point(lambda value: min(255, 4 * value))
    pictures = [original, reconstruction, error]
    rows.append([picture.resize((400, 266), Image.Resampling.LANCZOS) for picture in pictures])
sheet = Image.new("RGB", (3 * 408 - 8, len(rows) * 274 - 8), "white")
for y, row in enumerate(rows):
    for x, picture in enumerate(row):
        sheet.paste(picture, (x * 408, y * 274))
target = Path(__file__).parent / "results" / "demo.jpg"
sheet.save(target, quality=88)
print(target)
