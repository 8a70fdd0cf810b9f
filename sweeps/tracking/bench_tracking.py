"""A benchmark in MLflow: an experiment per suite, a parent run per environment and regime, a run per cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from baselines.registry import METHODS
from persim.data import Trajectories
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, code_version
from sweeps.grid.suites import TRUE_ENV_REGIME, Grid
from sweeps.grid.tasks import dataset_path, model_output
from sweeps.reporting.draw import plot_methods
from sweeps.tracking.tracker import DatasetNote, Extras, Group, Tracker, default_uri, tracking_folder


class Tracking:
    """Sends finished cells, and what sums them up.

    Args:
        tracker: of the suite's experiment.
        cells: the store.
        grid: what is run.
    """

    def __init__(self, tracker: Tracker, cells: CellStore, grid: Grid) -> None:
        self._tracker, self._cells, self._grid = tracker, cells, grid
        self._notes: dict[Path, DatasetNote] = {}

    @classmethod
    def open(cls, uri: str | None, root: Path, grid: Grid) -> Tracking:
        """Connects, and makes the store if all is well.

        Raises:
            InputError: MLflow does not answer, or the store cannot be written.
        """
        folder = tracking_folder(root)
        if uri is None:
            store.prepare_folder(root)
            store.prepare_folder(folder, "folder of MLflow's database")
        tracker = Tracker(uri or default_uri(root), grid.suite.name, folder)
        store.prepare_folder(root)  # after a server has answered: a dead one leaves nothing behind
        return cls(tracker, CellStore(root), grid)

    def group(self, env: str, regime: str) -> Group:
        """The parent run."""
        name = "true environment" if regime == TRUE_ENV_REGIME else regime
        params = {"suite": self._grid.suite.name, "env": env, "regime": regime}
        return Group(f"{self._grid.suite.name}-{env}-{regime}", f"{env} {name}", params)

    def send(self, done: FinishedCell) -> None:
        """Queues a finished cell."""
        extras = self._extras(done.cell) if METHODS[done.cell.method].learns else Extras()
        self._tracker.send(done, self.group(done.cell.env, done.cell.regime), _name(done.cell), extras)

    def send_failed(self, cell: Cell, error: str) -> None:
        """Queues a cell that failed for good; when it succeeds one day, that takes its place."""
        now = int(time.time() * 1e3)
        failed = FinishedCell(cell, [], {}, int(cell.settings["seed"]), code_version(), {}, now, now)
        self._tracker.send(failed, self.group(cell.env, cell.regime), _name(cell), Extras(note=error), "FAILED")

    def _extras(self, cell: Cell) -> Extras:
        model = self._cells.root / model_output(cell)
        simulator = cell.method == "persim" and model.exists()
        return Extras(dataset=self._note(cell), model=model if simulator else None)

    def _note(self, cell: Cell) -> DatasetNote | None:
        path = dataset_path(self._cells, cell)
        if path not in self._notes:
            if not path.exists():
                return None
            data = Trajectories.load(path)
            profile = {"agents": data.n_agents, "transitions": len(data), "seed": cell.settings["seed"]}
            name = f"{cell.env} {cell.regime} N={cell.agents}"
            self._notes[path] = DatasetNote(name, data.content_hash, str(path.resolve()), profile)
        return self._notes[path]

    def close(self, results: Sequence[FinishedCell]) -> str:
        """Ends the parent runs, with a plot each; returns where to look."""
        cells = self._grid.cells()
        budget = {f"budget.{key}": str(value) for key, value in asdict(self._grid.budget).items()}
        for env, regime in dict.fromkeys((cell.env, cell.regime) for cell in cells):
            own = [done for done in results if (done.cell.env, done.cell.regime) == (env, regime)]
            wanted = sum((cell.env, cell.regime) == (env, regime) for cell in cells)
            name = f"{self._grid.suite.name}-{env.replace(':', '.')}-{regime}.png"
            beside = [done for done in results if (done.cell.env, done.cell.regime) == (env, TRUE_ENV_REGIME)]
            shown = own if regime == TRUE_ENV_REGIME else [*own, *beside]
            plots = [plot_methods(self._cells.root / "plots" / name, shown)] if own else []
            status = "FINISHED" if len(own) == wanted else "FAILED"
            self._tracker.close_group(self.group(env, regime), {}, budget, plots, status)
        if self._tracker.close():
            return f"MLflow: {self._tracker.how_to_look()}"
        return f"MLflow at {self._tracker.uri} lacks some runs; the same command sends them when it answers again"


def _name(cell: Cell) -> str:
    return f"{METHODS[cell.method].title}, N={cell.agents}, trial {cell.trial + 1}"
