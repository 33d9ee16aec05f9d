r"""g(SN(W)) of several layers at once: matrices of one shape take one product where each alone would take its own.

Small ones of other shapes take part as well, with zeros around them.

The backward pass is written out. With :math:`A = W / \sigma`, :math:`\sigma = u^\top W v`, :math:`G = A A^\top`, and
:math:`Y = p(G) A`, a cotangent D of Y becomes

.. math:: \bar A = p(G) D + L A, \quad \bar W = (\bar A - \langle \bar A, A \rangle u v^\top) / \sigma

where L is the derivative of p at G in the direction :math:`D A^\top + A D^\top`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pcgan_lightning.spectra.matrices import MatrixLayout, without_autocast
from pcgan_lightning.spectra.matrix_polynomials import PowerSeries, power_series
from pcgan_lightning.spectra.polynomials import Polynomial

# How many multiplications of a Gram matrix, zeros included, are worth one call less; and how many times as many as
# without zeros. On a CPU a call is cheap.
PADDED, PADDED_ON_CPU, PADDED_SHARE = 2**25, 2**20, 4


class Member(NamedTuple):
    """One layer: its weight, how that is read as a matrix, singular vectors ``[1, rows]`` and ``[1, cols]``, and g."""

    weight: Tensor
    layout: MatrixLayout
    u: Tensor
    v: Tensor
    polynomial: Polynomial


def fits(weight: Tensor, layout: MatrixLayout) -> bool:
    """Whether a weight is one ordinary matrix, outside of anything that records or transforms operations."""
    return (
        type(weight) is nn.Parameter
        and layout.groups == 1
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active())
    )


def preconditioned(members: Sequence[Member]) -> list[Tensor]:
    """Return g(SN(W)) of each, of its weight's shape and dtype, by one call for all of one shape and polynomial."""
    results: list[Tensor] = [torch.empty(0)] * len(members)
    kinds = tuple((m.layout, m.weight.shape, m.weight.dtype, m.weight.device, m.polynomial) for m in members)
    for indices, forms in _plan(kinds):
        own = [members[i] for i in indices]
        # The vectors as those of the matrix in the batch, a column and a row.
        pairs = [(m.v, m.u) if form.is_tall else (m.u, m.v) for m, form in zip(own, forms, strict=True)]
        u, v = (
            stacked([x if x.dtype == forms[0].computed else x.to(forms[0].computed) for x in side])
            for side in zip(*pairs, strict=True)
        )
        recorded = torch.is_grad_enabled() and any(m.weight.requires_grad for m in own)
        apply: Any = _Preconditioned.apply if recorded else _without_graph
        found = apply(own[0].polynomial, forms, u.unsqueeze(2), v.unsqueeze(1), *(m.weight for m in own))
        for index, weight in zip(indices, found, strict=True):
            results[index] = weight
    return results


@functools.lru_cache(maxsize=1024)
def _plan(kinds: tuple[tuple[Any, ...], ...]) -> list[tuple[list[int], list["_Form"]]]:
    """Return the batches of layers of these layouts, shapes, dtypes, devices and polynomials, by their places."""
    forms = [_Form.of(layout, shape, dtype) for layout, shape, dtype, _, _ in kinds]
    others = [(form.computed, device, polynomial) for form, (*_, device, polynomial) in zip(forms, kinds, strict=True)]
    batches = batches_of([(form.small, form.large) for form in forms], others, [device.type for *_, device, _ in kinds])
    return [(indices, [forms[i] for i in indices]) for indices in batches]


