"""A DC-AE decoder made ready to serve: the same map in fewer products, and in the memory order its layers like.

diffusers' modules stay what they are; only layers inside are exchanged, so a picture differs by rounding alone. What
each exchange brings is in docs/decisions/decoder.md.
"""

from __future__ import annotations

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from model.winograd import MIN_CHANNELS, WinogradConv2d


class GroupedPointwise(nn.Module):
    """A 1x1 convolution in many groups as one batched product: torch's own goes through the groups one by one."""

    weight: Tensor  # (groups, channels in, channels out), each of one group

    @staticmethod
    def suits(convolution: nn.Conv2d) -> bool:
        """Whether this computes what `convolution` does."""
        return (
            convolution.kernel_size == (1, 1)
            and convolution.stride == (1, 1)
            and convolution.padding == (0, 0)
            and 1 < convolution.groups < convolution.in_channels
            and convolution.bias is None
        )

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.detach().flatten(1).unflatten(0, (convolution.groups, -1))
        self.register_buffer("weight", weight.transpose(1, 2).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, o, h, w), channels last in memory."""
        num_pictures, _, height, width = x.shape
        by_group = x.permute(0, 2, 3, 1).unflatten(3, (len(self.weight), -1)).flatten(0, 2).transpose(0, 1)
        mixed = torch.bmm(by_group, self.weight).transpose(0, 1).flatten(1)  # (b * h * w, o)
        return mixed.view(num_pictures, height, width, -1).permute(0, 3, 1, 2)


class FrugalRMSNorm(nn.Module):
    """The same map as diffusers' `norm` over the last dimension, in fewer passes through memory."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    @staticmethod
    def suits(norm: RMSNorm) -> bool:
        """Whether this computes what `norm` does, and pays: small decoders have nothing to gain."""
        weight = norm.weight
        return weight is not None and weight.dtype == torch.float32 and weight.numel() >= MIN_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        """(..., c) -> (..., c)."""
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        y = x * squares.mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return y.mul_(self.weight) if self.bias is None else torch.addcmul(self.bias, y, self.weight, out=y)


def make_fast(decoder: nn.Module) -> None:
    """Exchange layers of `decoder` in place for faster ones that compute the same, and order its weights.

    Its weights must be on their device and of their final type: what is faster depends on both.
    """
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RMSNorm) and FrugalRMSNorm.suits(child):
                setattr(parent, name, FrugalRMSNorm(child))
            if not isinstance(child, nn.Conv2d):
                continue
            if WinogradConv2d.suits(child):
                setattr(parent, name, WinogradConv2d(child))
            elif GroupedPointwise.suits(child):
                setattr(parent, name, GroupedPointwise(child))
