"""A short digits-bench through real telephone calls: what the public scripts are to find."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loadtests.fdb import layout
from loadtests.fdb.command import Plan, run

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
SUBSETS = ("v1_0/digits_pause_handling", "v1_0/digits_turn_taking", "v1_5/user_interruption")


@pytest.mark.processes
@pytest.mark.skipif(not (DATA / "MANIFEST.tsv").is_file(), reason=f"no {DATA}: digits-bench is made of it")
def test_digits_bench_by_telephone(tmp_path):
    settings = {"model_realtime_priority": "True"}
    plan = Plan(
        None, "sip", "digits", "reader", subsets=SUBSETS, count=1, out=tmp_path / "bench", settings=settings
    )
    result = run(plan, "a test", tmp_path / "results")
    assert (result["calls"], result["answered"]) == (4, 4)
    for sample in layout.find(tmp_path / "bench"):
        if sample.subset not in SUBSETS:
            continue
        for sound, output in sample.sounds:
            played, heard = soundfile.info(sample.folder / sound), soundfile.info(sample.folder / output)
            assert (heard.samplerate, heard.channels) == (16_000, 1)
            assert heard.frames == pytest.approx(played.duration * 16_000, abs=1)
            written = json.loads((sample.folder / output).with_suffix(".json").read_text())
            assert set(written) == {"text", "chunks"}
            for chunk in written["chunks"]:
                start_s, end_s = chunk["timestamp"]
                assert 0 <= start_s < end_s <= played.duration
    found = result["figures"]
    assert found["v1_0/digits_pause_handling"]["tor"] == 0.0
    assert found["v1_0/digits_turn_taking"]["tor"] == 1.0
    assert 0.0 < found["v1_0/digits_turn_taking"]["latency_p50_s"] < 3.0
    answer, rate_hz = soundfile.read(tmp_path / "bench" / "v1_0" / "digits_turn_taking" / "0" / "output.wav")
    (sample,) = layout.find(tmp_path / "bench" / "v1_0" / "digits_turn_taking")
    before = answer[: round(sample.event[0] * rate_hz)]
    assert np.sqrt(np.mean(before**2)) < 0.005, "it is silent until the string is over: both are on one clock"
    with (tmp_path / "results" / "fdb.csv").open(newline="") as rows:
        (row,) = csv.DictReader(rows)
    assert row["figures.v1_0/digits_turn_taking.tor"] == "1.0" and row["answered"] == "4"
    assert Path(result["picture"]).stat().st_size > 10_000
