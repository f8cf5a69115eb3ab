"""Gated MLPs with the library's products, in float32: what `model/served/mlp.py` computes. Rows go through them
some at a time, so that what lies between the products stays in the cache, and are not filled up to any size."""

from __future__ import annotations

from torch import Tensor

from model_server.model.mlp import DenseMLP, Experts
from model_server.model.served.compiled.ops import Ops, lined_up


class CompiledDenseMLP:
    """One MLP for every row; its scale is in its last matrix."""

    def __init__(self, plain: DenseMLP, norm_weight: Tensor, ops: Ops) -> None:
        """`norm_weight`: of the norm in front of it."""
        self._mlp = ops.mlps([(plain.gate_up.float() * norm_weight, plain.down.float() * plain.scale)])

    def warm(self, rows: int) -> None:
        """There is nothing to be met."""

    def __call__(self, x_ND: Tensor) -> Tensor:
        """[N, d], normalised, to [N, d]."""
        return self._mlp.dense(x_ND)


class CompiledExperts:
    """Experts and router. Of a rank with some of the experts, what those add."""

    def __init__(self, plain: Experts, norm_weight: Tensor, ops: Ops) -> None:
        """`norm_weight`: of the norm in front of it."""
        self._ops, router = ops, plain.router
        self._router = lined_up((router.weight.float() * norm_weight).t())
        self._balance, self._scale = router.balance.float(), router.route_scale * float(router.scale)
        self._choices, self._shared = router.chosen, len(plain.shared_down)
        routed: list[tuple[Tensor, Tensor] | None] = [None] * router.experts
        for expert, gate_up, down in zip(plain.local, plain.gate_up, plain.down, strict=True):
            routed[expert] = gate_up.float() * norm_weight, down.float()
        shared = zip(plain.shared_gate_up.float() * norm_weight, plain.shared_down.float(), strict=True)
        self._mlps = ops.mlps([*routed, *shared])

    def warm(self, rows: int) -> None:
        """There is nothing to be met."""

    def __call__(self, x_ND: Tensor) -> Tensor:
        """[N, d], normalised, to [N, d]."""
        logits = self._ops.product(x_ND, self._router)
        route = self._ops.route(logits, self._balance, self._choices, self._shared, self._scale)
        return self._mlps.mixture(x_ND, *route)
