"""The towers of sound and pictures against transformers', with the same weights; patches against its cutting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS, INTERACTION_276B_A12B  # noqa: E402
from model_server.model.patches import MEAN, STD, STILL, patch_count, patches_of  # noqa: E402
from model_server.model.towers import Ears, PatchTower, fold  # noqa: E402
from tests.model_server.model.family import Family  # noqa: E402


def test_the_sound_tower_equals_the_family(family: Family) -> None:
    _, levels, _ = family.sequence(turns=20, seed=6)
    with torch.no_grad():
        theirs = family.theirs.model.audio_tower(levels[None]).last_hidden_state[0]
        ours = family.ours.ears.caller(levels.to(torch.uint8))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(family.ours.ears.caller(levels.flip(1)), theirs, atol=1e-2)


def test_the_patch_tower_equals_the_family(family: Family) -> None:
    _, _, patches = family.sequence(turns=20, seed=7)
    with torch.no_grad():
        theirs = family.theirs.model.vision_tower(patches).last_hidden_state[:, 0]
        ours = family.ours.eyes(patches)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    swapped = family.ours.eyes(patches.transpose(2, 3))  # rows for columns
    assert not torch.allclose(swapped, theirs, atol=1e-2)


def test_folding_keeps_time_row_column_colour_in_this_order() -> None:
    x = torch.arange(2 * 4 * 4 * 3).view(1, 2, 4, 4, 3)
    folded = fold(x, 2, 2)
    assert folded.shape == (1, 1, 2, 2, 24)
    assert torch.equal(folded[0, 0, 1, 0], x[0, :, 2:4, 0:2].flatten())


def test_ears_tell_the_caller_from_ourselves_and_truth_from_guess() -> None:
    ears = Ears(DIGITS)
    generator = torch.Generator().manual_seed(3)
    for parameter in ears.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    a, b = torch.randint(0, 16, (2, 5, 80), generator=generator)
    rows = {
        "caller a": ears(a, b, torch.zeros(5, dtype=torch.uint8)),
        "caller b": ears(b, a, torch.zeros(5, dtype=torch.uint8)),
        "made up": ears(a, b, torch.full((5,), 3, dtype=torch.uint8)),
    }
    assert all(row.shape == (5, DIGITS.hidden) for row in rows.values())
    assert not torch.allclose(rows["caller a"], rows["caller b"])
    assert not torch.allclose(rows["caller a"], rows["made up"])


def picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_patches_are_cut_row_by_row_with_the_extra_column() -> None:
    config, current = INTERACTION_276B_A12B, picture(1)
    patches = patches_of(None, current, config)
    assert patch_count(config) == 54 and patches.shape == (54, 2, 40, 40, 3)  # 6 rows of 8 + 1
    expected = (current[40:80, 80:120] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(patches[9 + 2, 1], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(patches[:, 0], patches[:, 1])  # a still, doubled
    beyond = (-1 / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(patches[8, 1, 3, 5], beyond, rtol=1e-4)


def test_a_patch_has_the_picture_before_and_this_one() -> None:
    before, now = picture(3), picture(4)
    config = replace(DIGITS, shows_change=False)
    patches = patches_of(before, now, config)
    assert patches.shape == (patch_count(config), 2, 40, 40, 3) == (6, 2, 40, 40, 3)
    assert torch.equal(patches[:, 0], patches_of(None, before, config)[:, 0])
    assert torch.equal(patches[:, 1], patches_of(None, now, config)[:, 1])


def test_a_patch_of_digits_has_what_changed_since_the_picture_before() -> None:
    before, now = picture(3), picture(4)
    known, patches = (
        patches_of(before, now, replace(DIGITS, shows_change=False)),
        patches_of(before, now, DIGITS),
    )
    assert torch.equal(patches[:, 0], known[:, 1] - known[:, 0] + STILL)
    assert torch.equal(patches[:, 1], known[:, 1])
    assert bool((patches_of(None, now, DIGITS)[:, 0] == STILL).all())


def test_noise_of_the_camera_hardly_moves_the_first_row_of_the_tower_and_a_change_does() -> None:
    tower = PatchTower(DIGITS).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for projection in tower.projections:
            torch.nn.init.normal_(projection.weight, std=0.1)
    noise = np.random.default_rng(5).integers(-6, 7, (240, 320, 3))
    before = np.full((240, 320, 3), 120, np.uint8)
    still = (before + noise).astype(np.uint8)
    moved = still.copy()
    moved[:] //= 2
    rows = [tower(patches_of(before, now, DIGITS)[:1]) for now in (before, still, moved)]
    likeness = [float(torch.cosine_similarity(rows[0], row)[0]) for row in rows]
    assert likeness[1] > 0.95 > 0.7 > likeness[2], likeness


def test_a_picture_is_scaled_by_area() -> None:
    flat = np.zeros((240, 320, 3), np.uint8)
    flat[:, :160] = 200
    patches = patches_of(
        None, flat, replace(DIGITS, picture_size=(80, 40), shows_change=False)
    ) * torch.tensor(STD) + torch.tensor(MEAN)
    assert torch.allclose(patches[0] * 255, torch.tensor(200.0), atol=1e-3)
    assert torch.allclose(patches[1] * 255, torch.tensor(0.0), atol=1e-3)


def test_a_tower_of_every_configuration_gives_rows_of_its_width() -> None:
    with torch.device("meta"):
        for config in (DIGITS, INTERACTION_276B_A12B):
            assert PatchTower(config)(torch.empty(3, 2, 40, 40, 3)).shape == (3, config.hidden)
