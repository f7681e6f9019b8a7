"""A block of parallel linear branches, and the one convolution that it equals.

Structural re-parameterization (RepVGG, arXiv 2101.03697): a convolution is linear, so the sum of
branches without a non-linearity between them is again one convolution.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.fusion.convolution import Convolution, InexactError, Pair, add
from tvm_iovt.nn.branch import Branch
from tvm_iovt.nn.folding import float64, normalised
from tvm_iovt.nn.torch_import import nn, torch


class MultiBranch(nn.Module):  # type: ignore[misc]
    """`activation(post_norm(sum over the kept branches of scale * branch(x)))`.

    Maps `[N, in_channels, H, W]` to `[N, out_channels, H', W']`.

    Args:
        branches: Name and module of every branch. They agree in channels, strides and the size of
            their results. torch forbids dots in the names.
        post_norm: A batch norm behind the sum (QARepVGG, RepViT), or none.
        activation: What follows; none is the identity.

    Attributes:
        branches: All branches, kept or not, in their order.
        kept: Names of the branches that take part, in that order; change it with `keep`.
        scales: One trainable factor a branch, or `None` before `enable_scales`.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Pixels that all branches together span along height and width.
        stride: Along height and width.
        groups: Of the convolution that all branches together make.

    Raises:
        UsageError: The branches do not fit each other.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        *,
        post_norm: Any = None,
        activation: Any = None,
    ) -> None:
        super().__init__()
        if not branches:
            raise UsageError("A multi-branch block needs at least one branch")
        bad = [name for name in branches if not name or "." in name]
        if bad:
            raise UsageError("A branch name must not be empty or hold a dot", seen=repr(bad[0]))
        _require_same(branches, "numbers of channels", lambda b: (b.in_channels, b.out_channels))
        _require_same(branches, "strides", lambda b: b.stride)
        _require_same(
            branches,
            "sizes of their results",
            lambda b: tuple(2 * p - e for p, e in zip(b.padding, b.extent, strict=True)),
        )
        self.branches = nn.ModuleDict(branches)
        self.post_norm = post_norm
        self.activation = nn.Identity() if activation is None else activation
        self.scales: Any
        self.register_module("scales", None)
        self.kept: tuple[str, ...] = tuple(branches)
        first = next(iter(branches.values()))
        self.in_channels: int = first.in_channels
        self.out_channels: int = first.out_channels
        self.stride: Pair = first.stride
        self.kernel_size: Pair = (
            max(b.extent[0] for b in branches.values()),
            max(b.extent[1] for b in branches.values()),
        )
        self.groups: int = math.gcd(*(b.groups for b in branches.values()))

    def forward(self, x: Any) -> Any:
        """Adds the kept branches, normalises and activates."""
        total = None
        for name in self.kept:
            y = self.branches[name](x)
            if self.scales is not None and name in self.scales:
                y = y * self.scales[name]
            total = y if total is None else total + y
        if self.post_norm is not None:
            total = self.post_norm(total)
        return self.activation(total)

    def extra_repr(self) -> str:
        """What `print` shows of the block beside its modules."""
        return f"kept={'+'.join(self.kept)}"

    def keep(self, names: Iterable[str]) -> None:
        """Keeps these branches and no others; the dropped ones keep their parameters.

        Raises:
            UsageError: A name is unknown or occurs twice, or there is none.
        """
        chosen = tuple(names)
        unknown = [name for name in chosen if name not in self.branches]
        if unknown:
            raise UsageError(
                f"The block has no branch {unknown[0]!r}",
                seen=f"branches {', '.join(self.branches)}",
            )
        if not chosen:
            raise UsageError(
                "A block must keep at least one branch", do=f"of {', '.join(self.branches)}"
            )
        if len(set(chosen)) < len(chosen):
            raise UsageError("A branch is kept twice", seen=", ".join(chosen))
        self.kept = tuple(name for name in self.branches if name in chosen)

    def enable_scales(self) -> None:
        """Gives every branch a trainable factor of 1, in `scales`; existing ones stay.

        The factors are part of the state dict: call this before loading one that has them.
        """
        like = self._like()
        scales = {
            name: nn.Parameter(torch.ones((), dtype=like.dtype, device=like.device))
            for name in self.branches
        }
        self.scales = nn.ParameterDict(OrderedDict({**scales, **(self.scales or {})}))

    def absorb_scales(self) -> None:
        """Multiplies the factors into the parameters of the branches and removes them.

        The factor of an identity or a pool without batch norm stays: it has no parameters.
        """
        if self.scales is None:
            return
        rest = OrderedDict(
            (name, factor)
            for name, factor in self.scales.items()
            if not self.branches[name].multiply(factor)
        )
        self.scales = nn.ParameterDict(rest) if rest else None

    def convolution(self) -> Convolution:
        """The kept branches, their scales and the post-norm as one convolution in float64.

        Batch norms take their running statistics, also in training mode. The activation is not
        part of it.

        Raises:
            UsageError: A parameter is NaN or infinite, or a batch norm has no running statistics
                or a variance of zero without epsilon.
        """
        operators = []
        name = ""
        try:
            for name in self.kept:
                operators.append(self._scaled(name))
            name = "post_norm"
            return normalised(add(operators), self.post_norm)
        except InexactError as error:
            raise UsageError(f"Cannot fold {name} of a block", seen=str(error)) from error

    def deployed(self) -> Any:
        """The kept branches as one `nn.Conv2d`, then the activation: an `nn.Sequential`.

        dtype and device are those of the block. A padding that is not symmetric becomes an
        `nn.ZeroPad2d` of its own, since `nn.Conv2d` has no such padding.

        Raises:
            UsageError: As for `convolution`.
        """
        return deployed_form(self.convolution(), like=self._like(), activation=self.activation)

    def branch_flops(self, name: str, input_hw: Pair) -> int:
        """FLOPs of one branch for one image of that height and width.

        A multiply-add counts as two. A batch norm behind a convolution counts nothing; an identity
        counts `2 * C * H * W`.

        Raises:
            UsageError: There is no such branch.
        """
        if name not in self.branches:
            raise UsageError(
                f"The block has no branch {name!r}", seen=f"branches {', '.join(self.branches)}"
            )
        flops: int = self.branches[name].flops(input_hw)
        return flops

    def _scaled(self, name: str) -> Convolution:
        operator: Convolution = self.branches[name].convolution()
        if self.scales is None or name not in self.scales:
            return operator
        factor = float(float64(self.scales[name], "the scale"))
        return dataclasses.replace(
            operator, kernel=operator.kernel * factor, bias=operator.bias * factor
        )

    def _like(self) -> Any:
        """A tensor of the block's dtype and device."""
        tensors = [*self.branches.parameters(), *self.branches.buffers()]
        return next((t for t in tensors if t.is_floating_point()), torch.zeros(()))


