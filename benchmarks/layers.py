"""Where a step spends its time: each convolution, compared with a matrix product.

    python -m benchmarks.layers --config=configs/cifar10.py

Times every convolution of the CNN, of the DCGAN's generator when sampling and training,
and of its discriminator: forward, gradient of the weights, and gradient of the input,
compiled by XLA's defaults and by `programs.Program`, all interleaved in one process
on one device. GFLOP/s count a product at every tap, including those in the padding. The
last row is a large matrix product. The networks are the default ones for images of 32 x
32, with the config's batch sizes, ratio and width of the GAN.
"""

import time

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from benchmarks import timing

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
CHANNELS = flags.DEFINE_integer('channels', 3, 'Of the images.')

# What `list_layers` takes for granted.
_FIXED = ('classifier.arch', 'classifier.features', 'data.image_size', 'gan.arch')
_FIXED += ('gan.upsampling', 'generator.family', 'precision')


def list_layers(config):
  """{name: (batch, side, inputs, outputs, kernel, stride)}."""
  size, width = CHANNELS.value, config.gan.width
  batch, of_gan = config.classifier.batch_size, config.generator.batch_size
  few = int(config.mix.ratio * batch + 0.5)
  layers = {}
  features = (size, 32, 64, 128)
  for i, side in enumerate((32, 16, 8)):
    layers[f'CNN {i + 1}'] = (batch, side, features[i], features[i + 1], 3, 1)
  depths = (4 * width, 2 * width, width, size)
  for i, side in enumerate((4, 8, 16)):
    # Padded separately, see `layers.UPSAMPLINGS`.
    layer = (side + 2, depths[i], 4 * depths[i + 1], 2, 1)
    layers[f'generator {i + 1}, {few} samples'] = (few, *layer)
    layers[f'generator {i + 1}, training'] = (of_gan, *layer)
  depths = (size + 10, width, 2 * width, 4 * width)
  for i, side in enumerate((32, 16, 8)):
    layer = (side, depths[i], depths[i + 1], 4, 2)
    layers[f'discriminator {i + 1}'] = (2 * of_gan, *layer)
  return layers


def passes(layer):
  """Returns {pass: (function, arguments)} of a layer, and its operations."""
  import jax
  import jax.numpy as jnp

  batch, side, inputs, outputs, kernel, stride = layer
  padding, after = ('VALID', side - 1) if kernel == 2 else ('SAME', side // stride)
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)

  def forward(x, weights):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
      x, weights, (stride, stride), padding, dimension_numbers=numbers
    )

  def of_weights(x, weights, grad):
    return jax.vjp(lambda weights: forward(x, weights), weights)[1](grad)

  def of_input(x, weights, grad):
    return jax.vjp(lambda x: forward(x, weights), x)[1](grad)

  x, weights = draw(batch, side, side, inputs), draw(kernel, kernel, inputs, outputs)
  grad = draw(batch, after, after, outputs)
  operations = 2 * grad.size * kernel * kernel * inputs
  functions = {
    'forward': (forward, (x, weights)),
    'weights': (of_weights, (x, weights, grad)),
    'input': (of_input, (x, weights, grad)),
  }
  return functions, operations


def main(_):
  config = CONFIG.value
  timing.check_defaults(config, _FIXED, 'is not what is timed here')
  layout, where = timing.start(config, 1)
  import jax
  import jax.numpy as jnp

  from gan_aug_jax.step import programs

  def run(program, arguments):
    def take():
      began = time.perf_counter()
      jax.block_until_ready(program(*arguments))
      return time.perf_counter() - began

    return take

  takes, operations = {}, {}
  for name, layer in list_layers(config).items():
    functions, operations[name] = passes(layer)
    for which, (function, arguments) in functions.items():
      arguments = layout.replicate(arguments)
      default = jax.jit(function).lower(*arguments).compile()
      ours = programs.Program(function, layout, donate=())
      takes[name, which, 'default'] = run(default, arguments)
      takes[name, which, 'ours'] = run(ours, arguments)
  matrix = jnp.ones((2048, 2048))
  takes['product'] = run(jax.jit(lambda x: x @ x), (matrix,))
  seconds = timing.interleave(takes, timing.ROUNDS.value)
  product = float(np.median(seconds.pop('product')))
  rows, table = {}, []
  for name, count in operations.items():
    row = rows[name] = {'operations': count}
    for which in ('forward', 'weights', 'input'):
      for how in ('default', 'ours'):
        median = float(np.median(seconds[name, which, how]))
        row[f'{which} {how}'] = {'ms': 1e3 * median, 'gflops': count / median / 1e9}
    cells = [
      f'{row[f"{which} {how}"]["ms"]:.1f} ({row[f"{which} {how}"]["gflops"]:.0f})'
      for which in ('forward', 'weights', 'input')
      for how in ('default', 'ours')
    ]
    table.append([name, f'{count / 1e9:.2f}', *cells])
  rate = 2 * 2048**3 / product / 1e9
  table.append(['2048 x 2048 product', '17.18', f'{1e3 * product:.1f} ({rate:.0f})'])
  table[-1] += [''] * 5
  headings = ['layer', 'GFLOP']
  for which in ('forward', 'weights', 'input'):
    headings += [f'{which}, XLA default: ms (GFLOP/s)', f'{which}, ours']
  timing.print_table(headings, table)
  bars = {}
  for name, row in rows.items():
    for which in ('forward', 'weights', 'input'):
      ms = row[f'{which} ours']['ms']
      bars[f'{name}, {which}'] = {'ms': ms, 'quartiles': [ms, ms]}
  result = {**where, 'product_gflops': rate, 'layers': rows}
  timing.finish(result, timing.draw_bars(bars))


if __name__ == '__main__':
  app.run(main)
