"""Functions that ONNX, or ONNX Runtime in float64, lacks, made of functions that it has."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20

op: Any = opset20
_CENTRAL_COEFFICIENTS = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL_COEFFICIENTS = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip
_TAIL_START = 5.0


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return operators of torch -> their implementations in ONNX."""
    return {torch.ops.aten.tan.default: tan, torch.ops.aten.erfinv.default: erfinv}


def tan(x: Any) -> Any:
    """Return sin x / cos x."""
    return op.Div(op.Sin(x), op.Cos(x))


def erfinv(x: Any) -> Any:
    """Return the inverse of erf in float32, from two polynomials of w = -ln(1 - x^2).

    Reference:
        Giles (2012), Approximating the erfinv function, GPU Computing Gems, table 5 (single).
    """
    one = op.Constant(value_float=1.0)
    w = op.Neg(op.Log(op.Mul(op.Sub(one, x), op.Add(one, x))))
    central = _polynomial(
        _CENTRAL_COEFFICIENTS, op.Sub(w, op.Constant(value_float=_TAIL_START / 2))
    )
    tail = _polynomial(_TAIL_COEFFICIENTS, op.Sub(op.Sqrt(w), op.Constant(value_float=3.0)))
    is_tail = op.Less(op.Constant(value_float=_TAIL_START), w)
    return op.Mul(op.Where(is_tail, tail, central), x)


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Evaluate a polynomial with Horner's rule; the highest power comes first."""
    total = op.Constant(value_float=coefficients[0])
    for coefficient in coefficients[1:]:
        total = op.Add(op.Mul(total, x), op.Constant(value_float=coefficient))
    return total
