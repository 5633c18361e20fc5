"""The published layouts by name, and how one is recognised from a file's columns.

To add one: write `rmlab/data/formats/x.py` with a `LAYOUT`, and list it here. A layout is recognised if all of its
columns are there and no other layout that is recognised asks for the same ones and more.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from rmlab.data.formats import (
    alpaca_kwise,
    gsm8k_solutions,
    helpsteer,
    hh_rlhf,
    math_shepherd,
    nectar,
    nemo,
    outcome,
    prm800k,
    prmbench,
    processbench,
    sharegpt,
    stepwise,
    summarize,
    tldr,
    trl,
    ultrafeedback,
)
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.errors import UsageError

__all__ = ["LAYOUTS", "BadRow", "Layout", "Row", "detect", "named"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        trl.LAYOUT,
        hh_rlhf.LAYOUT,
        sharegpt.LAYOUT,
        tldr.LAYOUT,
        summarize.LAYOUT,
        alpaca_kwise.LAYOUT,
        ultrafeedback.LAYOUT,
        nectar.LAYOUT,
        nemo.LAYOUT,
        outcome.LAYOUT,
        gsm8k_solutions.LAYOUT,
        stepwise.LAYOUT,
        stepwise.LAYOUT01,
        prm800k.LAYOUT,
        math_shepherd.LAYOUT,
        prmbench.LAYOUT,
        processbench.LAYOUT,
        helpsteer.LAYOUT,
    )
}


def named(name: str) -> Layout:
    """Returns the layout of that name. Raises `UsageError` naming those that exist."""
    if name not in LAYOUTS:
        near = get_close_matches(name, LAYOUTS, n=1)
        hint = f"data.format={near[0]}" if near else "data.format=auto"
        raise UsageError(
            f"data.format={name} does not exist, expected auto or one of {', '.join(LAYOUTS)}; type {hint}"
        )
    return LAYOUTS[name]


def detect(columns: Iterable[str], where: str = "the data") -> Layout:
    """Returns the layout that the columns show. Raises `UsageError`, starting with `where`, unless just one fits."""
    found = set(columns)
    fits = [layout for layout in LAYOUTS.values() if layout.detected and found.issuperset(layout.columns)]
    best = [a for a in fits if not any(set(a.columns) < set(b.columns) for b in fits)]
    if len(best) == 1:
        return best[0]
    known = "; ".join(f"{layout.name} ({', '.join(layout.columns)})" for layout in best or LAYOUTS.values())
    problem = "fit several layouts" if best else "fit no known layout"
    raise UsageError(
        f"{where}: the columns {', '.join(sorted(found)) or '(none)'} {problem}: {known}; "
        "type data.format=NAME, with +data.columns.COLUMN=YOURS where a column has another name"
    )
