"""Self-contained web pages: one file with style, pictures and scripts, which fetches nothing."""

import html
from importlib.resources import files

from jaxtyping import UInt8
from torch import Tensor

from limner.data.png import data_uri

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
<main>
{body}
</main>
{script}</html>
"""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a whole page.

    Args:
        title: the title of the window, as text.
        body: the content, as HTML.
        style: CSS in addition to `webpage.css`, which all pages share.
        script: JavaScript; the page must be readable without it.
    """
    base_style = (files("limner.evaluate") / "webpage.css").read_text(encoding="utf-8")
    script = f"<script>\n{script}</script>\n" if script else ""
    return _PAGE.format(title=text(title), style=base_style + style, body=body, script=script)


def text(words: str) -> str:
    """Escape text for HTML, in an element or an attribute."""
    return html.escape(words)


def picture(image: UInt8[Tensor, "c h w"], alt: str) -> str:
    """Return an HTML image with the data in it."""
    return f'<img src="{data_uri(image)}" alt="{text(alt)}">'
