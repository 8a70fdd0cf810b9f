"""On which machines the cells were computed, as people read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from persim.storage import store
from persim.storage.cells import FinishedCell
from persim.storage.machine import UNKNOWN


def computed_on(cells: Sequence[FinishedCell]) -> str:
    """Name every kind of machine and how many cells it computed, the most common first."""
    known = {store.canonical_json(done.machine): done.machine for done in cells}
    counts = Counter(store.canonical_json(done.machine) for done in cells if done.machine)
    kinds = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{_described(known[text])} (cells: {count})" for text, count in kinds]
    if lacking := sum(not done.machine for done in cells):
        parts.append(f"not recorded, as an earlier version computed them (cells: {lacking})")
    return f"Computed on: {'; '.join(parts)}."


def _described(machine: Mapping[str, str]) -> str:
    def of(name: str) -> str:
        return machine.get(name, UNKNOWN)

    device = "" if of("device") == "cpu" else f", device {of('device')}"
    return (
        f"{of('cpu')}{device}, with {of('instructions')}, numpy {of('numpy')} ({of('blas_numpy')}), "
        f"torch {of('torch')} ({of('blas_torch')}, {of('kernels_torch')} kernels), python {of('python')}, "
        f"gymnasium {of('gymnasium')}, mujoco {of('mujoco')}, persim {of('persim')}"
    )
