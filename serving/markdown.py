"""Markdown that holds what others wrote, as text and nothing more; and such Markdown as a page that reads offline."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")  # controls; reversed text
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\\": "&#92;"}
_MARKS = re.compile(r"([`*_\[\]~$!])")
_BLOCK = re.compile(r"^([#+=:-])|^(\d+)([.)])(?= |$)")  # what would begin a block, at the start of a text


def escape(text: str) -> str:
    """One line of Markdown that reads as `text` in every renderer: no markup, no HTML, no cell of a table, no block."""
    line = " ".join(_UNSEEN.sub(" ", text).split())
    line = "".join(_ENTITIES.get(letter, letter) for letter in line)
    return _BLOCK.sub(
        lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", _MARKS.sub(r"\\\1", line)
    )


def number(value: float) -> str:
    """A number as people read it."""
    if isinstance(value, int) or (math.isfinite(value) and value == round(value) and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _shown(value: object) -> Markup:
    """What a template's expression becomes: templates are trusted, and all that comes into them is not."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup()
    if isinstance(value, float | int) and not isinstance(value, bool):
        return Markup(number(value))  # noqa: S704 (digits)
    return Markup(escape(str(value)))  # noqa: S704 (escaped)


def templates() -> Environment:
    """Templates of Markdown: each expression is escaped, but for what their own macros return."""
    loader = PackageLoader("serving", "templates")
    return Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown, undefined=StrictUndefined
    )


def page(title: str, text: str, figures: Mapping[str, str]) -> str:
    """The Markdown as one HTML file that asks nothing of a network; an image is the SVG in `figures` that it names."""

    def image(_: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
        drawing, told = figures.get(str(tokens[at].attrs["src"])), Markup.escape(tokens[at].content)
        if drawing is None:
            return str(told)
        coded = base64.b64encode(drawing.encode()).decode()  # as an image, no script of an SVG would run
        return f'<img alt="{told}" src="data:image/svg+xml;base64,{coded}">'

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", image)
    body = Markup(markdown.render(text))  # noqa: S704 (HTML in the Markdown is refused)
    environment = Environment(loader=PackageLoader("serving", "templates"), autoescape=True, trim_blocks=True)
    return environment.get_template("card.html.j2").render(title=title, body=body)
