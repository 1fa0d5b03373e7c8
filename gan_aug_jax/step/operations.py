"""Floating-point operations of a program, counted in its jaxpr before it is compiled.

XLA counts them, too, but not on a GPU or TPU before compilation, nor those of the library
calls that it makes there; and of a loop it counts a single turn.
"""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

# Primitives that only move numbers or make them from integers.
_MOVES = frozenset({
  *('broadcast_in_dim', 'concatenate', 'convert_element_type', 'copy', 'copy_p', 'pad'),
  *('dynamic_slice', 'dynamic_update_slice', 'gather', 'reshape', 'rev', 'select_n'),
  *('slice', 'split', 'squeeze', 'stop_gradient', 'transpose'),
})  # fmt: skip


def count(jaxpr: jax.extend.core.Jaxpr) -> float:
  """Floating-point operations of a jaxpr, on all devices.

  A product or convolution has two for each pair of numbers that it multiplies. Zeros in
  the padding, and between the inputs of a transposed convolution, are not multiplied. Any
  other arithmetic has one for each number, and so has what another library computes. All
  turns of a `scan` count, the costliest branch of a conditional, and one turn of a
  `while` or of a kernel's grid.
  """
  return float(_count(jaxpr, jaxpr.outvars))


def _count(jaxpr, outputs):
  """Counts only what these outputs depend on, as XLA computes nothing else."""
  needed, total = set(filter(_is_variable, outputs)), 0
  for equation in reversed(jaxpr.eqns):
    if not equation.effects and needed.isdisjoint(equation.outvars):
      continue
    total += _count_equation(equation, needed)
    needed.update(filter(_is_variable, equation.invars))
  return total


def _is_variable(x):
  return isinstance(x, jax.extend.core.Var)


def _count_equation(equation, needed):
  name, params = equation.primitive.name, equation.params
  inner = list(jax.extend.core.jaxprs_in_params(params))
  if name == 'cond':
    return max(map(count, inner))
  if name == 'scan':
    return params['length'] * sum(map(count, inner))
  if name == 'dot_general':
    return _of_product(equation)
  if name == 'conv_general_dilated':
    return _of_convolution(equation)
  if name in ('jit', 'pjit', 'shard_map'):
    (jaxpr,) = inner
    outputs = zip(jaxpr.outvars, equation.outvars, strict=True)
    each = _count(jaxpr, [x for x, outer in outputs if outer in needed])
    # The body of a shard_map is that of one device.
    return each * (params['mesh'].size if name == 'shard_map' else 1)
  if inner:
    return sum(map(count, inner))
  if name in _MOVES:
    return 0
  return max(map(_num_floats, (*equation.invars, *equation.outvars)), default=0)


def _num_floats(variable):
  """Numbers in a variable, 0 unless they are floating-point."""
  dtype = getattr(variable.aval, 'dtype', None)  # a token has none
  is_float = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
  return variable.aval.size if is_float else 0


def _of_product(equation):
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  (out,) = equation.outvars
  return 2 * out.aval.size * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation):
  params, (left, right) = equation.params, (x.aval.shape for x in equation.invars)
  batch, features, *_ = params['dimension_numbers'].out_spec
  _, inputs, *kernel_axes = params['dimension_numbers'].rhs_spec
  out = equation.outvars[0].aval.shape
  taps = (
    _num_taps(left[at], right[kernel], out[to], *window)
    for at, kernel, to, *window in zip(
      params['dimension_numbers'].lhs_spec[2:],
      kernel_axes,
      params['dimension_numbers'].out_spec[2:],
      params['window_strides'],
      params['padding'],
      params['lhs_dilation'],
      params['rhs_dilation'],
      strict=True,
    )
  )
  return 2 * out[batch] * out[features] * right[inputs] * math.prod(taps)


def _num_taps(side, kernel, out, stride, padding, dilation, kernel_dilation):
  """Pairs of a position and a tap that meet an input, along one axis."""
  at = stride * np.arange(out)[:, None] + kernel_dilation * np.arange(kernel) - padding[0]
  return np.sum((at % dilation == 0) & (at >= 0) & (at < dilation * side))
