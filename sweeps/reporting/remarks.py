"""What has to be said below a table of the paper: budgets, how each method acted, and what the numbers do not tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from baselines.registry import METHODS
from persim.envs.registry import recorded
from sweeps.reporting.compare import number
from sweeps.reporting.results import REWARD, Block, Line
from sweeps.reporting.select import DAGGER, Measured

OURS = "persim"
_EQUAL = 0.01  # share of PerSim's reward that another method may lack and still earns as much


def remarks(block: Block) -> tuple[str, ...]:
    """Collect the lines that stand below the table of a block."""
    measured = [(line, line.ours) for line in block.lines if line.ours is not None]
    found = [*_budgets(measured)]
    if block.metric == REWARD:
        found += [*_acting(measured), *_as_good(block), *_ceiling(block), *_selection(measured)]
    return tuple(found)


def _budgets(measured: Sequence[tuple[Line, Measured]]) -> Iterator[str]:
    """Say what differs from the paper's budget, and what else was measured."""
    nothing = "nothing that these numbers depend on differs"
    reduced = [f"{line.name}: {m.budget}, {', '.join(m.changes) or nothing}" for line, m in measured if m.reduced]
    hidden = [f"{line.name}: {'; '.join(m.others)}" for line, m in measured if m.others]
    if reduced:
        yield f"{DAGGER} Not the paper's budget (in parentheses the preset paper's). {'; '.join(reduced)}."
    if hidden:
        yield f"Also measured, not shown. {'; '.join(hidden)}."


def _acting(measured: Sequence[tuple[Line, Measured]]) -> Iterator[str]:
    """Say how each method found its actions and in how many episodes, since lines of unequal work stand together."""
    alike: dict[str, list[str]] = {}
    for line, found in measured:
        cell = found.cells[0].cell
        how = f"{found.planning or 'by its policy'}, episodes of an agent: {cell.measure['episodes']}"
        alike.setdefault(how, []).append(METHODS[line.method].label)
    if alike:
        told = (f"{', '.join(dict.fromkeys(names))}: {how}" for how, names in alike.items())
        yield f"How each acts (what is added to the reward is its shaping). {'; '.join(told)}."


def _as_good(block: Block) -> Iterator[str]:
    """Name the other methods that earn as much as PerSim, and for which agents."""
    lines = {line.n_agents: line for line in block.lines if line.method == OURS}
    found = []
    for line in block.lines:
        ours = lines.get(line.n_agents)
        if ours is None or line.method.startswith(OURS) or not METHODS[line.method].learns:
            continue
        both = [(a, line.mean(REWARD, a), ours.mean(REWARD, a)) for a in block.agents]
        equal = [agent for agent, theirs, own in both if theirs >= own - _EQUAL * abs(own)]  # False with NaN
        if equal:
            found.append(f"{line.name} ({_agents(equal, block)})")
    if found:
        yield f"As much as PerSim, to {100 * _EQUAL:g} %, or more: {'; '.join(found)}."


def _ceiling(block: Block) -> Iterator[str]:
    """Name the lines that earn the most that an episode can pay, where no method can be told from another."""
    spec = recorded(block.env)
    most = spec.horizon * spec.planning.best_reward
    if not math.isfinite(most) or most <= 0:
        return
    found = []
    for line in block.lines:
        full = [agent for agent in block.agents if round(line.mean(REWARD, agent), 1) >= most]
        if full:
            found.append(f"{line.name} ({_agents(full, block)})")
    if found:
        yield f"At the ceiling of {number(most, 0)}, where nothing is told apart any more: {'; '.join(found)}."


def _selection(measured: Sequence[tuple[Line, Measured]]) -> Iterator[str]:
    """Say which lines choose among their policies by the simulator (``Augmented``)."""
    names = [line.name for line, found in measured if found.cells[0].cell.settings.get("select")]
    if names:
        yield (
            f"{', '.join(names)}: of ten policies on the way the one is kept that earns most in the simulator, and the "
            "synthetic episodes start from states far from each other. Both are ours, not the paper's; the other lines "
            "keep their last policy, so the difference is not of the synthetic trajectories alone."
        )


def _agents(chosen: Sequence[int], block: Block) -> str:
    if len(chosen) == len(block.agents):
        return "all agents"
    return f"agent{'s' if len(chosen) > 1 else ''} {', '.join(str(agent + 1) for agent in chosen)}"
