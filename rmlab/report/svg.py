"""A matplotlib figure as SVG for the inside of a page: text as text, the page's colours, ids of its own."""

from __future__ import annotations

import io
import re

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from rmlab.report import plots

VARIABLES = {
    plots.INK: "var(--ink)",
    plots.MUTED: "var(--muted)",
    plots.GRID: "var(--grid)",
    plots.BLUE: "var(--blue)",
    plots.ORANGE: "var(--orange)",
    plots.GREEN: "var(--green)",
}


def inline(figure: Figure, name: str, description: str) -> Markup:
    """Returns the figure as one `<svg>` element whose ids start with `name`; `description` is read out loud."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    body = buffer.getvalue().partition("<svg")[2]  # what stands before it belongs to a file, not to a page
    body = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", body, flags=re.DOTALL)
    head, _, rest = body.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # as wide as the page lets it; viewBox keeps the form
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", f"{head}>{rest}")
    body = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    return Markup(f'<svg role="img" aria-label="{escape(description)}"{body}')
