"""What is said where weights, memory or the package are missing: before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_server.config import load
from model_server.engine import registry
from model_server.engine.moshi import weights
from model_server.engine.moshi.weights import MOSHI_7B, Device, check_fits, find, fitting, most_calls

GB = 1_000_000_000
H100 = Device("an H100", 80 * GB, 80 * GB, is_gpu=True)


def folder_of(folder: Path, sizes: tuple[int, int] = (15_400_000_000, 385_000_000), **config: object) -> Path:
    """Files that are as long as Moshi's, and empty; config.json where there is something to say."""
    names = (weights.LM_NAME, weights.MIMI_NAME, weights.TOKENIZER_NAME)
    for name, size in zip(names, (*sizes, 550_000), strict=True):
        with open(folder / name, "wb") as file:
            file.truncate(size)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_no_weights_says_which_there_are_how_large_and_under_what_licence() -> None:
    with pytest.raises(ValueError) as wrong:
        find("")
    for told in (
        "--weights",
        "kyutai/moshiko",
        "nvidia/personaplex",
        "16 GB",
        "CC-BY 4.0",
        "NVIDIA Open Model",
        "24 GB",
    ):
        assert told in str(wrong.value)


@pytest.mark.parametrize("given", ("/nowhere/at/all", "./here", "justaname", "a/b/c"))
def test_what_is_neither_folder_nor_repository_is_named(given: str) -> None:
    with pytest.raises(
        ValueError, match=f"weights = '{given}': no such folder; expected one, or a repository"
    ):
        find(given)


def test_a_folder_that_is_not_whole_says_what_it_lacks(tmp_path: Path) -> None:
    (folder_of(tmp_path) / weights.MIMI_NAME).unlink()
    with pytest.raises(ValueError, match=f"no {weights.MIMI_NAME} .codec.; download the whole repository"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    "config, told",
    (
        ({"model_type": "hibiki"}, "model_type = 'hibiki'; expected moshi or personaplex"),
        ({"lora_name": "lora.safetensors"}, "expected weights into which it is merged"),
        ({"conditioners": {"description": {}}}, "expected a dialogue model without"),
    ),
)
def test_models_of_another_kind_are_refused(tmp_path: Path, config: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        find(str(folder_of(tmp_path, **config)))


def test_a_torn_config_is_named(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "config.json").write_text('{"dim":')
    with pytest.raises(ValueError, match="config.json: .*; download it again"):
        find(str(tmp_path))


def test_memory_of_the_published_size(tmp_path: Path) -> None:
    """32 layers, 3,000 positions, 4,096 wide, keys and values in bfloat16; the codec beside it."""
    found = find(str(folder_of(tmp_path)))
    assert found.kind == "moshi" and found.context == 3000 and found.lm_config == dict(MOSHI_7B)
    each = found.bytes_a_call(2)
    assert each == 2 * 32 * 3000 * 4096 * 2 + 2 * 2 * 8 * 250 * 512 * 4 + weights.CONVOLUTIONS_BYTES
    assert fitting(found, H100, 2) == int((80 * GB * 0.92 - 15_785_000_000) // each) == 36
    assert fitting(found, Device("small", 16 * GB, 16 * GB, True), 2) == 0
    assert most_calls(found, H100, "auto") == 36 and most_calls(found, H100, "float32") == 13
    huge = Device("two of them", 400 * GB, 400 * GB, True)
    assert most_calls(found, huge, "auto") == weights.MOST_CALLS


def test_a_config_of_its_own_is_taken_as_it_is(tmp_path: Path) -> None:
    found = find(
        str(folder_of(tmp_path, dim=64, num_layers=2, context=10, kv_repeat=2, lm_gen_config={"temp": 0.5}))
    )
    assert "depformer_dim" not in found.lm_config and found.generation == {"temp": 0.5}
    rings = found.bytes_a_call(4) - 2 * 2 * 8 * 250 * 512 * 4 - weights.CONVOLUTIONS_BYTES
    assert rings == 2 * 2 * 10 * 32 * 4


def test_more_calls_than_there_is_memory_for_are_refused_with_what_fits(tmp_path: Path) -> None:
    found = find(str(folder_of(tmp_path)))
    check_fits(found, H100, 2, 36)
    with pytest.raises(ValueError, match=r"slots = 37: the weights take 15.8 GB .* at most 36: .*--slots 36"):
        check_fits(found, H100, 2, 37)
    with pytest.raises(ValueError, match="expected a device with more memory"):
        check_fits(found, Device("small", 16 * GB, 15 * GB, True), 2, 1)


def test_where_nothing_is_said_all_calls_are_one_group_and_as_many_as_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "missing_packages", list)
    monkeypatch.setattr(weights, "device", lambda: H100)
    given = {"engine": "moshi", "weights": str(folder_of(tmp_path))}
    assert (load(**given).groups, load(**given).slots) == (1, 36)
    told = load(**given, groups=2, slots=5)
    assert (told.groups, told.slots) == (2, 5)
    assert (load(engine="echo").groups, load(engine="echo").slots) == (4, 256)


def test_a_persona_is_looked_at_by_the_engine_that_has_them() -> None:
    assert load(engine="moshi", persona="You are Ada.", slots=1).persona == "You are Ada."
    with pytest.raises(ValueError, match="persona = 'You are Ada.'"):
        load(engine="digits", persona="You are Ada.")


def test_without_the_package_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "missing_packages", lambda: ["moshi"])
    with pytest.raises(ValueError, match="engine = 'moshi': moshi not installed; .*make setup-moshi"):
        registry.make_engine("moshi", weights="somewhere")
    with pytest.raises(ValueError, match="make setup-moshi"):
        load(engine="moshi", weights="somewhere")
    with pytest.raises(ValueError, match="ranks = 2: engine = 'moshi' runs on one device"):
        registry.make_engine("moshi", ranks=2)


def test_what_doctor_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_server.engine.moshi import __main__ as looking

    monkeypatch.setattr(weights, "missing_packages", list)
    monkeypatch.setattr(weights, "device", lambda: H100)
    monkeypatch.setattr(looking.importlib.metadata, "version", lambda name: looking.VERSION)
    folder = str(folder_of(tmp_path))
    told = looking.look(folder, "auto", None)
    assert told["can_start"] and told["good"] and told["found"].endswith(": 36 calls fit")
    assert "15.8 GB" in told["found"] and "1.6 GB a call for the newest 240 s" in told["found"]
    assert not looking.look(folder, "auto", 37)["can_start"]
    monkeypatch.setattr(looking.importlib.metadata, "version", lambda name: "0.3.0")
    monkeypatch.setattr(weights, "device", lambda: Device("no GPU", 80 * GB, 80 * GB, is_gpu=False))
    slow = looking.look(folder, "auto", 1)
    assert slow["can_start"] and not slow["good"]
    assert "moshi 0.3.0" in slow["advice"] and "without a GPU" in slow["advice"]


def test_voices_that_are_still_packed_make_it_personaplex(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "voices.tgz").touch()
    assert find(str(tmp_path)).kind == "personaplex"
