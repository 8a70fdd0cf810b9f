"""One bar for a whole sweep: epochs done, latest losses, trials running and failed, time left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from tqdm import tqdm

_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs, {elapsed}, {remaining} left{postfix}"


def _rank_label(config: dict[str, Any]) -> str:
    return f"rank {config['rank']}"


class SweepBar(Callback):  # type: ignore[misc]  # Ray is untyped
    """Counts the epochs of all trials, as they report them.

    Args:
        title: shown in front.
        trials: trials to run.
        epochs: per trial, at most.
        label: names a trial by its configuration.
    """

    def __init__(
        self, title: str, trials: int, epochs: int, label: Callable[[dict[str, Any]], str] = _rank_label
    ) -> None:
        self._epochs, self._trials, self._label = epochs, trials, label
        self._done: dict[str, int] = {}
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._latest = ""
        self._bar = tqdm(
            total=trials * epochs,
            desc=title,
            unit="epoch",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            bar_format=_BAR_FORMAT,
        )

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune saves its callbacks, but a new run makes them anew."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Advances the bar to the epoch that the trial reports."""
        epoch = int(result.get("epoch", 0))
        before = self._done.get(trial.trial_id, 0)
        self._done[trial.trial_id] = max(before, epoch)
        holdout = result.get("holdout_loss")
        held = "" if holdout is None else f" hold-out {holdout:.2e}"
        self._latest = f"{self._label(trial.config)}: loss {result.get('loss', float('nan')):.2e}{held}"
        self._bar.update(max(0, epoch - before))
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Counts a finished trial in full, also one that was stopped or found in the store."""
        self._bar.update(self._epochs - self._done.get(trial.trial_id, 0))
        self._done[trial.trial_id] = self._epochs
        self._finished.add(trial.trial_id)
        self._show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Counts a trial that failed for good."""
        self._failed.add(trial.trial_id)
        self._show()

    def _show(self) -> None:
        failed = f", {len(self._failed)} failed" if self._failed else ""
        self._bar.set_postfix_str(f"{len(self._finished)}/{self._trials} trials{failed}; {self._latest}")

    def close(self) -> None:
        """Leaves the bar on the screen and ends its line."""
        self._bar.close()
