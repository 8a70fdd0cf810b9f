"""BCQ and CQL as methods: one policy for all agents (-P), or one for each test agent (-A)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from baselines.settings import OfflineSettings
from persim import seeding, store
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.methods import Fitted, Method, Report, Weights
from persim.training import KIND as CHECKPOINT
from persim.training import DivergenceError

if TYPE_CHECKING:  # d3rlpy takes seconds to import: only those who train or act wait for it
    from baselines.learner import Learner, Transitions

_logger = logging.getLogger(__name__)
_CHUNKS = 100  # points of a curve
_CHECKPOINT_SECONDS = 30.0


@dataclass
class _Progress:
    """How far a training is: finished chunks, the mean of every loss in each, and the seconds so far."""

    chunks: int = 0
    seconds: float = 0.0
    curves: dict[str, list[list[float]]] = field(default_factory=dict)


class ModelFree(Method):
    """BCQ or CQL; a part is one policy.

    Args:
        settings: say which, and how it learns.
        spec: the environment.
        pooled: one policy from the data of all agents (-P); else one for each test agent, from its own (-A).

    Raises:
        InputError: an action of the environment has no bounds.
    """

    predicts = False

    def __init__(self, settings: OfflineSettings, spec: EnvSpec, *, pooled: bool) -> None:
        space = spec.action_space
        if isinstance(space, gym.spaces.Box) and not space.is_bounded():
            raise InputError(
                f"BCQ and CQL need bounds of every action, but {spec.name} has {space}; give a bounded Box"
            )
        self.settings, self.pooled = settings, pooled
        self.parts = 1 if pooled else len(spec.test_agents)

    def about(self) -> dict[str, Any]:
        """All settings."""
        return {"settings": asdict(self.settings), "pooled": self.pooled}

    def learns_with(self) -> dict[str, Any]:
        """All settings."""
        return self.about()

    def fit_part(
        self,
        part: int,
        data: Trajectories,
        spec: EnvSpec,
        seed: int,
        *,
        device: str = "cpu",
        checkpoint: Path | None = None,
        report: Report | None = None,
        base: Weights | None = None,
    ) -> Weights:
        """Trains one policy, on the data of all agents or of test agent ``part``."""
        from baselines.learner import Learner, Transitions

        rows = Transitions(self._sources(part, data, spec, seed, device, base), device)
        init = seeding.sequence(seed, "init", part)
        learner = Learner(self.settings, spec.state_dim, spec.action_space, init, device)
        if self.settings.normalised:
            learner.scale = rows.normalise()
        progress = _learn(learner, rows, self.settings, (seed, part), checkpoint, report)
        about = {"curves": progress.curves, "seconds": progress.seconds}
        return Weights(learner.arrays(), {"about": about})

    def _sources(
        self, part: int, data: Trajectories, spec: EnvSpec, seed: int, device: str, base: Weights | None
    ) -> list[Trajectories]:
        """What a part learns from."""
        return [check_rows(data, spec, "all agents") if self.pooled else of_agent(part, data, spec)]

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """All policies side by side; the curves are means over them."""
        arrays = {f"{part}/{name}": value for part, own in enumerate(parts) for name, value in own.arrays.items()}
        abouts = [own.settings["about"] for own in parts]
        curves = {
            name: np.mean([about["curves"][name] for about in abouts], axis=0).tolist() for name in abouts[0]["curves"]
        }
        return Weights(arrays, {"about": {"curves": curves, "seconds": sum(about["seconds"] for about in abouts)}})

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """The policies."""
        from baselines.learner import Learner

        learners = []
        for part in range(self.parts):
            prefix = f"{part}/"
            own = {name.removeprefix(prefix): v for name, v in weights.arrays.items() if name.startswith(prefix)}
            learner = Learner(self.settings, spec.state_dim, spec.action_space, np.random.SeedSequence(0), device)
            learner.load(own)
            learners.append(learner)
        return _Policies(learners, self.pooled)


def of_agent(agent: int, data: Trajectories, spec: EnvSpec) -> Trajectories:
    """What was recorded of one agent, checked."""
    return check_rows(data.of_agents([agent]), spec, f"agent {agent + 1}")


def check_rows(data: Trajectories, spec: EnvSpec, who: str) -> Trajectories:
    """Refuses data that no policy can be learnt from; warns of actions that they lack.

    Raises:
        InputError: fewer than two transitions, or the actions are not the environment's.
    """
    if data.action_space != spec.action_space:
        raise InputError(
            f"the actions of the data are {data.action_space}, but those of {spec.name} {spec.action_space}; "
            "give data of this environment"
        )
    if len(data) < 2:
        raise InputError(
            f"of {who} 1 transition is recorded, but a policy needs at least 2; give a longer trajectory, or use -P"
        )
    if isinstance(data.action_space, gym.spaces.Discrete):
        lacking = sorted(set(range(int(data.action_space.n))) - set(np.unique(data.action).tolist()))
        if lacking:
            _logger.warning("the data of %s lack action %s: what it does is a guess", who, lacking)
    return data


def _learn(
    learner: Learner,
    rows: Transitions,
    settings: OfflineSettings,
    seeds: tuple[int, int],
    checkpoint: Path | None,
    report: Report | None,
) -> _Progress:
    """Updates in chunks, each with random streams of its own, so that a resumed training is the same training.

    Raises:
        DivergenceError: a loss became non-finite.
    """
    progress = _resume(learner, checkpoint)
    size = math.ceil(settings.updates / _CHUNKS)
    saved = time.monotonic()
    for start in range(progress.chunks * size, settings.updates, size):
        clock = time.perf_counter()
        stop = min(start + size, settings.updates)
        losses = _chunk(learner, rows, settings.batch_size, start, stop, seeding.sequence(*seeds, "batches", start))
        for name, value in losses.items():
            progress.curves.setdefault(name, []).append([stop, value])
        progress.chunks += 1
        progress.seconds += time.perf_counter() - clock
        if checkpoint is not None and time.monotonic() - saved > _CHECKPOINT_SECONDS:
            store.write_arrays(checkpoint, learner.state(), CHECKPOINT, asdict(progress))
            saved = time.monotonic()
        if report is not None:
            report(stop / settings.updates)
    return progress


def _resume(learner: Learner, checkpoint: Path | None) -> _Progress:
    if checkpoint is None or not checkpoint.exists():
        return _Progress()
    arrays, settings = store.read_arrays(checkpoint, CHECKPOINT)
    learner.load_state(arrays)
    return _Progress(**settings)


def _chunk(
    learner: Learner, rows: Transitions, batch_size: int, start: int, stop: int, seed: np.random.SeedSequence
) -> dict[str, float]:
    """Updates number ``start`` + 1 to ``stop``; returns the mean of every loss."""
    from baselines.learner import torch_seed

    chosen = torch.from_numpy(np.random.default_rng(seed).integers(len(rows), size=(stop - start, batch_size)))
    sums: dict[str, float] = {}
    with torch_seed(seed):
        for step, batch in enumerate(chosen, start + 1):
            losses = learner.update(rows.batch(batch), step)
            for name, value in losses.items():
                if not math.isfinite(value):
                    raise DivergenceError(f"{name} became {value} at step {step}; lower the learning rate")
                sums[name] = sums.get(name, 0.0) + value
    return {name: value / (stop - start) for name, value in sums.items()}


class _Policies:
    """Acts by the policy of all agents, or by each one's own."""

    def __init__(self, learners: list[Learner], pooled: bool) -> None:
        self._learners, self._pooled = learners, pooled

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """The learnt policies of these agents ``[B]``.

        Raises:
            InputError: an agent has no policy of its own.
        """
        which = np.zeros_like(agents) if self._pooled else agents
        if which.max(initial=0) >= len(self._learners):
            raise InputError(
                f"agent {int(agents.max()) + 1} has no policy of its own; only the test agents 1 to "
                f"{len(self._learners)} have, -P has one for all"
            )
        return _Learnt(self._learners, which)


class _Learnt(BatchPolicy):
    def __init__(self, learners: list[Learner], which: NDArray[np.int64]) -> None:
        self._learners, self._which = learners, which

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        order = [(which, np.flatnonzero(self._which == which)) for which in np.unique(self._which)]
        chosen = [self._learners[which].act(states[rows], rng) for which, rows in order]
        places = np.concatenate([rows for _, rows in order])
        return np.asarray(np.concatenate(chosen)[np.argsort(places)])

    def keep(self, running: NDArray[np.bool_]) -> None:
        self._which = self._which[running]
