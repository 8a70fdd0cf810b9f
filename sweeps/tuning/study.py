"""A tuning study: its settings and trials, its memory of what became of them, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from persim.envs import get
from persim.learning.ensemble import SPARE_MEMBERS, EnsembleSettings
from persim.learning.presets import Preset
from persim.methods import PerSim, PerSimSettings, PlanningSettings
from persim.methods.holdout import holdouts, stopped
from persim.methods.job import Job, rewards
from persim.methods.tuned import TUNED, tuned_path
from persim.planning.registry import PLANNERS, default_planner
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, Request, file_name, finite_or_none, plain
from sweeps.tuning.space import PLANNING, Space, Values
from sweeps.tuning.sweep import Sweep

JOURNAL_KIND = "tune-study"
REDUCTION = 3  # of ASHA: one trial in three goes on at each rung
_TRAINING = {"learning_rate", "batch_size", "epochs"}
_GRACE = 27  # a trial has a 27th of the longest before it can be stopped: three rungs before the end


@dataclass(frozen=True)
class StudySettings(Sweep):
    """Everything that the results of a study depend on but the number of trials; validated by ``tune.py``.

    Attributes:
        objective: ``holdout`` (error) or ``reward``.
        members: models of a trial; a trial of rewards trains spare ones, too.
        episodes: of each test agent, for rewards.
        space: what is tuned.
    """

    objective: str
    members: int
    episodes: int
    space: Space

    suite: ClassVar[str] = "tune"
    doing: ClassVar[str] = "tuning"

    def as_json(self) -> dict[str, Any]:
        """All settings, for records and hashes."""
        return {**vars(self), "space": self.space.as_json()}

    @property
    def label(self) -> str:
        """Names the study in MLflow."""
        return f"{super().label}, {self.objective}"

    @property
    def plays(self) -> bool:
        """Whether the objective is the reward."""
        return self.objective == "reward"

    @property
    def largest_epochs(self) -> int:
        """Epochs of the longest trial."""
        return max(int(values["epochs"]) for values in self.space.ends("epochs"))

    @property
    def grace(self) -> int:
        """Epochs before a trial can be stopped."""
        return max(1, self.largest_epochs // _GRACE)

    def rungs(self, epochs: int) -> list[int]:
        """Epochs at which a trial of so many epochs may be stopped."""
        rungs = [self.grace]
        while rungs[-1] < epochs:
            rungs.append(rungs[-1] * REDUCTION)
        return rungs[:-1]

    def planning(self, values: Values) -> PlanningSettings:
        """The planner, with those of the tuned settings that it has.

        Raises:
            InputError: more elites than plans.
        """
        spec = get(self.env)
        name = values.get("planner", default_planner(spec.action_space, spec.name))
        known = PLANNERS[name].settings_type.__dataclass_fields__
        options = {key: values[key] for key in PLANNING if key in values and key in known}
        return PlanningSettings.of(spec, name, **options)

    def settings(self, values: Values) -> PerSimSettings:
        """All settings of PerSim: those tuned, the others the environment's own."""
        spec = get(self.env)
        own = PerSimSettings.of(spec, self.planning(values))
        given: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        nets = replace(own.nets, **{name: given[name] for name in given.keys() & Preset.__dataclass_fields__.keys()})
        train = replace(own.train, **{name: given[name] for name in given.keys() & _TRAINING})
        # Of a short training the last 50 epochs would be all of it, the random start included.
        train = replace(train, average_last=min(train.average_last, train.epochs // 4))
        size = EnsembleSettings(self.members, self.members + (SPARE_MEMBERS if self.plays else 0))
        return PerSimSettings(own.planning, nets.rank, size, train, nets)

    def job(self, values: Values) -> Job:
        """One trial. The space and the other trials do not enter its cell: the same values are computed once."""
        measure = holdouts(self.holdout, 0, then=rewards(self.episodes) if self.plays else None)
        return Job.of(PerSim(self.settings(values)), self.env, self.regime, self.agents, self.seed, measure)

    def trial(self, config: Mapping[str, Any]) -> Job:
        """The trial of a suggestion of Optuna's."""
        return self.job(self.space.decode(config))

    def value(self, done: FinishedCell) -> float:
        """The hold-out error, or the mean over agents of their rewards."""
        if not self.plays:
            return done.value("holdout_share")
        agents = [row["agent"] for row in done.rows if row["metric"] == "reward"]
        return float(np.mean([done.value("reward", agent) for agent in agents]))

    def at_rung(self, error: float) -> dict[str, float]:
        """The error as ``value``; a trial that is stopped before it plans has no reward."""
        return {} if self.plays else {"value": error}


@dataclass
class Entry:
    """One trial that was begun.

    Attributes:
        values: of the settings in the space.
        rungs: ``(epoch, hold-out error)`` at the rungs of ASHA that it has reached.
        stopped_at: the epoch at which ASHA stopped it.
    """

    values: Values
    rungs: list[tuple[int, float]] = field(default_factory=list)
    stopped_at: int | None = None


class Journal:
    """The trials of a study in the order in which they were begun; only the driver writes it.

    Args:
        study: the study.
        cells: the store.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, study: StudySettings, cells: CellStore) -> None:
        self._study, self._cells = study, cells
        self.path = cells.root / "studies" / f"{file_name(study.env)}-{study.id}.json"
        self.entries: list[Entry] = []
        if self.path.exists():
            record = store.read_record(self.path, JOURNAL_KIND)
            with store.contents_of(self.path):
                self.entries = [store.build(Entry, saved) for saved in record["trials"]]
                for entry in self.entries:
                    self.job(entry)

    def write(self) -> None:
        """Save it, and ask for the cells of its trials."""
        trials = [asdict(entry) for entry in self.entries]
        store.write_record(self.path, JOURNAL_KIND, {"settings": self._study.as_json(), "trials": trials})
        self._cells.ask(self.request())

    def request(self) -> Request:
        """What was asked for so far."""
        return self._study.request([self.job(entry) for entry in self.entries])

    def job(self, entry: Entry) -> Job:
        """The job of a trial, or of what a stopped one left."""
        job = self._study.job(entry.values)
        return job if entry.stopped_at is None else stopped(job, entry.stopped_at)

    def done(self, entry: Entry) -> FinishedCell | None:
        """The finished cell of a trial, run to the end or stopped; None if it is still to be computed."""
        return self._cells.finished(self.job(entry).cell)

    def finished(self) -> list[tuple[Entry, FinishedCell]]:
        """The trials that are done, with their cells."""
        return [(entry, done) for entry in self.entries if (done := self.done(entry)) is not None]


class Ranked(NamedTuple):
    """One line of the table."""

    number: int
    entry: Entry
    value: float
    seconds: float


def ranking(study: StudySettings, finished: Sequence[tuple[Entry, FinishedCell]]) -> list[Ranked]:
    """The trials that ran to the end with a finite result, best first, each set of values once."""
    ranked: dict[str, Ranked] = {}
    for number, (entry, done) in enumerate(finished, 1):
        if entry.stopped_at is None and finite_or_none(study.value(done)) is not None:
            ranked.setdefault(done.cell.id, Ranked(number, entry, study.value(done), sum(done.seconds.values())))
    return sorted(ranked.values(), key=lambda line: line.value, reverse=study.plays)


def write_best(root: Path, study: StudySettings, lines: Sequence[Ranked]) -> Path:
    """Record the best settings, complete, with the evidence; a later study on the same data replaces them."""
    path = tuned_path(root, study.env, study.regime, study.agents, study.objective)
    method = study.job(lines[0].entry.values).method
    best = {"method": method.name, "value": lines[0].value, "best": plain(method.about())}
    table = [{"value": line.value, "values": line.entry.values} for line in lines]
    store.write_record(path, TUNED, {**study.as_json(), **best, "table": table})
    return path
