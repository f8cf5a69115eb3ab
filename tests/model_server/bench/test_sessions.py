"""The whole command on a CPU with a tiny network, and how it refuses what cannot be measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.bench import sessions  # noqa: E402
from model_server.bench.__main__ import main  # noqa: E402
from model_server.bench.held import Room  # noqa: E402

ON_A_CPU = ("sessions", "--config", "tiny", "--device", "cpu", "--seconds", "0.05")


def test_the_command_from_weights_to_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--tokens", "0", "1", "--buckets", "1", "2", "--groups", "1", "2", "--context", "2"]
    for _ in range(2):
        assert main([*ON_A_CPU, *told, "--deadline-ms", "1e5", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "device cpu: this machine's memory" in said and "graphs none" in said
    result = json.loads(said.splitlines()[-1])
    assert (result["device"], result["graphs"], result["config"]) == ("cpu", "none", "tiny")
    assert [(point["tokens"], point["sessions"]) for point in result["points"]] == [
        (tokens, count) for tokens in (0, 1) for count in (1, 2)
    ]
    for point in result["points"]:
        assert point["steps"] >= sessions.LEAST_STEPS and point["graphs"] is False
        assert 0 < point["roofline_ms"] < point["p50_ms"] <= point["p99_ms"]
    ways = [(of["tokens"], of["groups"], of["with_graphs"]) for of in result["held"]]
    assert ways == [(tokens, groups, None) for tokens in (0, 1) for groups in (1, 2)]
    assert result["copy_gb_s"] > 0 and result["tflop_s"] > 0 and result["sessions_fit"] > 100
    with (tmp_path / "sessions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert (tmp_path / "sessions-tiny-cpu.png").stat().st_size > 1000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_it_refuses_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sessions", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"sessions: no CUDA device here (torch {torch.__version__}): expected a GPU")
    assert "small-30b-a3b" in said.err and "--config tiny --device cpu" in said.err
    assert said.err.count("\n") == 1 and said.out == "" and list(tmp_path.iterdir()) == []


def test_a_device_without_room_for_the_weights_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Room] = []

    def room(*asked: object) -> Room:
        real = measured(*asked)  # type: ignore[arg-type]
        found.append(Room("A small one", 10**7, 10**7, real.weights, real.session))
        return found[0]

    measured = sessions._room
    monkeypatch.setattr(sessions, "_room", room)
    assert main(["sessions", "--config", "small-30b-a3b", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "A small one has 0.0 GB" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert 120e9 < found[0].weights < 122e9 and 1.1e9 < found[0].session < 1.3e9, "in float32"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--config", "huge"], "configuration = 'huge'"),
        (["--tokens", "9"], "--tokens 9: expected at most 3, what tiny writes in a turn"),
        (["--seconds", "0"], "expected seconds and a deadline above 0"),
        (["--buckets", "0"], "buckets and flow steps of 1"),
    ],
)
def test_what_cannot_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: list[str], said: str
) -> None:
    assert main([*ON_A_CPU, *told, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
