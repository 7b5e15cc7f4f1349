"""Operations of a traced program: its matrix products and convolutions, as often as they run.

XLA's own count takes the body of a loop once and sees nothing in kernels; this one reads the
program before it is compiled. What is computed again in the backward pass counts again. A
multiply-add is two operations; all else is a few percent of them.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

FUSED = {"dot_product_attention_fwd": 2, "dot_product_attention_bwd": 5}  # products in a kernel


def operations(program: ClosedJaxpr | Jaxpr) -> float:
    """Of one run of the whole program, over all devices."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return math.fsum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, shapes = equation.primitive.name, [v.aval for v in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        inner = math.prod(shapes[0].shape[axis] for axis in contracted)
        return 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    for kernel, products in FUSED.items():
        if name.startswith(kernel):  # q and k "b t n h", "b s n h"
            q, k = shapes[:2]
            return 2.0 * products * math.prod(q.shape) * k.shape[1]
    inner = [operations(jaxpr) for jaxpr in _inside(equation)]
    return _times(equation) * (max(inner, default=0.0) if name == "cond" else math.fsum(inner))


def _of_convolution(equation: Any) -> float:
    """Of those products alone that are not with a zero put between inputs."""
    kernel, params = equation.invars[1].aval.shape, equation.params
    each = math.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
    whole = 2.0 * each * math.prod(equation.outvars[0].aval.shape)
    return whole / math.prod(params["lhs_dilation"])


def _inside(equation: Any) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield part


def _times(equation: Any) -> int:
    """How often what is inside runs: rounds of a loop, devices, blocks of a kernel's grid."""
    params = equation.params
    if equation.primitive.name == "scan":
        return params["length"]
    if equation.primitive.name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["mesh"].axis_names)
    if equation.primitive.name == "pallas_call":
        return math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    return 1
