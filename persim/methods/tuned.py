"""Settings of PerSim that ``tune.py`` and ``rank_cv.py`` found: where they are kept, and how commands take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persim.errors import InputError, check_at_least
from persim.storage import store
from persim.storage.cells import file_name

TUNED, RANK = "tuned-settings", "rank-choice"  # kinds of records
OBJECTIVES = ("reward", "holdout")  # of tuning; a command that asks for no file prefers the first


def rank_path(root: Path, env: str, regime: str, agents: int) -> Path:
    """Where the rank that was chosen for these data is kept."""
    return root / "choices" / f"{file_name('rank', env, regime, agents)}.json"


def tuned_path(root: Path, env: str, regime: str, agents: int, objective: str) -> Path:
    """Where the best settings for these data are kept."""
    return root / "choices" / f"{file_name('tuned', env, regime, agents, objective)}.json"


def read_rank(root: Path, env: str, regime: str, agents: int) -> int:
    """Read the rank that was chosen for these data.

    Raises:
        InputError: none was chosen yet; the message has the command.
    """
    path = rank_path(root, env, regime, agents)
    if not path.exists():
        raise InputError(
            f"no rank was chosen yet for {env}, {regime}, {agents} agents; "
            f"run: {_command('rank_cv', env, regime, agents)}"
        )
    record = store.read_record(path, RANK)
    with store.contents_of(path):
        return check_at_least("rank", record["rank"], 1)


def tuned_settings(text: str, root: Path, env: str, regime: str, agents: int) -> dict[str, Any]:
    """Read the settings that ``--settings`` names, as ``Options.tuned`` takes them.

    Args:
        text: ``tuned`` for what ``tune.py`` found for these data, by reward if it was tuned, else by hold-out error;
            or the path of a file that ``tune.py`` or ``rank_cv.py`` wrote, for any regime and N of the environment.
        root: the store.
        env: the environment.
        regime: how the data were recorded.
        agents: N.

    Returns:
        The rank; of a tuned file also ``train`` and ``nets``, and ``planning`` if the planner was tuned.

    Raises:
        InputError: there is no such file, or its settings are of another environment, method or version.
    """
    run = f"run: {_command('tune', env, regime, agents)}"
    paths = [tuned_path(root, env, regime, agents, objective) for objective in OBJECTIVES]
    if text != "tuned":
        paths = [store.store_path(text)]
    elif not any(path.exists() for path in paths):
        raise InputError(f"nothing was tuned yet for {env}, {regime}, {agents} agents; {run}")
    path = next((path for path in paths if path.exists()), paths[0])
    kind = _kind(path)
    record = store.read_record(path, kind)
    with store.contents_of(path):
        about = record if kind == TUNED else {"method": "persim", **record["settings"]}
    if "env" not in about:
        raise InputError(f"{str(path)!r} was written by version 0.1; {run}")
    if about.get("method") != "persim":
        raise InputError(f"{str(path)!r} has settings of {about.get('method')}, but only PerSim takes settings; {run}")
    if about["env"] != env:
        raise InputError(f"{str(path)!r} has settings for {about['env']}, not for {env}; give another file, or {run}")
    with store.contents_of(path):
        if kind == RANK:
            return {"rank": check_at_least("rank", record["rank"], 1)}
        tuned = ("rank", "train", "nets", *(["planning"] if about["objective"] == "reward" else []))
        return {name: about["best"][name] for name in tuned}


def _command(script: str, env: str, regime: str, agents: int) -> str:
    return f"python sweeps/{script}.py --env {env} --regime {regime} --agents {agents}"


def _kind(path: Path) -> str:
    """The kind of a record; of a file that is missing or no record the first one, whose reader says what is wrong.

    Raises:
        InputError: the record holds no settings.
    """
    try:
        kind = store.parse_json(path.read_bytes())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return TUNED
    if kind not in (TUNED, RANK):
        raise InputError(f"{str(path)!r} holds {kind!r}; give a file of {TUNED!r} or {RANK!r} from a store's choices/")
    return str(kind)
