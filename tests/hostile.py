"""What an attacker, or a tired user, may give to a command: values, environments, spaces, records and datasets."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import torch

from persim.envs import get
from persim.storage import store

VALUES = [
    "", " ", "-1", "0", "-0", "1e400", "nan", "inf", "-inf", "²", "٣", "0x10", "1_000", "1.5", "9" * 30, "9" * 5000,
    "18446744073709551616", "a" * 300, "ü" * 300, "/", "..", "../..", "../x:y", ".", "~", "a\nb", "a\tb",
    "\x1b[31mred", "\udcff",
    "$x_{", "%s%n", "{}", "{0.__class__}", "<b>", "'; rm", "a,b", "1,2,,3", "1,1", ",", "true", "None", "null", "auto",
    "tuned",
    "cartpole", "CartPole", "paper", "s3://", "s3:///x", "memory://x", "ftp://x", "http://[",
    "http://u:geheim@127.0.0.1:9",
    "sqlite://", "sqlite:///:memory:", "postgresql://u:geheim@h/d", "--", "-x", "@file", "10000000000", "1e-300",
    "1e300",
]  # fmt: skip

MODULES = {
    "exits": "import sys; sys.exit(0)",
    "exits_badly": "raise SystemExit('gone')",
    "broken": "def f(:",
    "raises": "1 / 0",
    "base": "raise BaseException('base')",
    "deep": "def f(): f()\nf()",
    "number": "S = 5",
    "lies": "class Meta(type):\n    def __getattr__(cls, name): raise OSError(name)\nclass S(metaclass=Meta): pass",
    "null": "S = 'a\\0b'",
}
ENVS = [
    ":S", ".m:S", "..m:S", "../my:S", "m:", "m:S:T", ":", "::", "os:path", "os:system", "nowhere:S", "a.b.c:S", "é:S",
    "m\0:S",
    *(f"{name}:S" for name in MODULES), "x" * 300 + ":S", "persim.envs.cartpole:SPEC2", "sys:modules",
]  # fmt: skip


def write_modules(folder):
    """Write ``MODULES`` into a folder."""
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)


def wrong_specs():
    """Pairs of a field of ``EnvSpec`` and a wrong value, of which none may come through."""
    nothing = lambda *_: None  # noqa: E731
    cartpole = get("cartpole")
    return [
        ("name", ""), ("name", "/tmp/x"), ("name", "../x"), ("name", "a\0b"), ("name", "a" * 300), ("name", 5),
        ("name", "a$b"),
        ("title", ""), ("title", "a\nb"), ("title", None), ("horizon", 0), ("horizon", -1), ("horizon", 1.5),
        ("horizon", "9"),
        ("horizon", True), ("horizon", 10**12), ("test_agents", ((1.0,),)), ("test_agents", "ab"),
        ("test_agents", ((float("nan"), 1.0),)), ("test_agents", (("a", "b"),)), ("test_agents", ((1.0, 2.0), (1.0,))),
        ("policy_agents", ((1.0, 2.0, 3.0),)), ("covariates", ()), ("covariates", ("force", "length")),
        ("covariates", (cartpole.covariates[0],) * 2), ("observation_space", gym.spaces.Discrete(3)),
        ("observation_space", gym.spaces.Box(0, 1, (2, 2))), ("observation_space", None), ("action_space", None),
        ("action_space", gym.spaces.Discrete(3, start=1)), ("action_space", gym.spaces.Box(-1, 1, ())),
        ("action_space", gym.spaces.MultiBinary(3)), ("state_names", ("one",)), ("reset", None), ("step", 5),
        ("reward", "reward"), ("terminated", None),
    ], [
        ("reset", lambda rng, rows: np.zeros((len(rows), 3))), ("reset", nothing),
        ("reset", lambda rng, rows: rows * np.nan),
        ("step", lambda states, actions, rows: states[:1]), ("step", lambda states, actions, rows: states.tolist()),
        ("step", lambda states, actions: states), ("reward", lambda *_: 1.0), ("reward", lambda s, a, n: n),
        ("reward", lambda s, a, n: n[..., 0].numpy()), ("reward", lambda s, a, n: n[..., 0] > 0),
        ("terminated", lambda n: n[..., 0]), ("terminated", lambda n: torch.zeros(3, dtype=torch.bool)),
        ("terminated", nothing), ("step", lambda *_: 1 / 0), ("reset", lambda *_: exec_exit()),
    ]  # fmt: skip


def exec_exit():
    raise SystemExit(0)


SPACES = [
    "", "a", "[]", "5", "rank: 2001-13-45", "2001-13-45: 5", "rank: !!int x", "rank: !!python/object:os.system x",
    f"rank: {'9' * 5000}", f"rank: {'[' * 1200}", "rank: " + "{a: " * 2000, "rank: .inf", "rank: .nan", "rank: 1e999",
    "rank: [1, [2, [3]]]", "rank: {low: 1}", "rank: {low: 5, high: 1}", "rank: {low: 1, high: 2, step: 0}",
    "rank: &a [*a]",
    "a: &a [1,1]\nrank: [*a,*a]", "rank: 1\nrank: 2", "? [rank]\n: 5", "rank: [true, false]", "rank: ['x']", "\0",
    "\ud800",
    "learning_rate: -1", "learning_rate: {low: 0, high: 1}", "state_widths: [[]]", "state_widths: [[0]]",
    "normalised: 1",
    "planner: nope", "rank: {low: 1, high: 1.0e+18}", "batch_size: 1e12", "epochs: [1, 99999999999]", "rank: 0o17, 3",
    "%YAML 9.9",
    "rank: null", "rank: ~", "- rank", "rank: {low: 1, high: 8, log: maybe}", "rank: [5]", "epochs: 1e3",
]  # fmt: skip


def mutated(value, rng):
    """A value of JSON with one place changed to something else."""
    odd = [
        None,
        True,
        -1,
        0,
        1.5,
        10**30,
        10**400,
        "",
        "x",
        "/../../x",
        "a\0b",
        "$",
        [],
        {},
        [[]],
        {"a": {}},
        "a" * 300,
        1e308,
    ]
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = list(value)[rng.integers(len(value))]
        kind = rng.random()
        if kind < 0.15:
            return {key: item for key, item in value.items() if key != name}
        if kind < 0.25:
            return {**value, "surprise": odd[rng.integers(len(odd))]}
        return {**value, name: mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = int(rng.integers(len(value)))
        return [*value[:place], mutated(value[place], rng), *value[place + 1 :]]
    return odd[rng.integers(len(odd))]


def crafted_record(path, target, rng):
    """Write a record like that in ``path`` to ``target``: with a right checksum, but something wrong in it."""
    body = json.loads(path.read_text())
    store.write_record(target, body["kind"], mutated(body["record"], rng))


def crafted_arrays(path, kind, target, rng):
    """Write arrays like those in ``path`` to ``target``: with a right checksum, but something wrong in it."""
    arrays, settings = store.read_arrays(path, kind)
    if rng.random() < 0.5:
        settings = mutated(settings, rng)
        settings = settings if isinstance(settings, dict) else {}
    else:
        name = list(arrays)[rng.integers(len(arrays))]
        arrays = {**arrays, name: _odd_array(arrays[name], rng)}
        if rng.random() < 0.3:
            del arrays[name]
    store.write_arrays(target, arrays, kind, settings)


def _odd_array(array, rng):
    changes = [
        lambda x: x[:-1], lambda x: x[..., None], lambda x: x.astype(np.float64), lambda x: x.astype(np.int8),
        lambda x: np.zeros(0, x.dtype), lambda x: np.zeros((), x.dtype), lambda x: x.reshape(-1),
        lambda x: x + x.dtype.type(1),
        lambda x: x.astype(np.float16), lambda x: x != 0, lambda x: -x if x.dtype != np.bool_ else x,
    ]  # fmt: skip
    return changes[rng.integers(len(changes))](array)


def raw_records(path, rng):
    """Texts like that of a record that no writer of ours makes."""
    text = path.read_text()
    return [
        "", "{", "[]", "5", "null", '"x"', "NaN", "[" * 100_000, '{"a":' * 50_000, text.replace("0", "NaN", 1),
        text[: len(text) // 2],
        text.replace('"kind"', '"Kind"'), text.replace('"version": 1', '"version": [1]'),
        text.replace('"sha256"', '"sha"'),
        text.replace(": ", ": 1e999, ", 1), "\0" * 100, "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
        text + text,
    ]  # fmt: skip


def wrong_columns(data, rng):
    """A column of trajectories, changed in one of many ways: refused, or converted."""
    name = (
        "agent",
        "step",
        "observation",
        "action",
        "next_observation",
        "reward",
        "terminated",
        "truncated",
        "covariates",
    )[rng.integers(9)]
    column = getattr(data, name)
    with np.errstate(all="ignore"):
        return dataclasses.replace(data, **{name: _odd_array(np.array(column), rng)})
