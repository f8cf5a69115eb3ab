"""Our checkpoints: what is saved comes back, and what is not ours is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from safetensors.torch import save_file  # noqa: E402

from model_server.model import checkpoint  # noqa: E402
from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402

SMALL = replace(DIGITS, name="small", hidden=32, expert_width=24, experts=4, vision_widths=(8, 8, 8))


def made(seed: int) -> Interaction:
    model = Interaction(SMALL)
    model.initialise(seed)
    for layer in model.trunk.layers[SMALL.dense_layers :]:
        layer.mlp.router.balance.copy_(torch.randn(4) * 1e-5)
    return model


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model, head = made(1), torch.nn.Linear(32, 8)
    path = tmp_path / "small.safetensors"
    checkpoint.save(path, SMALL, {"interaction": model, "flow_head": head}, {"steps": 12})
    loaded = checkpoint.load(path)
    assert loaded.config == SMALL and loaded.notes == {"steps": 12}
    other, other_head = made(2), torch.nn.Linear(32, 8)
    loaded.into("interaction", other)
    loaded.into("flow_head", other_head)
    checkpoint.rounded(model)
    for (name, value), (_, back) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert back.dtype == torch.float32 and torch.equal(value, back), name
    assert torch.equal(other_head.weight, head.weight.half().float())


def test_a_checkpoint_of_digits_fits(tmp_path: Path) -> None:
    model = Interaction(DIGITS)
    model.initialise(1)
    checkpoint.save(tmp_path / "digits.safetensors", DIGITS, {"interaction": model})
    assert (tmp_path / "digits.safetensors").stat().st_size < 14e6


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = made(1)
    with torch.no_grad():
        model.unembedding.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="interaction.unembedding.weight"):
        checkpoint.save(tmp_path / "x.safetensors", SMALL, {"interaction": model})


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="expected a safetensors file"):
        checkpoint.load(path)
    path.write_bytes(b"nonsense" * 10)
    with pytest.raises(ValueError, match="expected a safetensors file"):
        checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected 'microturn-1'"):
        checkpoint.load(path)


def test_another_vocabulary_or_shape_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, SMALL, {"interaction": made(1)})
    with pytest.raises(ValueError, match="does not fit this code"):
        checkpoint.load(path).into("interaction", Interaction(replace(SMALL, hidden=64)))
    monkeypatch.setattr(checkpoint, "NAMES", ("other", *checkpoint.NAMES[1:]))
    with pytest.raises(ValueError, match="another vocabulary"):
        checkpoint.load(path)
