"""The shape of an interaction model: one frozen dataclass, and the shapes that we name.

The trunk is that of the open Inkling family (transformers 5.23.0, `models/inkling`); what a symbol means is said
where it is used. `digits` is trained from scratch and shipped; the others are the family's own sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from model_server.model.vocabulary import SIZE


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of one model. A wrong combination raises `ValueError` when it is made."""

    name: str
    layers: int
    hidden: int
    """d: width of a position's row."""
    heads: int
    kv_heads: int
    """Of global layers."""
    kv_heads_sliding: int
    head_dim: int
    window: int
    """W: keys that a sliding layer sees, the position itself included."""
    bias_extent: int
    """R: distances for which a global layer has a bias; beyond it the bias is 0. Sliding layers have W."""
    dense_layers: int
    """How many of the first layers have a dense MLP in place of experts."""
    dense_width: int
    experts: int
    experts_chosen: int
    shared_experts: int
    expert_width: int
    route_scale: float
    logits_divisor: float
    """muP: the last hidden row is divided by it before the unembedding."""
    vocabulary: int
    """Rows of the embedding and of the unembedding."""
    vocabulary_used: int
    """Logits are cut to the first so many."""
    vision_widths: tuple[int, ...]
    """Outputs of the folds of a patch but the last, whose output is `hidden`."""
    global_first: int
    """Positions at the start of a call that a global layer never forgets ..."""
    global_budget: int
    """... and how many of the newest it sees, the position itself included; what lies between is forgotten."""
    global_every: int = 6
    """Layer i (from 0) is global when i + 1 is a multiple of this, else sliding."""
    bias_rank: int = 16
    """r: profiles of bias against distance, mixed for each query and head."""
    conv_kernel: int = 4
    log_floor: int | None = 128_000
    """Positions up to which the scores of global layers are not scaled; None: never."""
    log_alpha: float = 0.1
    norm_eps: float = 1e-6
    init_std: float = 0.02
    """Of matrices before training."""
    patch_side: int = 40
    vision_folds: tuple[tuple[int, int], ...] = ((1, 5), (1, 2), (1, 4), (2, 1))
    """What each layer of the patch tower folds into its channels: (pictures, pixels a side)."""
    extra_column: bool = True
    """One more column of patches than the picture fills, as the family was trained."""
    picture_size: tuple[int, int] = (320, 240)
    """Width and height in pixels to which pictures are scaled before they are cut."""
    shows_change: bool = False
    """A patch holds how much the picture differs from the one before, in place of that one (`patches.py`)."""
    say_limit: int = 8
    """Text positions that the model may write in one turn."""

    def __post_init__(self) -> None:
        pictures, side = 1, 1
        for fold_pictures, fold_side in self.vision_folds:
            pictures, side = pictures * fold_pictures, side * fold_side
        checks = (
            (self.heads % self.kv_heads == 0, "heads is a multiple of kv_heads"),
            (self.heads % self.kv_heads_sliding == 0, "heads is a multiple of kv_heads_sliding"),
            (self.bias_extent <= self.global_budget, "bias_extent is at most global_budget"),
            (1 <= self.experts_chosen <= self.experts, "1 <= experts_chosen <= experts"),
            (self.shared_experts >= 1, "at least one shared expert"),
            (self.vocabulary_used <= self.vocabulary, "vocabulary_used is at most vocabulary"),
            (side == self.patch_side, "vision_folds fold patch_side pixels into one"),
            (pictures == 2, "vision_folds fold two pictures into one"),
            (
                len(self.vision_widths) == len(self.vision_folds) - 1,
                "one of vision_widths a fold but the last",
            ),
        )
        for holds, expected in checks:
            if not holds:
                raise ValueError(f"configuration {self.name!r}: expected {expected}: {self}")

    def is_global(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) sees beyond the window."""
        return (layer + 1) % self.global_every == 0

    def is_dense(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) has a dense MLP."""
        return layer < self.dense_layers

    def kv_heads_of(self, layer: int) -> int:
        """G: key and value heads of layer `layer`."""
        return self.kv_heads if self.is_global(layer) else self.kv_heads_sliding

    def bias_extent_of(self, layer: int) -> int:
        """R': distances with a bias in layer `layer`."""
        return self.bias_extent if self.is_global(layer) else self.window


DIGITS = ModelConfig(
    name="digits",
    layers=4,
    hidden=192,
    heads=6,
    kv_heads=2,
    kv_heads_sliding=2,
    head_dim=32,
    window=160,  # 3.8 s
    bias_rank=8,
    bias_extent=512,
    dense_layers=2,
    dense_width=512,
    experts=8,
    experts_chosen=2,
    shared_experts=1,
    expert_width=192,
    route_scale=1.0,
    logits_divisor=1.0,
    vocabulary=SIZE,
    vocabulary_used=SIZE,
    vision_widths=(32, 64, 96),
    global_first=32,  # the persona
    global_budget=512,  # 12 s
    global_every=2,
    extra_column=False,
    picture_size=(120, 80),
    shows_change=True,
    say_limit=3,
    init_std=0.07,  # about hidden ** -0.5
)

INTERACTION_276B_A12B_RELEASED = ModelConfig(
    name="interaction-276b-a12b-released",
    layers=42,
    hidden=4096,
    heads=32,
    kv_heads=8,
    kv_heads_sliding=8,
    head_dim=128,
    window=512,
    bias_extent=1024,
    dense_layers=2,
    dense_width=16384,
    experts=256,
    experts_chosen=6,
    shared_experts=2,
    expert_width=2048,
    route_scale=8.0,
    logits_divisor=16.0,
    vocabulary=201_024,
    vocabulary_used=200_058,
    vision_widths=(128, 320, 4800),
    global_first=1024,
    global_budget=65_536,
)
"""The layout of the released Inkling-Small: two dense layers, 263,724,516,394 parameters in trunk and towers."""

INTERACTION_276B_A12B = replace(INTERACTION_276B_A12B_RELEASED, name="interaction-276b-a12b", dense_layers=0)
"""As announced: experts in every layer, 276,309,541,930 parameters in trunk and towers."""

SMALL_30B_A3B = replace(
    INTERACTION_276B_A12B_RELEASED,
    name="small-30b-a3b",
    layers=48,
    hidden=2048,
    kv_heads=4,
    kv_heads_sliding=4,
    dense_width=8192,
    experts=128,
    expert_width=768,
    logits_divisor=8.0,
    global_budget=32_768,
)

CONFIGS = {
    config.name: config
    for config in (DIGITS, SMALL_30B_A3B, INTERACTION_276B_A12B, INTERACTION_276B_A12B_RELEASED)
}


def config_of(name: str) -> ModelConfig:
    """The configuration of that name; `ValueError` names the value and what is expected."""
    if name not in CONFIGS:
        raise ValueError(
            f"configuration = {name!r}: there is no such model; expected one of {', '.join(CONFIGS)}"
        )
    return CONFIGS[name]
