"""The engine on a device, which is a CPU here, says what `digits` says, whatever becomes of its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from media.chunk import PCM, Flags, VideoFrame  # noqa: E402
from media.timebase import TURN_SAMPLES  # noqa: E402
from model_server.batch import Batch, Results  # noqa: E402
from model_server.calibration import calibrate  # noqa: E402
from model_server.engine.device import DeviceEngine, buckets_for, contexts_for  # noqa: E402
from model_server.engine.digits import DigitsEngine  # noqa: E402
from model_server.engine.registry import CHECKPOINT, make_engine  # noqa: E402
from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.device.chosen import check_fits, device_of, dtype_of_weights  # noqa: E402
from model_server.model.dmel import levels_of  # noqa: E402
from model_server.model.micro_turn import TEXT_LIMIT  # noqa: E402
from model_server.training import cases  # noqa: E402
from model_server.training.rehearsal import Heard, rehearse  # noqa: E402
from tests.model_server.engine.conftest import batch_of, chunk_of, voice  # noqa: E402

CPU = torch.device("cpu")
DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
CALLS = 8
UNHEARD = 0
"""Samples of ours that were played: rounding would come back through our own voice, a level of it moved."""
LSB = 4
"""Of a sample: two ways to round, in weights that are trained anew now and then."""
MOVED_BY_MORE_THAN_ONE = 0.01
"""Of all dMel levels of replies that are heard again: see `test_products.py`."""


def on_cpu(checkpoint: Path, **told: Any) -> DeviceEngine:
    return DeviceEngine(checkpoint, device=CPU, **({"calls": CALLS} | told))


class Both:
    """The same calls on `digits` and on the device; what differs is an error."""

    def __init__(self, checkpoint: Path, calls: int = CALLS, **told: Any) -> None:
        self.plain = DigitsEngine(checkpoint, products=torch.float32, **told)
        self.device = on_cpu(checkpoint, calls=calls, **told)
        self.texts: list[str] = []
        self.peak = 0

    def do(self, call: Callable[[Any], object]) -> None:
        for engine in (self.plain, self.device):
            call(engine)

    def step(self, batch: Batch) -> Results:
        wanted, found = (engine.step(batch) for engine in (self.plain, self.device))
        assert found.said == wanted.said
        assert found.positions == wanted.positions
        worst = np.abs(found.pcm_BS.astype(np.int32) - wanted.pcm_BS).max(initial=0)
        assert worst <= LSB, worst
        assert self.device.check() == []
        self.texts += [said.text for said in wanted.said.values() if said.text]
        self.peak = max(self.peak, int(np.abs(wanted.pcm_BS.astype(np.int32)).max(initial=0)))
        return found

    def turn(self, turn: int, slots: Sequence[int], **more: Any) -> Results:
        """A turn of these calls, each of its own noise."""
        pcm = {slot: noise_of(slot, turn) for slot in slots}
        return self.step(batch_of(dict.fromkeys(slots, turn), pcm, played=UNHEARD, **more))

    @property
    def said_something(self) -> bool:
        return len(self.texts) > 3 and self.peak > 1000


def noise_of(slot: int, turn: int) -> PCM:
    return voice(100 * slot + turn, 2)[1]


@pytest.fixture
def both(checkpoint: Path) -> Both:
    return Both(checkpoint)


def test_calls_that_come_and_go_are_answered_as_by_digits(both: Both) -> None:
    live: list[int] = []
    coming = {0: [5, 2], 4: [7], 9: [0, 1, 3], 14: [2, 5]}
    going = {7: [2], 11: [5, 0], 18: [7]}
    for turn in range(24):
        for slot in going.get(turn, ()):
            both.do(lambda engine, slot=slot: engine.close(slot))
            live.remove(slot)
        for slot in coming.get(turn, ()):
            persona = ("", "count", "interpret")[slot % 3]
            both.do(lambda engine, slot=slot, persona=persona: engine.open(slot, persona))
            live.append(slot)
        waiting = live[:1] if turn % 5 == 3 and len(live) > 1 else []
        both.turn(turn, [slot for slot in live if slot not in waiting], missing=waiting)
    assert both.said_something


def test_late_turns_and_those_that_never_came_are_appended_as_by_digits(both: Both) -> None:
    for slot in (0, 1, 2):
        both.do(lambda engine, slot=slot: engine.open(slot, ""))
    for turn in range(4):
        both.turn(turn, [0, 1, 2])
    both.turn(4, [1], missing=[0, 2])
    both.turn(5, [1], missing=[0, 2])
    late = {0: [chunk_of(4, noise_of(0, 4)), chunk_of(5, noise_of(0, 5), text="result 1 2")]}
    results = both.turn(6, [0, 1], earlier=late)
    assert results.pcm_BS.shape[0] == 2 and results.passes >= 3, "two late turns, and this one"
    both.turn(9, [0, 1, 2])  # 2 missed five turns, the others two
    both.turn(1000, [0, 1, 2])
    both.step(batch_of({}, {}, earlier={2: [chunk_of(1001, noise_of(2, 1001))]}))
    both.turn(1002, [0, 1, 2])
    assert both.said_something


def test_typed_personas_text_and_pictures_are_read_as_by_digits(both: Both) -> None:
    rng = np.random.default_rng(0)
    both.do(lambda engine: engine.open(3, "count"))
    both.do(lambda engine: engine.open(4, "interpret"))
    assert both.device.pictures(3) == both.plain.pictures(3) == 1
    typed = {2: "5", 5: "persona interpret", 8: "persona nonsense", 10: "persona count", 12: "result 4 7 1"}
    for turn in range(16):
        frame = VideoFrame(turn * 10**8, rng.integers(0, 256, (240, 320, 3), np.uint8))
        chunks = {
            slot: chunk_of(
                turn, noise_of(slot, turn), text=typed.get(turn, "") if slot == 3 else "", video=(frame,)
            )
            for slot in (3, 4)
        }
        both.turn(turn, [3, 4], chunks=chunks)
    assert any(text.startswith("[persona = 'nonsense'") for text in both.texts)
    assert both.said_something


def test_a_call_is_compacted_as_by_digits(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.engine.digits.LOUD_END", 1e9)  # this network sounds all the time
    both, furthest = Both(checkpoint, compact_after=120), [0]
    both.do(lambda engine: engine.open(0, ""))
    for turn in range(40):
        both.turn(turn, [0])
        furthest.append(both.device._position(0))
    assert furthest[-1] < max(furthest) and max(furthest) >= 100, "it began anew"


def test_a_call_is_rebuilt_from_its_log_on_either_and_goes_on(checkpoint: Path) -> None:
    """The one before it was on a device, its heir is on another, and both are as `digits` is."""
    died = 12
    lived, heir = Both(checkpoint), Both(checkpoint)
    for both in (lived, heir):
        both.do(lambda engine: engine.open(0, "count"))
    for turn in range(died):
        lived.turn(turn, [0])
    for turn in range(died):
        logged = replace(chunk_of(turn, noise_of(0, turn), flags=Flags.ANSWERED), played_samples=UNHEARD)
        heir.step(batch_of({}, {}, earlier={0: [logged]}))
    for turn in range(died, died + 10):
        batch = batch_of({0: turn}, {0: noise_of(0, turn)}, played=UNHEARD)
        one, other = lived.device.step(batch), heir.device.step(batch)
        assert one.said == other.said and one.positions == other.positions
        assert np.abs(one.pcm_BS.astype(np.int32) - other.pcm_BS).max() <= LSB
    assert lived.said_something


def test_more_calls_than_the_largest_bucket_go_in_several_passes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_server.engine.device.BUCKETS", (1, 2))
    both = Both(checkpoint)
    assert both.device.network.buckets == (1, 2)
    for slot in range(5):
        both.do(lambda engine, slot=slot: engine.open(slot, ""))
    for turn in range(6):
        assert both.turn(turn, range(5)).passes >= 3
    assert both.said_something


def test_what_is_not_whole_is_found(checkpoint: Path) -> None:
    engine = on_cpu(checkpoint)
    for layer in engine.network.state.layers:  # what was never written may be anything
        for part in (layer.pages.keys, layer.pages.values):
            part.fill_(float("nan"))
    for slot in (4, 6):
        engine.open(slot, "")
    for turn in range(3):
        engine.step(batch_of({4: turn, 6: turn}, {4: noise_of(4, turn), 6: noise_of(6, turn)}))
    assert engine.check() == []
    state = engine.network.state
    page = int(state.tables[state.config.is_global(1)][6, 0])
    with torch.inference_mode():
        state.layers[1].pages.values[page, 0, 0, 0] = float("nan")
        state.positions[4] -= 1
    count = engine._positions[4]
    assert engine.check() == [
        f"slot 4: {count - 1} positions on the device, {count} were appended",
        "slot 6: layer 1 keeps what is not a number",
    ]
    engine.network.open(0)
    assert "slot 0: a row without a call" in engine.check()


def test_calls_cost_what_is_said_and_no_more_later(checkpoint: Path) -> None:
    engine = on_cpu(checkpoint)
    state = engine.network.state
    pages = sum(p.nbytes for layer in state.layers for p in (layer.pages.keys, layer.pages.values))
    rows = sum(kept[0].nbytes for layer in state.layers for kept in layer.convolutions())
    assert engine.kept_bytes_a_call == pages // CALLS + rows + engine.network.voice_bytes > 10_000
    assert engine.gauges == {"graphs_captured": 0}
    assert engine.most_positions == DigitsEngine(checkpoint).most_positions


def test_for_measuring_calls_are_made_alike_and_old(both: Both) -> None:
    for slot in (1, 4, 6):
        both.do(lambda engine, slot=slot: engine.open(slot, ""))
    for turn in range(40):
        both.turn(turn, [1, 4, 6] if turn < 3 else [4])
    engine = both.device
    before = engine._position(4)
    both.do(lambda engine: engine.age(4, 10_000))
    assert engine._position(4) >= before + 10_000
    for turn in range(40, 44):
        both.turn(turn, [4])
    engine.repeat(4)
    assert [engine._position(slot) for slot in (1, 4, 6)] == [engine._position(4)] * 3
    engine.step(batch_of({slot: 44 for slot in (1, 4, 6)}, {slot: noise_of(slot, 44) for slot in (1, 4, 6)}))
    assert engine.check() == [] and both.said_something


def test_steps_are_measured_before_calls_come_and_nothing_is_left_of_it(checkpoint: Path) -> None:
    engine = on_cpu(checkpoint, calls=1)
    assert calibrate(engine, 1, 1).predict_ns(1) > 0
    assert engine.network.state.open_rows == [] and engine.check() == []


@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no trained checkpoint in the tree")
def test_weights_are_in_the_dtype_that_is_asked_for_but_for_balances() -> None:
    engine, plain = on_cpu(CHECKPOINT, products=torch.bfloat16), on_cpu(CHECKPOINT)
    assert {value.dtype for value in engine._model.parameters()} == {torch.bfloat16}
    balances = [dict(each._model.named_buffers()) for each in (engine, plain)]
    assert len(balances[0]) == 2 and all("balance" in name for name in balances[0])
    assert all(torch.equal(balances[0][name], kept) for name, kept in balances[1].items())
    engine.warm(2)
    engine.open(0, "")
    for turn in range(3):
        engine.step(batch_of({0: turn}, {0: noise_of(0, turn)}))
    assert engine.check() == []
    assert dtype_of_weights(CPU, None) is torch.float32


def test_there_is_room_for_all_that_a_turn_may_bring() -> None:
    assert contexts_for(DIGITS) == (0, 8, 24, 56, 6 + TEXT_LIMIT)
    assert buckets_for(1) == (1,) and buckets_for(5) == (1, 2, 4, 8) and buckets_for(4096)[-1] == 128


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"name": "echo"}, "device = 'cuda:99' with engine = 'echo': only digits .* take --engine digits"),
        ({"name": "moshi"}, "device = 'cuda:99' with engine = 'moshi': only digits"),
        ({"ranks": 2}, "device = 'cuda:99' with ranks = 2: .* set device to cuda, or ranks to 1"),
        ({"ranks": 99, "device": "cuda"}, "device = 'cuda:[0-9]+': found .*; expected .*"),
        (
            {},
            r"device = 'cuda:99': found (no|\d+) CUDA devices? \(torch .*\); expected .*, or take --device cpu",
        ),
        ({"checkpoint": Path("none")}, "no checkpoint none; train one"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(checkpoint: Path, told: Any, message: str) -> None:
    pytest.importorskip("triton", reason="kernels need the extra: pip install 'microturn[kernels]'")
    given = {"name": "digits", "checkpoint": checkpoint, "device": "cuda:99"} | told
    with pytest.raises(ValueError, match=message):
        make_engine(**given)


def test_a_device_without_room_says_how_many_calls_there_is_room_for() -> None:
    check_fits("device = 'cuda:0': one", 3e9, 1_000_000_000, 20, 100_000_000)
    with pytest.raises(
        ValueError, match=r"^device = 'cuda:0': one has 3.00 GB for us; expected 3.10 GB: weights of "
    ):
        check_fits("device = 'cuda:0': one", 3e9, 1_000_000_000, 21, 100_000_000)
    with pytest.raises(ValueError, match="21 slots of 100.00 MB; set --slots to 20 or fewer"):
        check_fits("", 3e9, 1_000_000_000, 21, 100_000_000)
    with pytest.raises(ValueError, match="take a smaller checkpoint, or --device cpu"):
        check_fits("", 3e9, 4_000_000_000, 1, 100_000_000)


# -- the shipped network


def conversations() -> list[cases.Case]:
    if not CHECKPOINT.is_file():
        pytest.skip("no trained checkpoint in the tree")
    if not DATA.is_dir():
        pytest.skip("recordings of callers are not here (../shared/data)")
    return cases.of(("interpret", "every"), 1, DATA)


def assert_same_words(found: Sequence[Heard], wanted: Sequence[Heard]) -> None:
    assert [(one.captions, one.actions) for one in found] == [(one.captions, one.actions) for one in wanted]
    assert all(one.captions for one in wanted)


def test_the_shipped_network_says_in_whole_conversations_what_it_says_on_a_cpu() -> None:
    chosen = conversations()
    wanted = list(rehearse(DigitsEngine(CHECKPOINT, products=torch.float32), chosen))
    found = list(rehearse(on_cpu(CHECKPOINT, calls=2), chosen))
    assert_same_words(found, wanted)
    moved = [
        np.abs(levels_of(a.pcm).astype(int) - levels_of(b.pcm)) for a, b in zip(found, wanted, strict=True)
    ]
    assert (np.concatenate([each.ravel() for each in moved]) > 1).mean() < MOVED_BY_MORE_THAN_ONE


def test_the_shipped_network_sounds_the_same_while_it_does_not_hear_itself() -> None:
    """Silent turns lie before and between its words, and leave its voice as it is."""
    (case, *_) = conversations()
    both = Both(CHECKPOINT, calls=1)
    both.do(lambda engine: engine.open(0, case.persona))
    pcm = case.caller.reshape(-1, TURN_SAMPLES)
    silent = [
        not both.step(batch_of({0: turn}, {0: pcm[turn]}, played=UNHEARD)).pcm_BS.any() for turn in range(30)
    ]
    assert both.said_something and sum(silent) > 3 and silent.index(False) > 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_says_what_it_says_on_a_cpu() -> None:
    chosen = conversations()
    device = device_of("cuda")
    halved = DeviceEngine(CHECKPOINT, device=device, calls=2)
    assert halved._model.unembedding.weight.dtype is torch.bfloat16
    halved.warm(2)
    assert halved.gauges["graphs_captured"] == 2 * (5 + 2)
    assert all(heard.captions for heard in rehearse(halved, chosen)) and halved.check() == []
    exact = DeviceEngine(CHECKPOINT, device=device, calls=2, products=torch.float32)
    exact.warm(2)
    wanted = list(rehearse(DigitsEngine(CHECKPOINT, products=torch.float32), chosen))
    assert_same_words(list(rehearse(exact, chosen)), wanted)
    assert exact.check() == []
