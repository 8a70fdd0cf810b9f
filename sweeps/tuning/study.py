"""A study's memory: which trials were begun, in which order, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from persim.errors import InputError
from persim.learning.presets import Preset
from persim.learning.training import TrainSettings
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, finite_or_none
from sweeps.tuning.rank_trial import TRAIN_SETTINGS
from sweeps.tuning.space import Values
from sweeps.tuning.trial import StudySettings

JOURNAL_KIND, BEST_KIND = "tune-study", "tuned-settings"


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
        self.path = cells.root / "studies" / f"{study.env.replace(':', '.')}-{study.id}.json"
        self.entries: list[Entry] = []
        if self.path.exists():
            for saved in store.read_record(self.path, JOURNAL_KIND)["trials"]:
                self.entries.append(Entry(**{**saved, "rungs": [(epoch, error) for epoch, error in saved["rungs"]]}))

    def write(self) -> None:
        """Saves it."""
        trials = [asdict(entry) for entry in self.entries]
        store.write_record(self.path, JOURNAL_KIND, {"settings": self._study.as_json(), "trials": trials})

    def done(self, entry: Entry) -> FinishedCell | None:
        """The finished cell of a trial, run to the end or stopped; None if it is still to be computed."""
        return self._cells.finished(self._study.cell(entry.values, entry.stopped_at))

    def finished(self) -> list[tuple[Entry, FinishedCell]]:
        """The trials that are done."""
        pairs = [(entry, self.done(entry)) for entry in self.entries]
        return [(entry, done) for entry, done in pairs if done is not None]


@dataclass(frozen=True)
class Ranked:
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
            line = Ranked(number, entry, study.value(done), sum(done.seconds.values()))
            ranked.setdefault(done.cell.id, line)
    sign = 1 if study.objective == "holdout" else -1
    return sorted(ranked.values(), key=lambda line: sign * line.value)


def best_path(root: Path, env: str, regime: str, agents: int, objective: str) -> Path:
    """Where the best settings for these data are kept."""
    return root / "choices" / f"tuned-{env.replace(':', '.')}-{regime}-{agents}-{objective}.json"


def write_best(root: Path, study: StudySettings, lines: Sequence[Ranked]) -> Path:
    """Records the best settings, complete, with the evidence; a later study on the same data replaces them."""
    path = best_path(root, study.env, study.regime, study.agents, study.objective)
    cell = study.cell(lines[0].entry.values)
    table = [{"value": line.value, "values": line.entry.values} for line in lines]
    record = {"best": cell.settings, "value": lines[0].value, "study": study.as_json(), "table": table}
    store.write_record(path, BEST_KIND, record)
    return path


def read_best(root: Path, env: str, regime: str, agents: int, objective: str) -> dict[str, Any]:
    """The best settings, by name.

    Raises:
        InputError: no study has found any yet; the message has the command.
    """
    path = best_path(root, env, regime, agents, objective)
    if not path.exists():
        raise InputError(
            f"nothing was tuned yet for {env}, {regime}, {agents} agents; run: python sweeps/tune.py "
            f"--env {env} --regime {regime} --agents {agents} --objective {objective}"
        )
    return dict(store.read_record(path, BEST_KIND)["best"])


def training_of(best: Mapping[str, Any]) -> tuple[Preset, TrainSettings]:
    """Nets and training from the best settings, as ``persim.learning.ensemble.train_ensemble`` takes them."""
    nets = {name: best[name] for name in Preset.__dataclass_fields__}
    nets |= {name: tuple(nets[name]) for name in ("state_widths", "action_widths")}
    return Preset(**nets), TrainSettings(**{name: best[name] for name in TRAIN_SETTINGS})
