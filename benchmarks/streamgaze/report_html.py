"""A report as one HTML page: no script, no other file, readable at a phone's width and in the dark."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.streamgaze.plots import accuracy_plot, latency_plot, svg_of
from benchmarks.streamgaze.report import blocks_of
from benchmarks.streamgaze.report_document import Block, Facts, Figure, Heading, Notes, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #66666c; --line: #d8d8dd; --page: #fff; --mark: #a5341f }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --soft: #a0a0a8; --line: #3a3a40; --page: #161618; --mark: #ff9c86 }
}
body { margin: 0 auto; padding: 1rem; max-width: 56rem; background: var(--page); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.3rem; margin: 0 0 .5rem }
.banner { color: var(--mark); font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0 0 1rem }
dt, figcaption, .caption { color: var(--soft) }
dd { margin: 0 }
.table { overflow-x: auto; margin: 0 0 1.25rem }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
.caption { margin: 0 0 .25rem }
th, td { padding: .2rem .35rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
@media (min-width: 40rem) { th, td { padding: .2rem .6rem } }
tr.rule td { border-top: 2px solid var(--line) }
figure { margin: 0 0 1.25rem }
figure svg { width: 100%; max-width: 30rem; height: auto; display: block }
ul { padding-left: 1.2rem }
"""


def html_page(report: Mapping[str, Any], latencies_ms: Mapping[str, np.ndarray]) -> str:
    """The whole page. `latencies_ms`: of `report_outcomes.latency_parts`."""
    heading, facts, accuracies, *rest = blocks_of(report)
    blocks = [heading, facts, Figure("Accuracy", svg_of(accuracy_plot(report))), accuracies]
    for block in rest:
        if isinstance(block, Table) and block.header[0] == "part":
            blocks.append(Figure("Latency by part", svg_of(latency_plot(latencies_ms))))
        blocks.append(block)
    blocks.append(Facts(tuple((name, row["title"]) for name, row in report["tasks"].items())))
    title = html.escape(f"StreamGaze: {report['run']}")
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>"
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        banner = f'\n<p class="banner">{html.escape(block.banner)}</p>' if block.banner else ""
        return f"<h1>{html.escape(block.text)}</h1>{banner}"
    if isinstance(block, Facts):
        rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in block.rows)
        return f"<dl>{rows}</dl>"
    if isinstance(block, Notes):
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in block.lines) + "</ul>"
    if isinstance(block, Figure):
        return f"<figure><figcaption>{html.escape(block.title)}</figcaption>{block.svg}</figure>"
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in block.header)
    body = "".join(
        ('<tr class="rule">' if number in block.rules else "<tr>")
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(block.rows)
    )
    caption = f'<p class="caption">{html.escape(block.title)}</p>\n' if block.title else ""
    return f'{caption}<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
