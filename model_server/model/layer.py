"""One layer of the trunk: attention, then an MLP; each branch normalised before and convolved after."""

from __future__ import annotations

from torch import Tensor, nn

from model_server.model.attention import Attention
from model_server.model.config import ModelConfig
from model_server.model.convolution import ShortConvolution
from model_server.model.mlp import DenseMLP, Experts
from model_server.model.norm import RMSNorm
from model_server.model.piece import Piece
from model_server.model.state import LayerState


class Layer(nn.Module):
    """`x + SC(attention(RMS(x)))`, then `x + SC(mlp(RMS(x)))`; SC is the short convolution."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden, config.norm_eps)
        self.attention = Attention(config, layer)
        self.attention_convolution = ShortConvolution(config.hidden, config.conv_kernel)
        self.mlp_norm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = DenseMLP(config) if config.is_dense(layer) else Experts(config)
        self.mlp_convolution = ShortConvolution(config.hidden, config.conv_kernel)

    def append(self, x_BTD: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """New positions of the piece's calls."""
        branch = self.attention.append(self.attention_norm(x_BTD), piece, state)
        branch, rows = self.attention_convolution(branch, state.attention_rows.read(piece))
        state.attention_rows.write(piece, rows)
        x_BTD = x_BTD + branch
        branch = self.mlp(self.mlp_norm(x_BTD))
        branch, rows = self.mlp_convolution(branch, state.mlp_rows.read(piece))
        state.mlp_rows.write(piece, rows)
        return x_BTD + branch

    def whole(self, x_BTD: Tensor, chosen: list[Tensor] | None) -> Tensor:
        """Conversations from their first position on."""
        x_BTD = x_BTD + self.attention_convolution(self.attention.whole(self.attention_norm(x_BTD)))[0]
        return x_BTD + self.mlp_convolution(self.mlp(self.mlp_norm(x_BTD), chosen))[0]
