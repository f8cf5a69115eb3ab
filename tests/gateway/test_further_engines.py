"""Further engines: what an operator may write, where each is met, and what `microturn up` starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import GatewaySettings, load
from gateway.rules import Inbound
from gateway.up import model_flags, start_models

FILE = """
engine = "echo"
persona = "count"
slots = 32
run_dir = "/tmp/microturn-of-a-test"

[engines.lab]
socket = "/run/lab/model.sock"

[engines.second]
engine = "echo"
persona = "interpret"
slots = 7
spare = true

[engines.open]
engine = "moshi"
weights = "/weights"

[[rules]]
called = "100"
engine = "second"

[[rules]]
called = "101"
engine = "second"
persona = "every 5"

[[rules]]
called = "102"
engine = "lab"
"""
RUN_DIR = Path("/tmp/microturn-of-a-test")


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(f"MICROTURN_{name.upper()}", raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    (tmp_path / "microturn.toml").write_text(FILE)
    return load()


def test_each_is_met_at_a_path_of_its_own(settings: GatewaySettings) -> None:
    assert settings.engine_sockets(settings.model_socket) == {
        "": RUN_DIR / "model.sock",
        "lab": Path("/run/lab/model.sock"),
        "second": RUN_DIR / "model-second.sock",
        "open": RUN_DIR / "model-open.sock",
    }
    assert set(settings.further_sockets) == {"lab", "second", "open"}


def test_rules_choose_and_an_engine_brings_its_persona(settings: GatewaySettings) -> None:
    found = [settings.make_rules().find(Inbound(called)) for called in ("100", "101", "102", "7")]
    assert [(ruling.engine, ruling.persona) for ruling in found if ruling is not None] == [
        ("second", "interpret"), ("second", "every 5"), ("lab", ""), ("", ""),
    ]  # fmt: skip


def test_the_command_route_shows_it(settings: GatewaySettings) -> None:
    shown = CliRunner().invoke(app, ["route", "100"]).output
    assert shown.startswith("rule: rules[1]  persona: interpret  engine: second  tenant: -")
    assert "engine: (the usual one)" in CliRunner().invoke(app, ["route", "7"]).output


def test_up_starts_those_that_are_its_own(settings: GatewaySettings) -> None:
    models = start_models(settings)
    assert list(models) == ["", "second", "open"], "lab is somebody else's"
    assert [models[name].servers.path for name in models] == [
        RUN_DIR / "model.sock", RUN_DIR / "model-second.sock", RUN_DIR / "model-open.sock"
    ]  # fmt: skip
    assert [models[name].serving.name for name in models] == [
        "model-server", "model-server-second", "model-server-open"
    ]  # fmt: skip


def test_each_gets_what_is_its_own(settings: GatewaySettings) -> None:
    def flags(name: str) -> list[str]:
        shown = ("--engine", "--persona", "--weights", "--slots", "--socket")
        return [flag for flag in model_flags(settings, name) if flag.startswith(shown)]

    assert flags("") == ["--engine=echo", "--persona=count", f"--socket={RUN_DIR}/model.sock", "--slots=32"]
    assert flags("second") == [
        "--engine=echo", "--persona=interpret", f"--socket={RUN_DIR}/model-second.sock", "--slots=7"
    ]  # fmt: skip
    assert flags("open") == [  # what its device has memory for
        "--engine=moshi", "--weights=/weights", f"--socket={RUN_DIR}/model-open.sock"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"engines": {"A b": {"engine": "echo"}}}, "engines has 'A b': a name has 1 to 32 small letters"),
        ({"engines": {"a": {}}}, "engines.a: expected engine (what `microturn up` starts"),
        ({"engines": {"a": {"engine": "echo", "socket": "/s"}}}, "or socket"),
        ({"engines": {"a": {"engine": "magic"}}}, "engines.a.engine = 'magic'"),
        ({"engines": {"a": {"socket": "model.sock"}}}, "engines.a: socket = 'model.sock': expected an absolute"),
        ({"engines": {"a": {"socket": "/s", "slots": 3}}}, "engines.a: slots with socket: whoever runs"),
        ({"engines": {"a": {"engine": "moshi"}}}, "engines.a: weights = '' with engine = 'moshi'"),
        ({"engines": {"a": {"engine": "echo", "weights": "w"}}}, "moshi needs its weights, and nothing else"),
        ({"engines": {"a": {"engine": "echo", "checkpoint": "c"}}}, "only digits and sglang have one"),
        ({"engines": {"a": {"engine": "echo", "ranks": 2}}}, "only digits is cut over processes"),
        ({"engines": {"a": {"socket": "/s"}, "b": {"socket": "/s"}}}, "engines.b: engines.a has the same"),
        ({"engines": {"a": {"socket": f"/{'s' * 110}"}}}, "has more than 102 bytes"),
        ({"engines": {f"e{n}": {"engine": "echo"} for n in range(9)}}, "engines has 9 entries: 8 at most"),
        ({"engines": {"a": {"engine": "echo", "persona": "x" * 300}}}, "engines.a: persona"),
        (
            {"engines": {"a": {"engine": "echo"}, "b": {"engine": "echo"}}, "rules": [{"engine": "c"}]},
            "rules[1]: engine = 'c' is not among the engines (a, b): add [engines.c], or leave it out",
        ),
        ({"rules": [{"engine": "c"}]}, "is not among the engines (none beside the usual one)"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_stops_the_start(chosen: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError) as wrong:
        load(**chosen)
    assert told in str(wrong.value)
