"""PerSim for agents that were never observed, of whom only the covariates are known (Appendix F.5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.unseen import FactorMap, MapSettings, check_share, fit_map, unseen_model
from persim.methods.persim import ModelSimulator, PerSim, make_simulator
from persim.methods.protocol import Method, Part, Weights

_CURVE_POINTS = 50
_MODEL, _MAP = "model/", "map/"
_MAP_STEP_SECONDS = 1e-3  # of one core, for all members together


class UnseenAgents(Method):
    """One part: the maps from covariates to the agent factors of PerSim's members.

    Its weights hold PerSim's, too, so that a file of them is all that a simulator needs.

    Args:
        base: the simulator whose agent factors are mapped.
        p: share of the training agents whose covariates are used.
        settings: of the maps.

    Raises:
        InputError: ``p`` is not in (0, 1].
    """

    parts, predicts, plans, joint = 1, True, True, True
    base: PerSim

    def __init__(self, base: PerSim, p: float, settings: MapSettings | None = None) -> None:
        self.base, self.p, self.settings = base, check_share(p), settings or MapSettings()
        self.name = f"persim-p{100 * p:g}"

    def about(self) -> dict[str, Any]:
        """All settings, those of PerSim where PerSim has them."""
        return {**self.base.about(), "map": asdict(self.settings), "p": self.p}

    def learns_with(self) -> dict[str, Any]:
        """All settings but how it plans."""
        return self.predicts_with()

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate the fit of the maps; PerSim's training is that of the base."""
        return self.settings.steps * _MAP_STEP_SECONDS

    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate the planning of an episode."""
        return self.base.episode_seconds(spec)

    def fit_part(self, part: Part) -> Weights:
        """Fit the maps to PerSim's factors.

        Raises:
            InputError: the data have no covariates, or fewer than two agents remain.
        """
        assert part.base is not None
        started = time.perf_counter()
        shape = part.base.settings["model"]
        model = LowRankDynamics.from_arrays(part.base.arrays, ModelSettings(**shape))
        factor_map, losses = fit_map(model, part.spec, part.data, self.p, part.seed, self.settings)
        arrays = {f"{_MODEL}{name}": value for name, value in part.base.arrays.items()}
        arrays |= {f"{_MAP}{name}": value for name, value in factor_map.arrays().items()}
        every = max(1, len(losses) // _CURVE_POINTS)
        curve = [[step, losses[step - 1]] for step in range(every, len(losses) + 1, every)]
        about = {"curves": {"map_mse": curve}, "seconds": time.perf_counter() - started}
        return Weights(arrays, {"base": shape, "about": about})

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """Give the only part."""
        return parts[0]

    def restore(
        self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu"
    ) -> ModelSimulator:
        """Make a simulator of agents with these covariates ``[M, C]``, whether they are in the data or not.

        Raises:
            InputError: the covariates are unknown.
        """
        if covariates is None:
            raise InputError("an agent that was never observed is placed by its covariates; give them")

        def below(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): x for name, x in weights.arrays.items() if name.startswith(prefix)}

        model = LowRankDynamics.from_arrays(below(_MODEL), ModelSettings(**weights.settings["base"])).to(device)
        factor_map = FactorMap.from_arrays(below(_MAP), self.settings.widths)
        return make_simulator(unseen_model(model, factor_map, covariates), spec, self.base.settings.planning)
