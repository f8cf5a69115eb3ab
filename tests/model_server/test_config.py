from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from model_server.__main__ import main
from model_server.config import load


def test_defaults(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    config = load()
    assert config.socket == Path("/run/user/7/microturn/model.sock")
    assert (config.slots, config.rows, config.video, config.groups, config.engine) == (256, 4, 4, 4, "echo")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert load().socket.parts[1] == "tmp"


def test_arguments_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("MICROTURN_MODEL_SLOTS", "10")
    monkeypatch.setenv("MICROTURN_MODEL_ROWS", "8")
    config = load(slots="12")
    assert (config.slots, config.rows) == (12, 8)


def test_a_video_size_is_width_and_height(monkeypatch):
    assert load().video_pixels == (320, 240)
    monkeypatch.setenv("MICROTURN_MODEL_VIDEO_SIZE", "448x336")
    assert load().video_pixels == (448, 336)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_a_device_is_named_as_torch_does(monkeypatch, device):
    assert load().device == "cpu"
    monkeypatch.setenv("MICROTURN_MODEL_DEVICE", device)
    assert load().device == device


def test_it_is_frozen():
    with pytest.raises(ValidationError):
        load().slots = 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"slots": 0}, r"slots = 0: expected a number from 1 to 4096; set MICROTURN_MODEL_SLOTS"),
        ({"rows": "many"}, "rows = 'many': expected"),
        ({"groups": 11}, "groups = 11: expected a number from 1 to 10"),
        ({"video_size": "320"}, "video_size = '320': expected WIDTHxHEIGHT with sides from 16 to 1920"),
        ({"video_size": "320x2000"}, "set MICROTURN_MODEL_VIDEO_SIZE or --video-size"),
        (
            {"engine": "torch"},
            r"engine = 'torch': expected echo or digits or sglang or moshi \(not built yet\)",
        ),
        ({"socket": "/" + "x" * 107}, "at most 107 bytes; choose a shorter one"),
        ({"sockets": "/x"}, "sockets = '/x'"),
        (
            {"device": "gpu"},
            "device = 'gpu': expected cpu, cuda or cuda:N, N from 0; set MICROTURN_MODEL_DEVICE",
        ),
        ({"device": "cuda:"}, "device = 'cuda:': expected cpu, cuda or cuda:N"),
    ],
)
def test_a_wrong_value_names_itself_and_what_is_expected(given, told):
    with pytest.raises(ValueError, match=told):
        load(**given)


def test_a_misspelt_variable_stops_the_start(monkeypatch, capsys):
    monkeypatch.setenv("MICROTURN_MODEL_SLOT", "3")
    assert main(["--rows", "1"]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert "MICROTURN_MODEL_SLOT: no such setting" in told.err and "rows = '1'" in told.err