def batches_of(sides: Sequence[tuple[int, int]], kinds: Sequence[Any], devices: Sequence[str]) -> list[list[int]]:
    """Return which of the matrices go into one batch: equal ones of a kind, and small ones that zeros make equal.

    Zeros around a matrix are zeros around its products.

    Args:
        sides: rows and columns.
        kinds: what else must be equal.
        devices: the type of each one's device.
    """
    equal: dict[tuple, list[int]] = {}
    for index, key in enumerate(zip(kinds, sides, strict=True)):
        equal.setdefault(key, []).append(index)
    batches: list[list[int]] = []
    last: dict[Any, tuple[list[int], int, int, int]] = {}  # of a kind: its batch, rows, columns, and own products
    for (kind, (rows, cols)), indices in sorted(equal.items(), key=lambda item: -math.prod(item[0][1])):
        own = len(indices) * rows * cols * min(rows, cols)
        members, most_rows, most_cols, own_before = last.get(kind, ([], 0, 0, 0))
        most_rows, most_cols, total = max(rows, most_rows), max(cols, most_cols), own + own_before
        padded = (len(members) + len(indices)) * most_rows * most_cols * min(most_rows, most_cols)
        limit = PADDED_ON_CPU if devices[indices[0]] == "cpu" else PADDED
        if members and padded <= min(limit, PADDED_SHARE * total):
            members += indices
            last[kind] = members, most_rows, most_cols, total
        else:
            batches.append(indices)
            last[kind] = indices, rows, cols, own
    return batches


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors of one number of axes as one along the first, with zeros where others are larger."""
    if len(tensors) == 1:  # one alone needs no copy
        return tensors[0]
    sizes = [max(each) for each in zip(*(t.shape[1:] for t in tensors), strict=True)]
    if all(list(t.shape[1:]) == sizes for t in tensors):
        return torch.cat(list(tensors))
    if torch.is_grad_enabled():  # of what follows, autograd knows nothing
        return torch.cat([_padded(t, sizes) for t in tensors])
    counts = [len(t) for t in tensors]
    result = tensors[0].new_zeros(sum(counts), *sizes)
    places = [
        place[tuple(slice(size) for size in t.shape)] for place, t in zip(result.split(counts), tensors, strict=True)
    ]
    torch._foreach_copy_(places, list(tensors))
    return result


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    missing = [(0, size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)]
    return nn.functional.pad(tensor, [width for pair in reversed(missing) for width in pair])


class _Form(NamedTuple):
    """How a weight stands in a batch: as a matrix of `small` rows and `large` columns, transposed where it is tall."""

    layout: MatrixLayout
    shape: torch.Size
    dtype: torch.dtype
    computed: torch.dtype
    small: int
    large: int
    is_tall: bool

    @classmethod
    def of(cls, layout: MatrixLayout, shape: torch.Size, dtype: torch.dtype) -> "_Form":
        rows = shape[1 if layout.transposed else 0]
        cols = shape.numel() // rows
        computed = torch.promote_types(dtype, torch.float32)
        return cls(layout, shape, dtype, computed, min(rows, cols), max(rows, cols), rows > cols)

    def read(self, weight: Tensor) -> Tensor:
        """Return a weight as ``[1, small, large]`` in at least float32."""
        matrix = self.layout.to_matrices(weight)
        if self.computed != self.dtype:
            matrix = matrix.to(self.computed)
        return matrix.mT if self.is_tall else matrix

    def write(self, matrix: Tensor) -> Tensor:
        """Return the weight of a matrix, zeros around it left out; inverse of :meth:`read`."""
        if matrix.shape[1:] != (self.small, self.large):
            matrix = matrix[:, : self.small, : self.large]
        weight = self.layout.to_weight(matrix.mT if self.is_tall else matrix, self.shape)
        return weight if self.computed == self.dtype else weight.to(self.dtype)


class _Values(NamedTuple):
    """What a batch was computed by, and the backward pass needs."""

    matrices: Tensor  # SN(W), [batch, m, n]
    norms: Tensor  # [batch, 1, 1]
    u: Tensor  # [batch, m, 1]
    v: Tensor  # [batch, 1, n]
    constant: float  # p(0)
    series: Optional[PowerSeries]  # p(G) - p(0) I

    @classmethod
    def of(cls, weights: Tensor, u: Tensor, v: Tensor, polynomial: Polynomial) -> "_Values":
        norms = u.mT @ (weights @ v.mT)
        matrices = weights / norms
        constant, *higher = polynomial.coefficients
        series = power_series(matrices @ matrices.mT, higher) if higher else None
        return cls(matrices, norms, u, v, constant, series)

    def result(self) -> Tensor:
        """Return p(G) A."""
        if self.series is None:
            return self.constant * self.matrices if self.constant != 1.0 else self.matrices
        return torch.baddbmm(self.matrices, self.series.value, self.matrices, beta=self.constant)

    def gradient(self, cotangent: Tensor) -> Tensor:
        """Return the cotangent of the weights, by differentiable operations."""
        if self.series is None:
            moved = self.constant * cotangent if self.constant != 1.0 else cotangent
        else:
            half = cotangent @ self.matrices.mT
            moved = torch.baddbmm(cotangent, self.series.value, cotangent, beta=self.constant)
            moved = torch.baddbmm(moved, self.series.derivative(half + half.mT), self.matrices)
        along = (moved * self.matrices).sum((1, 2), keepdim=True)
        return torch.baddbmm(moved, along * self.u, self.v, alpha=-1) / self.norms


class _Preconditioned(torch.autograd.Function):
    """Weights to g(SN(weights)), for one shape of matrix.

    What the backward pass needs are copies, kept as long as the graph: one layer's loss may be backpropagated without
    the others', which takes nothing from them.
    """

    @staticmethod
    def forward(
        ctx: Any, polynomial: Polynomial, forms: Sequence[_Form], u: Tensor, v: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        values, results = _computed(polynomial, forms, u, v, weights)
        ctx.values, ctx.forms, ctx.polynomial = values, forms, polynomial
        ctx.versions = _versions(u, v)
        ctx.save_for_backward(*weights)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Optional[Tensor]) -> tuple[Optional[Tensor], ...]:
        values: _Values = ctx.values
        if _versions(values.u, values.v) != ctx.versions:
            raise RuntimeError("the singular vectors of a PC-layer were changed in place before its backward pass")
        needed = [c is not None and n for c, n in zip(cotangents, ctx.needs_input_grad[4:], strict=True)]
        if not any(needed):
            return (None,) * len(ctx.needs_input_grad)
        filled = [
            values.matrices.new_zeros(form.shape) if c is None else c
            for c, form in zip(cotangents, ctx.forms, strict=True)
        ]
        with without_autocast(values.u.device.type):
            if torch.is_grad_enabled():  # the gradient will be differentiated: by the weights, which have a graph
                values = _Values.of(_stacked(ctx.forms, ctx.saved_tensors), values.u, values.v, ctx.polynomial)
            gradients = values.gradient(_stacked(ctx.forms, filled)).split(1)
            found = [
                form.write(piece) if n else None for n, form, piece in zip(needed, ctx.forms, gradients, strict=True)
            ]
        return (None, None, None, None, *found)


def _computed(
    polynomial: Polynomial, forms: Sequence[_Form], u: Tensor, v: Tensor, weights: Sequence[Tensor]
) -> tuple[_Values, tuple[Tensor, ...]]:
    with without_autocast(u.device.type):
        values = _Values.of(_stacked(forms, weights), u, v, polynomial)
        # Neither a piece nor its form counts as a view, or autograd would refuse to change a weight in place.
        pieces = torch.unsafe_split(values.result(), 1)
        return values, tuple(form.write(piece).contiguous().detach() for form, piece in zip(forms, pieces, strict=True))


@torch.no_grad()
def _without_graph(
    polynomial: Polynomial, forms: Sequence[_Form], u: Tensor, v: Tensor, *weights: Tensor
) -> tuple[Tensor, ...]:
    return _computed(polynomial, forms, u, v, weights)[1]


def _stacked(forms: Sequence[_Form], weights: Sequence[Tensor]) -> Tensor:
    return stacked([form.read(weight) for form, weight in zip(forms, weights, strict=True)])


def _versions(*tensors: Tensor) -> list[Optional[int]]:
    return [None if t.is_inference() else t._version for t in tensors]
