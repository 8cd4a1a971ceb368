"""Figures as PNG files, drawn by the same library as the page's, in a Chrome or Chromium of this machine."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any

from igascale.report.figures.frame import WIDE, Figure, merged, plain
from igascale.report.palette import LIGHT, resolve

#: What to say where no image can be drawn; the reason goes in front.
REMEDY = "install one (apt install chromium), or name its program in BROWSER_PATH; everything else was written"
_SCALE = 2
_PATIENCE = 60.0  # seconds for one figure


def draw(figures: Sequence[Figure]) -> tuple[dict[str, bytes], str]:
    """PNG files by the names of the figures, and why there are none (or not all), or "".

    A browser that is missing, refuses to start or hangs costs the images and nothing else.
    """
    if not figures:
        return {}, ""
    try:
        import kaleido  # noqa: F401
    except ImportError:
        return {}, "no PNG files: kaleido is missing; pip install 'igascale[report]'"
    drawn: dict[str, bytes] = {}
    for name in ("kaleido", "choreographer", "logistro"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        asyncio.run(_draw(figures, drawn))
    except Exception as error:  # whatever a browser may do
        kind = type(error).__name__
        if kind == "ChromeNotFoundError":
            return drawn, f"no PNG files: there is no Chrome or Chromium here; {REMEDY}"
        reason = (" ".join(str(error).split()) or kind)[:200]
        return (
            drawn,
            f"{len(figures) - len(drawn)} of {len(figures)} PNG files are missing: the browser failed ({reason}); {REMEDY}",
        )
    return drawn, ""


async def _draw(figures: Sequence[Figure], drawn: dict[str, bytes]) -> None:
    from kaleido import Kaleido

    # Without its sandbox, as root and in containers Chrome starts with no other; the pages are our own. MathJax would come from a network.
    async with Kaleido(n=1, timeout=_PATIENCE, mathjax=False, enable_sandbox=False) as browser:
        for figure in figures:
            spec = described(figure)
            options: Any = {
                "format": "png",
                "width": spec["layout"]["width"],
                "height": spec["layout"]["height"],
                "scale": _SCALE,
            }
            drawn[figure.name] = bytes(await browser.calc_fig(spec, options))


def described(figure: Figure) -> dict[str, Any]:
    """The figure as it stands alone: in light colours, with title, legend and, where there is a slider, its last frame."""
    data = [dict(trace) for trace in figure.data]
    seen: set[str] = set()
    for trace in data:
        group = trace.get("legendgroup")
        if group is not None and trace.get("showlegend") is not False:
            trace["showlegend"] = group not in seen
            seen.add(group)
    title = plain(figure.title) + (f", {figure.frames.labels[-1]}" if figure.frames else "")
    legend = len(seen) > 1
    rows = math.ceil(sum(44 + 7.2 * len(name) for name in seen) / (WIDE - 40)) if legend else 0
    more = 34 + 21 * rows + 4 * bool(rows)
    height = figure.layout["height"] + more
    extra = {
        "width": WIDE,
        "height": height,
        "margin": {"t": figure.layout["margin"]["t"] + more},
        "title": {
            "text": f"<b>{title}</b>",
            "font": {"size": 16},
            "x": 14 / WIDE,
            "xanchor": "left",
            "y": 1 - 14 / height,
            "yanchor": "top",
        },
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "xref": "container",
            "yref": "container",
            "x": 12 / WIDE,
            "xanchor": "left",
            "y": 1 - 40 / height,
            "yanchor": "top",
            "traceorder": "normal",
            "bgcolor": "@card/0",
        },
    }
    described: dict[str, Any] = resolve({"data": data, "layout": merged(figure.layout, extra)}, LIGHT)
    return described
