"""The report's HTML: a style sheet and a few pieces; everything is inside the one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --muted: #57606a; --line: #e4e7eb; --blue: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { margin: 0 0 4px; font-size: 2rem; letter-spacing: -0.02em; }
h2 { margin: 0 0 6px; font-size: 1.25rem; letter-spacing: -0.01em; }
p { margin: 0 0 14px; max-width: 92ch; color: var(--muted); }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin-top: 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin-top: 22px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.card b { display: block; font-size: 1.55rem; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: 0.875rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 14px; margin: 14px 0 4px; align-items: start; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
figure.plot img { border-radius: 0; }
figcaption { margin-top: 6px; color: var(--muted); font-size: 0.875rem; }
.samples { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; max-width: 480px; }
.samples img { width: 100%; border-radius: 4px; display: block; image-rendering: pixelated; }
.scale { display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: center; color: var(--muted); font-size: 0.875rem; }
.scale span { white-space: nowrap; }
.scale img { width: 160px; height: 10px; border-radius: 3px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9375rem; }
td { padding: 6px 12px 6px 0; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
tr:first-child td { border-top: 0; }
td:first-child { color: var(--muted); width: 34%; min-width: 120px; }
pre { margin: 0 0 14px; padding: 14px 16px; background: #f6f7f9; border-radius: 8px; overflow-x: auto;
  font: 0.875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.split { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px; align-items: start; }
@media (max-width: 560px) { main { padding: 22px 12px 40px; } section { padding: 16px; } h1 { font-size: 1.6rem; } }
"""


def page(title: str, subtitle: str, body: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n<p>{text(subtitle)}</p>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, intro: str, *parts: str) -> str:
    """A titled box; ``intro`` is plain text."""
    lead = f"<p>{text(intro)}</p>" if intro else ""
    return f"<section>\n<h2>{text(title)}</h2>\n{lead}\n" + "\n".join(parts) + "\n</section>"


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Numbers with what they are below them."""
    return div(
        "cards",
        *(f'<div class="card"><b>{text(value)}</b><span>{text(name)}</span></div>' for name, value in pairs),
    )


def picture(data: bytes, alt: str, caption: str = "", kind: str = "") -> str:
    """An image inside the document, PNG or SVG, with a caption."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}">{image(data, alt)}{below}</figure>'


def image(data: bytes, alt: str) -> str:
    """An image inside the document, without more."""
    mime = "image/png" if data.startswith(b"\x89PNG") else "image/svg+xml"
    return f'<img alt="{text(alt)}" src="data:{mime};base64,{base64.b64encode(data).decode("ascii")}">'


def div(kind: str, *parts: str) -> str:
    """A box of a style class."""
    return f'<div class="{kind}">' + "".join(parts) + "</div>"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    return (
        "<table>"
        + "".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in rows)
        + "</table>"
    )


def code(source: str) -> str:
    """Lines to copy."""
    return f"<pre>{text(source)}</pre>"


def text(plain: str) -> str:
    """Plain text as HTML."""
    return html.escape(plain, quote=True)
