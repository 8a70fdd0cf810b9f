"""What a tuning study tries next, and what it gives up: Optuna's TPE and ASHA, made to go on after a break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from persim import seeding
from persim.storage import store
from persim.storage.cells import finite_or_none
from sweeps.tuning.space import Choice, Range, Space, Values
from sweeps.tuning.study import Journal
from sweeps.tuning.trial import REDUCTION, SUITE, StudySettings


class SeededTPE(BaseSampler):  # type: ignore[misc]  # Optuna is skipped by mypy
    """TPE whose suggestion depends on the seed, the number of the trial and the trials before it alone.

    A sampler with one stream would begin it again in the next run, and suggest what it has suggested.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _tpe(self, trial: Any) -> Any:
        return TPESampler(seed=seeding.integer(self._seed, SUITE, "tpe", trial.number))

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """None: every setting on its own."""
        self._current = self._tpe(trial)
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """One setting."""
        return self._current.sample_independent(study, trial, param_name, param_distribution)


class _Search(OptunaSearch):  # type: ignore[misc]  # Ray is untyped
    """Tells Optuna results at the end only: pruning is ASHA's."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing."""


class Asha(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray is untyped
    """ASHA that remembers which trials it has stopped."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """ASHA's decision."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return decision

    def replay(self, name: str, rungs: Sequence[tuple[int, float]]) -> None:
        """Makes known what a trial of an earlier run had at the rungs."""
        trial = _Known(name)
        self.on_trial_add(None, trial)
        for epoch, error in rungs:
            super().on_trial_result(None, trial, {"epoch": epoch, "rung_error": error})


class _Known:
    """All that ASHA wants to know of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution([store.canonical_json(value) for value in domain.values])
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: _distribution(domain) for name, domain in space.tuned.items()}


def search(study: StudySettings, journal: Journal, first: Values) -> _Search:
    """TPE that knows the trials so far, in their order, and begins with those that were interrupted."""
    space, storage = _distributions(study.space), optuna.storages.InMemoryStorage()
    direction, mode = ("minimize", "min") if study.objective == "holdout" else ("maximize", "max")
    known = optuna.create_study(storage=storage, study_name=study.id, direction=direction)
    for entry in journal.entries:
        point, done = study.space.encode(entry.values), journal.done(entry)
        if done is None:
            known.enqueue_trial(point)
            continue
        tuned = study.objective == "holdout" or entry.stopped_at is None
        value = finite_or_none(study.value(done)) if tuned else None
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        known.add_trial(create_trial(state=state, value=value, params=point, distributions=space))
    if not journal.entries and (point := study.space.encode(first)) is not None:
        known.enqueue_trial(point)
    return _Search(
        space, metric="value", mode=mode, sampler=SeededTPE(study.seed), storage=storage, study_name=study.id
    )


def asha(study: StudySettings, journal: Journal) -> Asha:
    """ASHA that knows what the trials so far had at the rungs."""
    scheduler = Asha(
        time_attr="epoch",
        metric="rung_error",
        mode="min",
        max_t=study.largest_epochs + 1,  # a trial ends by itself
        grace_period=study.grace,
        reduction_factor=REDUCTION,
    )
    for number, (entry, _) in enumerate(journal.finished()):
        scheduler.replay(f"known-{number}", entry.rungs)
    return scheduler
