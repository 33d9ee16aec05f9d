"""Batch normalisation over the batches of several processes, on any device and twice differentiable."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SynchronizedBatchNorm"]


class SynchronizedBatchNorm(_BatchNorm):
    r"""Batch normalisation of ``[N, C, ...]`` whose batch is that of all processes together.

    In training, :math:`y = w (x - \mu) / \sqrt{\sigma^2 + \epsilon} + b` with the mean and the biased variance over all
    processes' batches, whatever their sizes; the running statistics follow as in torch's layers, the variance unbiased.
    Statistics are in at least float32. Unlike ``torch.nn.SyncBatchNorm`` it works on CPU, and has derivatives of any
    order, which ConOpt and JARE take. In evaluation, or with one process, it is torch's.

    Arguments, parameters and buffers are those of ``torch.nn.BatchNorm2d``.

    Attributes:
        waits_for_processes: that a forward in training must be made by every process at once, or hangs.
    """

    waits_for_processes = True

    # Torch lets them be None; they are there where statistics are tracked.
    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; in training every process must take part."""
        if not self.training or not torch.distributed.is_initialized():
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [0, *range(2, input.dim())]
        per_channel = [1, -1, *[1] * (input.dim() - 2)]
        count = torch.full((1,), input.numel() / input.shape[1], dtype=wide.dtype, device=wide.device)
        sums = _Sum.apply(torch.cat([wide.sum(axes), count]))
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1]
        # A second message: the difference of the squares' mean and the mean's square would lose digits.
        deviations = wide - mean.view(per_channel)
        variance = _Sum.apply(deviations.square().sum(axes)) / total
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        normalized = deviations * (variance + self.eps).rsqrt().view(per_channel)
        if self.affine:
            normalized = normalized * self.weight.view(per_channel) + self.bias.view(per_channel)
        return normalized.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    @classmethod
    def take_over(cls, network: nn.Module) -> None:
        """Let every batch normalisation in a network be of this kind; modules and tensors stay the same objects."""
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.__class__ = cls

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"argument `input` must have shape [N, C, ...], got {list(input.shape)}")


class _Sum(torch.autograd.Function):
    """Sum over processes. Its derivative is a sum over processes too: each one's result reaches all losses."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        result = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)
