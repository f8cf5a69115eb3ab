"""One layer of the trunk on the device: the plain layer's weights, attention and experts by `turn_kernels`.

Of one rank's layer, a sum over ranks stands behind each of the two.

B T D   rows of the bucket, positions, hidden        H G   query heads, KV heads        r   profiles of bias
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model_server.model.attention import Attention
from model_server.model.device.convolution import DeviceConvolution
from model_server.model.device.passes import Pass
from model_server.model.device.state import DeviceLayerState
from model_server.model.layer import Layer
from model_server.model.matrix import times
from model_server.model.mlp import DenseMLP, Experts, gated
from turn_kernels.append_attend import Reach, append_attend
from turn_kernels.forms import Form
from turn_kernels.mixture import MixtureWeights, mixture


class DeviceLayer:
    """`Layer.append` with a state on the device. What is not there goes in as zeros, and comes out as anything."""

    def __init__(
        self, plain: Layer, reach: Reach, form: Form | None, add: Callable[[Tensor], Tensor] | None
    ) -> None:
        """`form`: of the ops; None is what the device has. `add`: of a rank's layer, the sum over ranks."""
        self._plain, self._add = plain, add
        self._attention = DeviceAttention(plain.attention, reach, form)
        self._attention_convolution = DeviceConvolution(plain.attention_convolution)
        mlp = plain.mlp
        self._mlp = DeviceExperts(mlp, form) if isinstance(mlp, Experts) else DeviceDenseMLP(mlp)
        self._mlp_convolution = DeviceConvolution(plain.mlp_convolution)

    def append(self, x_BTD: Tensor, now: Pass, state: DeviceLayerState) -> Tensor:
        """New positions of the rows of a pass."""
        branch = self._added(self._attention(self._plain.attention_norm(x_BTD), now, state))
        x_BTD = x_BTD + self._attention_convolution(branch, now, state.attention_rows)
        branch = self._added(self._mlp(self._plain.mlp_norm(x_BTD)))
        return x_BTD + self._mlp_convolution(branch, now, state.mlp_rows)

    def _added(self, branch_BTD: Tensor) -> Tensor:
        return branch_BTD if self._add is None else self._add(branch_BTD)


class DeviceAttention:
    """`Attention.append` over pages."""

    def __init__(self, plain: Attention, reach: Reach, form: Form | None) -> None:
        self._plain, self._reach, self._form = plain, reach, form
        self._kv_convolution = DeviceConvolution(plain.kv_convolution)
        self._profiles = plain.profiles.detach().contiguous()

    def __call__(self, x_BTD: Tensor, now: Pass, state: DeviceLayerState) -> Tensor:
        """[B, T, d]."""
        plain = self._plain
        queries, kv, rho = times(plain.inputs.weight, x_BTD).split(plain.sizes, -1)
        kv = self._kv_convolution(kv, now, state.kv_rows)
        k, v = kv.unflatten(-1, (2, plain.kv_heads, plain.width)).unbind(2)
        q = plain.q_norm(queries.unflatten(-1, (plain.heads, plain.width)))
        rho = rho.unflatten(-1, (plain.heads, -1))
        if plain.is_global and now.tau_BT11 is not None:
            q, rho = ((each.float() * now.tau_BT11).to(x_BTD.dtype) for each in (q, rho))
        heads = append_attend(
            q.contiguous(), plain.k_norm(k).contiguous(), v.contiguous(), rho.contiguous(), self._profiles,
            state.pages, now.tables[plain.is_global], now.before_B, now.counts_B, self._reach, self._form,
        )  # fmt: skip
        return times(plain.output.weight, heads.flatten(2))


class DeviceDenseMLP:
    """`DenseMLP.forward`, or a rank's part of it."""

    def __init__(self, plain: DenseMLP) -> None:
        self._plain = plain

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """[B, T, d]."""
        return gated(x_BTD, self._plain.gate_up, self._plain.down) * self._plain.scale


class DeviceExperts:
    """`Experts.forward`, or a rank's part of it, by the op, which has a form for few rows."""

    @torch.no_grad()
    def __init__(self, plain: Experts, form: Form | None) -> None:
        router = plain.router
        self._form = form
        self._weights = MixtureWeights(
            *(router.weight, router.balance.float(), plain.gate_up, plain.down),
            *(plain.shared_gate_up, plain.shared_down),
            router.chosen,
            router.route_scale * float(router.scale),
            plain.local.start,
        )

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """[B, T, d]."""
        return mixture(x_BTD.flatten(0, 1), self._weights, self._form).view(x_BTD.shape)
