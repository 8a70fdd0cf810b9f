"""Section on data of fewer agents: tables, and pictures of reward against N."""

from __future__ import annotations

import math
from collections.abc import Iterator

from baselines.registry import METHODS
from persim.evaluation.paper import PaperReward
from sweeps.reporting.blocks import Block, Line
from sweeps.reporting.compare import mean, std
from sweeps.reporting.draw import Points, drawn, scarcity_figure
from sweeps.reporting.page import Figure, Section
from sweeps.reporting.results import ENV_TITLES, Results
from sweeps.reporting.tables import table


def scarcity(results: Results) -> list[Section]:
    """Show Tables 14 to 16, with a picture where something is measured."""
    text = (
        "Average reward when only N agents were observed, whose covariates are drawn afresh in every trial. The "
        "paper's numbers for N = 500 are those of Tables 9 to 11."
    )
    sections = [Section("Fewer agents (Tables 14–16)", "scarcity", (text,))]
    for block in results.of("scarcity"):
        figures = (_figure(block),) if any(line.ours for line in block.lines) else ()
        anchor = f"scarcity-{block.env}"
        sections.append(Section(ENV_TITLES[block.env], anchor, tables=(table(block),), figures=figures, level=3))
    return sections


def _figure(block: Block) -> Figure:
    panels = {f"agent {agent + 1}": list(points(block, agent)) for agent in block.agents}
    name = f"scarcity-{block.env}"
    caption = (
        f"{ENV_TITLES[block.env]}, {block.regime} data: average reward against N; solid ours with the standard "
        "deviation over trials, dashed the paper's."
    )
    return Figure(name, drawn(name, lambda: scarcity_figure(panels)), caption)


def points(block: Block, agent: int) -> Iterator[Points]:
    """Give the lines of an agent (id from 0): for every method the paper's, then ours."""
    for method in dict.fromkeys(line.method for line in block.lines):
        lines = [line for line in block.lines if line.method == method]
        title = METHODS[method].title
        reduced = any(line.ours is not None and line.ours.reduced for line in lines)
        for label, place in ((f"{title}, paper", _theirs), (title + (" †" if reduced else ""), _ours)):
            found = [known for line in lines if (known := place(block, line, agent)) is not None]
            if found:
                counts, means, spreads = zip(*found, strict=True)
                yield Points(method, label, place is _theirs, counts, means, spreads)


def _theirs(block: Block, line: Line, agent: int) -> tuple[int, float, float] | None:
    known = line.theirs.get(agent)
    return (line.n_agents, known.mean, known.std) if isinstance(known, PaperReward) else None


def _ours(block: Block, line: Line, agent: int) -> tuple[int, float, float] | None:
    if line.ours is None:
        return None
    values = line.ours.values(block.metric, agent + 1)
    if not len(values) or not math.isfinite(mean(values)):
        return None
    return line.n_agents, mean(values), std(values)
