"""One page of pictures about a run, and what it found as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vistok.downstream.result import MEANING, Result
from vistok.report import page
from vistok.report.plots import BLUE, GREEN, MUTED, RED, Plot, svg
from vistok.report.writing import write_bytes, write_text
from vistok.tokenizer.preprocess import to_pil

_LINES = ((RED, "--"), (MUTED, ":"))


def write_report(result: Result, out: Path) -> Path:
    """Writes ``report.html``, ``result.json`` and ``samples/NN.png`` into a directory; gives the page.

    Raises:
        VistokError: it cannot be written.
    """
    write_text(out / "result.json", result.to_json() + "\n")
    for number, data in enumerate(_pngs(result.samples)):
        write_bytes(out / "samples" / f"{number:02d}.png", data)
    body = [page.cards(_headline(result)), _pictures(result), _curve(result), _numbers(result)]
    title = f"{result.tokenizer} with {result.backbone}"
    subtitle = (
        "What a small generative model makes of this tokenizer: it was trained on the tokens for "
        f"{result.seconds:.0f} seconds and judged on images that it has nothing of."
    )
    write_text(out / "report.html", page.page(title, subtitle, body))
    return out / "report.html"


def loss_figure(result: Result) -> bytes:
    """Training and held-out loss over steps, with the lines to fall below; SVG."""
    steps = [point.step for point in result.points]
    with Plot(7.5, 4.2) as (figure, axis):
        axis.plot(steps, [p.train for p in result.points], color=BLUE, marker="o", ms=3.5, label="training")
        axis.plot(
            steps, [p.held_out for p in result.points], color=GREEN, marker="o", ms=3.5, label="held out"
        )
        for (name, value), (colour, dashes) in zip(result.baselines.items(), _LINES, strict=False):
            axis.axhline(
                value, color=colour, lw=1.5, ls=dashes, label=f"{MEANING[name]}, held out: {value:.4g}"
            )
        axis.set(xlabel="step", ylabel=f"{'at most, ' if result.is_bound else ''}{result.unit}")
        axis.legend(fontsize=8)
        return svg(figure)


def _headline(result: Result) -> list[tuple[str, str]]:
    bound = "≤ " if result.is_bound else ""
    if result.bits_per_image is None:
        (name, baseline), *others = result.baselines.items()
        cards = [(f"flow loss, held out ({MEANING[name]}: {baseline:.2f})", f"{result.loss:.3f}")]
        cards += [(f"flow loss of {MEANING[other]}", f"{value:.3f}") for other, value in others]
        cards += [(name.replace("_", " "), f"{value:.2f}") for name, value in result.details.items()]
    else:
        cards = [
            (f"bits per image, held out (unigram {result.baseline:.0f})", f"{bound}{result.loss:.0f}"),
            (
                f"bits per token (unigram {result.unigram_bits_per_token:.2f})",
                f"{bound}{result.bits_per_token:.2f}",
            ),
            ("bits per pixel", f"{bound}{result.bits_per_pixel:.3f}"),
        ]
    return [*cards, ("tokens per image", str(result.num_tokens))]


def _pictures(result: Result) -> str:
    if result.samples is None or result.real is None:
        return page.section(
            "Samples", "This tokenizer gives features, not pictures: there is nothing to look at."
        )
    captions = result.captions or [""] * len(result.samples)
    drawn = _grid(result.samples, captions, "sample")
    real = _grid(result.real, [""] * len(result.real), "held-out image")
    intro = (
        "What the model drew, decoded, beside held-out images that were decoded from their tokens: the best that a model of "
        "these tokens could do."
    )
    return page.section(
        "Samples",
        intro,
        page.div(
            "split",
            f"<figure>{drawn}<figcaption>samples</figcaption></figure>",
            f"<figure>{real}<figcaption>reconstructions of held-out images</figcaption></figure>",
        ),
    )


def _grid(pictures: Tensor, captions: Sequence[str], name: str) -> str:
    return page.div(
        "samples",
        *(
            page.picture(data, f"{name} {number}", caption)
            for number, (data, caption) in enumerate(zip(_pngs(pictures), captions, strict=True))
        ),
    )


def _curve(result: Result) -> str:
    if result.unit == "bits/image":
        intro = (
            "The unigram line is what the held-out tokens cost under the training tokens' frequencies: below it, the model "
            "has learned how tokens follow from each other. Fewer bits are no better by themselves: a tokenizer that "
            "throws more away has less to say, so compare at equal quality of reconstruction."
        )
        if result.is_bound:
            intro += " The cost of this backbone is an upper bound, averaged over random orders."
    else:
        intro = (
            "Continuous latents have no bits per image. The loss is the squared error of the velocity between noise and "
            "latents of unit deviation. Whoever takes all values for independent and normal has 1.57, on latents with "
            "the training set's statistics: below it, the model has learned how values follow from each other. Whoever "
            "predicts the mean has 2."
        )
    return page.section("Loss", intro, page.picture(loss_figure(result), "loss over steps", kind="plot"))


def _numbers(result: Result) -> str:
    return page.section(
        "Numbers",
        "",
        page.table([*result.rows(), ("weights of the tokenizer", f"sha256 {result.weights_hash[:16]}")]),
    )


def _pngs(pictures: Tensor | None) -> list[bytes]:
    import io

    files = []
    for picture in [] if pictures is None else pictures:
        buffer = io.BytesIO()
        to_pil(picture).save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return files