def deployed_form(operator: Convolution, *, like: Any, activation: Any) -> Any:
    """A convolution as `nn.Conv2d` in an `nn.Sequential` in evaluation mode.

    Args:
        operator: Without a bias that differs from place to place.
        like: A tensor of the dtype and device to give it.
        activation: The module that follows.

    Raises:
        UsageError: The bias differs from place to place.
    """
    if operator.has_bias_map:
        raise UsageError("A bias that differs from place to place does not fit into a Conv2d")
    top, left, bottom, right = operator.padding
    symmetric = top == bottom >= 0 and left == right >= 0
    conv = nn.Conv2d(
        operator.in_channels,
        operator.out_channels,
        operator.size,
        operator.strides,
        (top, left) if symmetric else 0,
        operator.dilation,
        operator.groups,
        dtype=like.dtype,
        device=like.device,
    )
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(operator.kernel))
        conv.bias.copy_(torch.from_numpy(operator.bias.reshape(-1)))
    layers = OrderedDict(conv=conv, activation=copy.deepcopy(activation))
    if not symmetric:
        layers["pad"] = nn.ZeroPad2d((left, right, top, bottom))
        layers.move_to_end("pad", last=False)
    return nn.Sequential(layers).eval()


def _require_same(branches: Mapping[str, Branch], what: str, fact: Any) -> None:
    facts = {name: fact(branch) for name, branch in branches.items()}
    if len(set(facts.values())) > 1:
        raise UsageError(
            f"The branches of a block differ in the {what}",
            seen=", ".join(f"{name}: {value}" for name, value in facts.items()),
        )
