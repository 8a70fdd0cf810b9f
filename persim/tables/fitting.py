"""Fit a simulator to a table: train the shared terms, weigh them for each agent, judge choices on held-out time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from persim import seeding
from persim.errors import InputError, check_at_least, check_between, check_choice
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.presets import MEMBERS, RANKS
from persim.learning.training import EpochReport, TrainSettings, train
from persim.tables.bands import Bands
from persim.tables.dynamics import Dynamics
from persim.tables.features import Features, Inputs
from persim.tables.given import action_bounds, last_histories
from persim.tables.personal import Prior, Sums, fit_prior
from persim.tables.reading import Array
from persim.tables.references import References
from persim.tables.rewards import Rewards
from persim.tables.simulator import Simulator
from persim.tables.steps import Steps, steps_of
from persim.tables.table import Table
from persim.tables.terms import BOTH, KINDS, LINEAR, PRODUCT, Terms
from persim.tables.units import Units
from persim.tables.windows import Windows, typical_length

_logger = logging.getLogger(__name__)

AUTO, CV = "auto", "cv"
RANK = 10
LADDER = (250, 1000, 4000)  # optimiser steps that are tried, the fewest first
BATCH = 256
AVERAGED = 4  # weights are averaged over the last quarter of the epochs
HOLDOUT = 0.2
HORIZON = 50  # steps over which choices are judged, as in the paper's prediction test, where the held-out time allows
WIDTHS = (256, 256), (256,)
EARLY = 5000  # windows of the time before the held-out one that tell hard agents from easy ones
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class FitSettings:
    """How a simulator is fitted.

    Attributes:
        rank: R, or ``"cv"`` to choose it from the paper's six by the error on held-out time.
        members: K.
        steps: optimiser steps, or None to choose from ``LADDER`` on held-out time.
        terms: one of ``persim.tables.terms.KINDS``, or ``"auto"`` to choose on held-out time.
        holdout: share of each trajectory, at its end, that choices and bands are judged on; all of it is trained on
            again at last.
        horizon: steps over which choices are judged; None for 50, or half of the held-out time if that is shorter.
        seed: determines everything random.

    Raises:
        InputError: a value is out of range or unknown.
    """

    rank: int | str = RANK
    members: int = MEMBERS
    steps: int | None = None
    terms: str = AUTO
    holdout: float = HOLDOUT
    horizon: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rank, str):
            if self.rank != CV:
                raise InputError(f"rank is {self.rank!r}; give a whole number of at least 1, or {CV!r}")
        else:
            check_at_least("rank", self.rank, 1)
        check_at_least("members", self.members, 1)
        check_at_least("seed", self.seed, 0)
        check_choice("terms", self.terms, (AUTO, *KINDS))
        check_between("holdout", self.holdout, 0, 1)
        for name in ("steps", "horizon"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class _Data:
    """A table as the model sees it."""

    table: Table
    features: Features
    inputs: Inputs
    units: Units
    steps: Steps

    @classmethod
    def of(cls, table: Table) -> _Data:
        features = Features.of(table)
        inputs = features.inputs_of(table)
        units = Units.of(features, table, inputs.acts)
        steps = steps_of(table, inputs, units)
        if not len(steps):
            raise InputError(
                f"no step of the table is known from end to end, with {features.lags} lags and all inputs; look at it "
                "with persim check, take fewer lags, or give a fill for inputs that are recorded now and then"
            )
        return cls(table, features, inputs, units, steps)

    def terms(self, rank: int, steps: int, settings: FitSettings, show: Callable[[float], None]) -> Terms:
        """Train K members for so many optimiser steps (Algorithm 1)."""
        width, states = self.features.width, self.features.states
        shape = ModelSettings(
            len(self.table.names), width, self.steps.action.shape[1], False, rank, settings.members, *WIDTHS,
            normalised=True, predicted=states if width > states else 0,
        )  # fmt: skip
        init, orders = ([seeding.sequence(settings.seed, name, k) for k in range(settings.members)]
                        for name in ("init", "batches"))  # fmt: skip
        model = LowRankDynamics(shape, init)
        batch = min(BATCH, len(self.steps))
        epochs = max(1, round(steps * batch / len(self.steps)))
        training = TrainSettings(epochs, batch, average_last=max(1, epochs // AVERAGED))

        def report(epoch: EpochReport) -> None:
            show(epoch.epoch / epoch.epochs)

        train(model, self.steps, training, orders, progress=report)
        return Terms(model.requires_grad_(False))

    def dynamics(self, terms: Terms, kind: str) -> tuple[Dynamics, Tensor, Prior]:
        """Weigh the terms for each agent; returns the deviation of the weights and their prior, too."""
        terms, table = replace(terms, kind=kind), self.table
        sums = Sums.of(terms, self.steps, len(table.names))
        prior = fit_prior(sums, table.static)
        theta, unsure = prior.weights(table.static, sums)
        low, high = np.nanmin(table.state, axis=0), np.nanmax(table.state, axis=0)
        limits = np.stack([2 * low - high, 2 * high - low])
        return Dynamics(self.features, terms, self.units, theta, limits), unsure, prior

    def references(self, rank: int, steps: int, settings: FitSettings) -> References:
        """Fit what a simulator is compared with."""
        together = replace(self.steps, agent=np.zeros_like(self.steps.agent))
        one = replace(self, steps=together, table=replace(self.table, names=("all",)))
        net = one.terms(rank, steps, replace(settings, members=1), lambda share: None).model
        return References.of(Sums.of(Terms(net, LINEAR), self.steps, len(self.table.names)), net)


def fit(table: Table, *, progress: Progress | None = None, **settings: Any) -> Simulator:
    """Fit a personalised simulator to a table.

    The shared terms are trained as in the paper (Algorithm 1): encoders of agent, history and act that meet in a
    product of rank R. Then each agent's weights of these terms, and of the inputs themselves, follow in closed form
    (``persim.tables.personal``). How long to train, which terms to use and, if asked for, the rank are chosen by the
    error of open-loop predictions on the last part of each trajectory; then all data are trained on once more.

    Args:
        table: of all agents.
        progress: called now and then with the stage and the share of it that is done.
        settings: of ``FitSettings``, such as ``rank="cv"`` or ``members=3``.

    Raises:
        InputError: a setting is not usable, or no step of the table is known from end to end.
        DivergenceError: the loss became non-finite.
    """
    return fit_with(table, FitSettings(**settings), progress)


def fit_with(table: Table, settings: FitSettings, progress: Progress | None = None) -> Simulator:
    """See ``fit``."""
    started, whole = time.perf_counter(), _Data.of(table)
    show = progress or (lambda stage, share: None)
    choice = _choose(table, settings, show)
    _logger.info("chosen on held-out time: %s", choice.about)
    terms = whole.terms(choice.rank, choice.steps, settings, lambda share: show("all data", share))
    dynamics, unsure, prior = whole.dynamics(terms, choice.kind)
    about = {"rank": choice.rank, "members": settings.members, "steps": choice.steps, "terms": choice.kind}
    about |= {"seed": settings.seed, "seconds": time.perf_counter() - started, "tried": choice.about}
    summary = table.summary()
    return Simulator(
        table.schema, table.names, dynamics, unsure, prior, last_histories(table, whole.inputs.history), table.static,
        choice.bands, whole.references(choice.rank, choice.steps, settings), action_bounds(table, summary),
        Rewards.of(table), summary, about,
    )  # fmt: skip


@dataclass(frozen=True)
class _Choice:
    """What was chosen, the bands that it gives, and what was tried: rank, steps, terms, error (in deviations)."""

    rank: int
    steps: int
    kind: str
    bands: Bands | None
    about: list[dict[str, Any]]


def _choose(table: Table, settings: FitSettings, show: Progress) -> _Choice:
    """Try what is left open on held-out time."""
    kinds: tuple[str, ...] = (PRODUCT, LINEAR, BOTH) if settings.terms == AUTO else (settings.terms,)
    ladder = LADDER if settings.steps is None else (settings.steps,)
    rank = RANK if isinstance(settings.rank, str) else settings.rank
    try:
        early, late = table.split_last(settings.holdout)
    except InputError as error:
        kind = BOTH if settings.terms == AUTO else settings.terms
        _logger.warning("nothing is held out, so that nothing is chosen and no band is known: %s", error)
        return _Choice(rank, ladder[0], kind, None, [])
    trial = _Trial(_Data.of(early), late, settings, show)
    if not np.isfinite(trial.late.errors(trial.late.true)).any():
        kind = BOTH if settings.terms == AUTO else settings.terms
        _logger.warning(
            "no window of held-out time is known from end to end, so that nothing is chosen and no band is known"
        )
        return _Choice(rank, ladder[0], kind, None, [])
    for steps in ladder:
        if not trial.run(rank, steps, kinds):
            break
        kinds = tuple(kind for kind in kinds if kind != LINEAR) or kinds  # which training does not change
    if settings.rank == CV:
        for other in (rank for rank in RANKS if rank != RANK):
            trial.run(other, trial.best[1], (trial.best[2],) if trial.best[2] != LINEAR else kinds)
    rank, steps, kind = trial.best
    return _Choice(rank, steps, kind, trial.bands(), trial.tried)


class _Trial:
    """Fits to the early part of a table, judges on the late part, and remembers the best."""

    def __init__(self, early: _Data, late: Table, settings: FitSettings, show: Progress) -> None:
        self.early, self.settings, self.show = early, settings, show
        horizon = settings.horizon or max(1, min(HORIZON, typical_length(late) // 2))
        self.late = Windows.of(late, early.features.inputs_of(late), horizon)
        self.unit = np.where((deviation := np.nanstd(early.table.state, axis=0)) > 0, deviation, 1.0)
        self.least, self.best = np.inf, (RANK, LADDER[0], BOTH)
        self.found: tuple[Dynamics, Array] | None = None
        self.tried: list[dict[str, Any]] = []

    def run(self, rank: int, steps: int, kinds: Sequence[str]) -> bool:
        """Try a rank and a number of steps with these terms; return whether it was the best so far."""
        name = f"rank {rank}, {steps} steps"
        terms, better = self.early.terms(rank, steps, self.settings, lambda share: self.show(name, share)), False
        for kind in kinds:
            dynamics, _, _ = self.early.dynamics(terms, kind)
            predicted = dynamics.paths(self.late.agent, self.late.history, self.late.acts)
            errors = self.late.errors(predicted, self.unit)
            error = float(np.sqrt(np.square(errors[np.isfinite(errors).all(1)]).mean(1)).mean())
            self.tried.append({"rank": rank, "steps": steps, "terms": kind, "error": error})
            if error < self.least:
                self.least, self.best, better = error, (rank, steps, kind), True
                self.found = dynamics, predicted
        return better

    def bands(self) -> Bands | None:
        """Calibrate bands with the best."""
        if self.found is None:
            return None
        dynamics, predicted = self.found
        early = Windows.of(self.early.table, self.early.inputs, predicted.shape[1], EARLY)
        fitted = dynamics.paths(early.agent, early.history, early.acts)
        return Bands.of(self.late, predicted, early, fitted)
