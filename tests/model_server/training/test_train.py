"""A run: what its plan says, and that it goes on as if it had never stopped."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra: pip install 'microturn[torch]'")

from model_server.model import checkpoint, config  # noqa: E402
from model_server.model.config import config_of  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402
from model_server.training.bank import WordBank  # noqa: E402
from model_server.training.batches import Source  # noqa: E402
from model_server.training.conversation import Surroundings  # noqa: E402
from model_server.training.mouth import VoiceTable  # noqa: E402
from model_server.training.train import Material, Plan, Run, Stopped, main, train  # noqa: E402
from tests.model_server.training.scenes import SMALL, voice_of  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A configuration `small`; the handler of SIGTERM is put back."""
    monkeypatch.setitem(config.CONFIGS, "small", SMALL)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def material(bank: WordBank, table: VoiceTable) -> Material:
    source = Source(bank, table, Surroundings(), SMALL)
    return Material(voice_of(table), source, source)


def plan_of(steps: int) -> Plan:
    return Plan(
        config="small", steps=steps, batch=1, turns=24, hearing=3, warm_up=2, cool_down=1,
        validate_every=4, validate_batches=1,
    )  # fmt: skip


def test_the_rate_rises_stays_and_falls() -> None:
    plan = Plan(rate=0.1, warm_up=10, cool_down=20, steps=100)
    rates = [plan.rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * step for step in range(1, 11)])
    assert rates[10:81] == pytest.approx([0.1] * 71)
    assert rates[80:] == pytest.approx([0.005 * left for left in range(20, 0, -1)])


def test_every_lesson_has_as_many_turns_a_batch() -> None:
    plan = Plan(batch=4, turns=96, hearing=10)
    assert [plan.conversations(plan.lesson(batch)) for batch in (0, 9, 10)] == [8, 8, 4]


def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="--warm-up 0: expected more than 0"):
        Plan(warm_up=0)
    assert main(["--config", "digit"]) == 2 and "'digit'" in capsys.readouterr().err


def test_a_run_goes_on_as_if_it_had_not_stopped(material: Material, tmp_path: Path) -> None:
    through = train(plan_of(4), tmp_path / "through", 600, material)
    train(plan_of(2), tmp_path / "broken", 600, material)
    broken = train(plan_of(4), tmp_path / "broken", 600, material)
    assert through.step == broken.step == 4
    for name, value in through.learner.state_dict().items():
        assert value.equal(broken.learner.state_dict()[name]), name
    for name, value in through.shipped.state_dict().items():
        assert value.equal(broken.shipped.state_dict()[name]), name
    logs = [_log(tmp_path / name / "log.csv") for name in ("through", "broken")]
    assert [row["step"] for row in logs[0]] == ["4"]
    for row, again in zip(*logs, strict=True):
        assert {**row, "seconds": "", "rate": ""} == {**again, "seconds": "", "rate": ""}
        assert row["heard_right"] and row["validation_tokens"]


def test_what_is_shipped_is_the_average(material: Material, tmp_path: Path) -> None:
    run = train(plan_of(2), tmp_path, 600, material)
    loaded = checkpoint.load(tmp_path / "small.safetensors")
    model = Interaction(loaded.config)
    loaded.into("interaction", model)
    assert loaded.config == config_of("small") and loaded.notes == {"seed": 1, "steps": 2}
    weight = run.shipped.interaction.unembedding.weight
    assert model.unembedding.weight.equal(weight.half().float())
    assert not weight.equal(run.learner.interaction.unembedding.weight)
    assert (tmp_path / "curves.png").exists()


def test_another_runs_folder_is_refused(material: Material, tmp_path: Path) -> None:
    Run(plan_of(2), material.voice, tmp_path).save()
    Run(replace(plan_of(9), cool_down=3), material.voice, tmp_path).go_on()
    with pytest.raises(ValueError, match="is of a run with {'seed': 1}: give the same, or another --folder"):
        Run(replace(plan_of(2), seed=2), material.voice, tmp_path).go_on()


def test_it_ends_when_it_is_told_to_or_time_is_up(material: Material, tmp_path: Path) -> None:
    stopped = Stopped()
    assert not stopped
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopped
    assert train(plan_of(50), tmp_path, 1e-9, material).step == 0
    assert (tmp_path / "state.pt").exists()


def _log(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
