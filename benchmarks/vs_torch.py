"""The same training steps in PyTorch: step times, and what synthesis adds.

    pip install torch && python -m benchmarks.vs_torch --config=configs/cifar10.py

Compares our fused step and our GAN step with well-written PyTorch: the same networks,
batch size, optimizer and images on the device; eager and torch.compile; contiguous and
channels last; sampling without gradients. On a GPU there is also the whole step captured
as a CUDA graph, and ours takes several steps per call, as a run does. `--batches` and
`--precisions` repeat all of it: 'float32', which is TF32 on recent NVIDIA GPUs, for both;
'highest', full float32; 'bfloat16', which is autocast in PyTorch.

Each framework runs in a fresh process, so that their thread pools do not compete; all
arms take turns in runs of `--steps` steps. First, a check in one process on the CPU that
both compute the same: with our parameters copied over, the generated images, the logits,
the gradients of the GAN and the parameters after an update agree.

The arm is `augmented`, as classical augmentation would be different code in PyTorch.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from typing import Any

from absl import app, flags
from ml_collections import config_flags
import numpy as np

from benchmarks import noise, timing
from gan_aug_jax.training import devices

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10.py')
RATIOS = flags.DEFINE_list('ratios', ['0.2', '0.5'], 'All above 0.')
BATCHES = flags.DEFINE_list(
  'batches', [], "Batch sizes of the classifier; [], the config's."
)
PRECISIONS = flags.DEFINE_list('precisions', ['float32'], 'Also bfloat16, highest.')
STEPS = flags.DEFINE_integer('steps', 12, 'Least number of steps of a run.')
COMPILE = flags.DEFINE_bool(
  'compile', True, 'Also time torch.compile, which needs a C++ compiler.'
)
WORKER = flags.DEFINE_enum('worker', '', ['', 'jax', 'torch', 'check'], 'Internal.')

_SHAPE = (32, 32, 3)
_GAN = 'GAN'

# {group: its fields that PyTorch's steps read as ours do, or that no step reads}
_SHARED = {
  'cache': (),
  'classifier': ('batch_size', 'learning_rate', 'momentum', 'num_epochs', 'num_steps'),
  'filter': (),
  'gan': ('beta1', 'beta2', 'label_smoothing', 'latent_dim', 'width'),
  'generator': ('batch_size', 'ema_decay', 'learning_rate', 'num_epochs', 'num_steps'),
  'latents': (),
  'mix': ('draw_ahead_mib', 'ratio'),
  'targets': (),
}


def read_config(batch='', precision='float32'):
  """The config with another batch size and precision.

  A sentence ends the process if only our steps read a field that it sets.
  """
  config = CONFIG.value.copy_and_resolve_references()
  ours_alone = [
    f'{group}.{name}'
    for group, shared in _SHARED.items()
    for name in config[group]
    if name not in shared
  ]
  timing.check_defaults(
    config, ['data.image_size', *ours_alone], "is not read by PyTorch's steps"
  )
  if batch:
    config.classifier.batch_size = int(batch)
  if precision == 'highest':
    config.matmul_precision = 'highest'
  else:
    config.precision = precision
  return config


def jax_takes(config):
  """Returns {arm: timed run of our step}, and `timing.describe` of where."""
  layout, where = timing.start(config, 1)  # one device, as PyTorch
  from benchmarks import dry_run

  takes = {}
  for ratio in ['0', *RATIOS.value]:
    one = config.copy_and_resolve_references()
    one.mix.ratio = float(ratio)
    arm = dry_run.arm_step(*dry_run.on_noise(one, layout), 'augmented')
    takes[f'ours {ratio}'] = timing.compile_calls(arm).run(STEPS.value)
  gan = dry_run.generator_step(*dry_run.on_noise(config, layout))
  takes[f'ours {_GAN}'] = timing.compile_calls(gan).run(STEPS.value)
  return takes, where


@dataclasses.dataclass(frozen=True)
class Variant:
  """A way to run PyTorch.

  Attributes:
    name: of the way.
    device: 'cpu' or 'cuda'.
    memory_format: of images and kernels.
    compiled: whether with torch.compile.
    captured: whether the whole step is captured as a CUDA graph.
    bfloat16: whether under autocast.
  """

  name: str
  device: str
  memory_format: Any
  compiled: bool = False
  captured: bool = False
  bfloat16: bool = False

  def place(self, module):
    return module.to(self.device, memory_format=self.memory_format)

  def wrap(self, function):
    import torch

    return torch.compile(function) if self.compiled else function

  def autocast(self):
    """The context of a forward pass."""
    import torch

    if not self.bfloat16:
      return contextlib.nullcontext()
    # A captured step has no cast weights to keep from one step to the next.
    return torch.autocast(self.device, torch.bfloat16, cache_enabled=not self.captured)


def list_variants(config):
  """The `Variant`s that there are on this machine."""
  import torch

  on_gpu = torch.cuda.is_available() and config.platform in ('', 'gpu')
  formats = {'': torch.contiguous_format, ', channels last': torch.channels_last}
  variants = []
  kinds = [('eager', {})]
  kinds += [('torch.compile', {'compiled': True})] if COMPILE.value else []
  kinds += [('CUDA graph', {'captured': True})] if on_gpu else []
  for kind, how in kinds:
    for suffix, memory_format in formats.items():
      variants.append(
        Variant(
          kind + suffix,
          'cuda' if on_gpu else 'cpu',
          memory_format,
          bfloat16=config.precision == 'bfloat16',
          **how,
        )
      )
  return variants


def torch_takes(config):
  """Returns {arm: timed run of PyTorch's step}, and its version and device."""
  import torch

  devices.keep_freed_memory()  # as for ours: PyTorch allocates large blocks too
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  takes, variants = {}, list_variants(config)
  # As ours: TF32 on a GPU that has it, unless full precision is asked for.
  with_tf32 = config.matmul_precision == 'default'
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = with_tf32
  torch.backends.cudnn.benchmark = True  # XLA chooses kernels by their speed too
  for variant in variants:
    try:
      takes |= variant_takes(config, variant)
    except Exception as error:  # torch.compile needs a compiler, or Triton
      reason = str(error).strip().splitlines() or [type(error).__name__]
      print(f'{variant.name} does not run here: {reason[0]}', file=sys.stderr)
  on_gpu = variants[0].device == 'cuda'
  device = torch.cuda.get_device_name() if on_gpu else 'CPU'
  return takes, {'torch': torch.__version__, "torch's device": device}


def variant_takes(config, variant):
  """Returns {arm: timed run} of a variant, each having taken its first steps."""
  import torch

  dataset = noise.make_dataset(_SHAPE)
  images = torch.from_numpy(dataset.train.images.transpose(0, 3, 1, 2).copy())
  labels = torch.from_numpy(dataset.train.labels).long()
  images, labels = images.to(variant.device), labels.to(variant.device)

  def batch(size):
    rows = torch.randint(0, len(images), (size,), device=variant.device)
    real = images[rows].float() / 127.5 - 1
    return real.contiguous(memory_format=variant.memory_format), labels[rows]

  steps = {
    ratio: make_torch_step(config, float(ratio), batch, variant)
    for ratio in ['0', *RATIOS.value]
  }
  steps[_GAN] = make_torch_gan_step(config, batch, variant)
  return {
    f'{variant.name} {what}': _timed(_captured(step) if variant.captured else step)
    for what, step in steps.items()
  }


def _timed(step):
  import torch

  wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
  step()

  def take():
    wait()
    began = time.perf_counter()
    for _ in range(STEPS.value):
      step()
    wait()
    return (time.perf_counter() - began) / STEPS.value

  return take


def _captured(step):
  """Captures a step as a CUDA graph; returns what replays it."""
  import torch

  # Warmed up on another stream, as PyTorch's notes on CUDA graphs ask for.
  stream = torch.cuda.Stream()
  stream.wait_stream(torch.cuda.current_stream())
  with torch.cuda.stream(stream):
    for _ in range(4):
      step()
  torch.cuda.current_stream().wait_stream(stream)
  graph = torch.cuda.CUDAGraph()
  with torch.cuda.graph(graph):
    step()

  def replay():
    graph.replay()

  # A graph reads the parameters where they were and does not keep them: without the step
  # they would be freed, and handed back to the device when the next graph is captured.
  replay.step = step
  return replay


def make_torch_step(config, ratio, batch, variant):
  """Returns a function that takes a step of the classifier with synthetic images."""
  import torch
  from torch.nn import functional

  from benchmarks import torch_models

  # Inference mode is the cheapest, but torch.compile does not support it here.
  without_grad = torch.no_grad if variant.compiled else torch.inference_mode
  settings, total = config.classifier, config.classifier.batch_size
  model = variant.place(torch_models.CNN(_SHAPE[-1]))
  generator = torch_models.Generator(
    _SHAPE[-1], config.gan.latent_dim, config.gan.width, by_subpixel=True
  )
  sample = variant.wrap(variant.place(generator.eval()))
  optimizer = torch.optim.SGD(
    model.parameters(), settings.learning_rate, settings.momentum, foreach=True
  )
  num_synthetic = int(ratio * total + 0.5)
  loss_of = variant.wrap(lambda x, y: functional.cross_entropy(model(x), y))

  def draw():
    device = variant.device
    classes = torch.randint(0, torch_models.NUM_CLASSES, (num_synthetic,), device=device)
    latent = torch.randn(num_synthetic, config.gan.latent_dim, device=device)
    with without_grad(), variant.autocast():
      return sample(latent, classes), classes

  def step():
    x, y = batch(total - num_synthetic)
    if num_synthetic:
      fake, classes = draw()
      x, y = torch.cat([fake.to(x.dtype), x]), torch.cat([classes, y])
    optimizer.zero_grad(set_to_none=True)
    with variant.autocast():
      loss = loss_of(x, y)
    loss.backward()
    optimizer.step()

  return step


def make_torch_gan_step(config, batch, variant):
  """Returns a function that takes a step of the GAN."""
  import torch

  from benchmarks import torch_models

  settings, of_all, device = config.gan, config.generator, variant.device
  generator = variant.place(
    torch_models.Generator(_SHAPE[-1], settings.latent_dim, settings.width)
  )
  discriminator = variant.place(torch_models.Discriminator(_SHAPE[-1], settings.width))
  adam = lambda module: torch.optim.Adam(
    module.parameters(),
    of_all.learning_rate,
    (settings.beta1, settings.beta2),
    foreach=True,
    capturable=variant.captured,
  )
  generator_tx, discriminator_tx = adam(generator), adam(discriminator)
  average = [parameter.detach().clone() for parameter in generator.parameters()]
  generate, judge = variant.wrap(generator), variant.wrap(discriminator)
  real_label = 1 - settings.label_smoothing

  def step():
    x, y = batch(of_all.batch_size)
    latent = torch.randn(of_all.batch_size, settings.latent_dim, device=device)
    with variant.autocast():
      fake = generate(latent, y).to(x.dtype)
    discriminator_tx.zero_grad(set_to_none=True)
    with variant.autocast():
      logits = judge(torch.cat([x, fake.detach()]), torch.cat([y, y]))
    torch_models.discriminator_loss(logits.float(), real_label).backward()
    discriminator_tx.step()
    generator_tx.zero_grad(set_to_none=True)
    discriminator.requires_grad_(False)
    with variant.autocast():
      logits = judge(fake, y)
    torch_models.generator_loss(logits.float()).backward()
    discriminator.requires_grad_(True)
    generator_tx.step()
    parameters = [parameter.detach() for parameter in generator.parameters()]
    torch._foreach_lerp_(average, parameters, 1 - of_all.ema_decay)

  return step


def check(config):
  """Compares the two frameworks.

  Returns:
    {what: largest difference}: absolute for images and logits; relative to the largest
    value for gradients, and for parameters after an update at a learning rate of 0.1.
  """
  import jax
  import jax.numpy as jnp
  import optax
  import torch
  from torch.nn import functional

  from benchmarks import torch_models
  from gan_aug_jax.models import classifiers, discriminators, generators
  from gan_aug_jax.step import losses

  count, width, latent_dim = 16, 16, 20
  random = np.random.default_rng(0)
  normal = lambda *shape: random.normal(size=shape).astype(np.float32)
  latent, real = normal(count, latent_dim), normal(count, *_SHAPE)
  labels = random.integers(0, torch_models.NUM_CLASSES, count).astype(np.int32)
  their_labels, their_latent = torch.from_numpy(labels).long(), torch.from_numpy(latent)
  to_theirs = lambda images: torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  key, num_classes = jax.random.key(0), torch_models.NUM_CLASSES
  louder = lambda tree: jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, tree)

  ours = generators.build_generator(
    'dcgan', image_shape=_SHAPE, num_classes=num_classes, width=width
  )
  variables = louder(ours.init(key, latent, labels, train=False))
  params, stats = variables['params'], variables['batch_stats']
  images = np.asarray(ours.apply(variables, latent, labels, train=False))
  gaps = {}
  for by_subpixel in (False, True):
    theirs = torch_models.Generator(_SHAPE[-1], latent_dim, width, by_subpixel)
    theirs.load(params, stats)
    with torch.inference_mode():
      their_images = theirs.eval()(their_latent, their_labels)
    name = 'generated images' + ' by sub-pixel' * by_subpixel
    gaps[name] = _gap(images, _images(their_images))

  cnn = classifiers.build_classifier('cnn', num_classes=num_classes)
  weights = cnn.init(key, real, train=False)['params']
  their_cnn = torch_models.CNN(_SHAPE[-1])
  their_cnn.load(weights)
  logits = lambda weights: cnn.apply({'params': weights}, real, train=True)
  their_logits = their_cnn(to_theirs(real))
  gaps['logits'] = _gap(logits(weights), their_logits.detach())
  loss = lambda weights: jnp.mean(losses.cross_entropy(logits(weights), labels))
  tx = optax.sgd(0.1, 0.9)
  updates, _ = tx.update(jax.grad(loss)(weights), tx.init(weights), weights)
  their_tx = torch.optim.SGD(their_cnn.parameters(), 0.1, 0.9)
  functional.cross_entropy(their_logits, their_labels).backward()
  their_tx.step()
  updated = torch_models.CNN(_SHAPE[-1])
  updated.load(optax.apply_updates(weights, updates))
  gaps['classifier after an update'] = _gap_of(updated, their_cnn, lambda p: p)

  judge = discriminators.build_discriminator(
    'dcgan', num_classes=num_classes, width=width
  )
  opinion = louder(judge.init(key, real, labels)['params'])
  their_judge = torch_models.Discriminator(_SHAPE[-1], width)
  their_judge.load(opinion)
  real_label = 1 - config.gan.label_smoothing
  gan_loss = losses.make_gan_loss('non_saturating', real_label=real_label)

  def judged(opinion, images):
    return judge.apply({'params': opinion}, images, labels)

  def draw(params):
    state = {'params': params, 'batch_stats': stats}
    return ours.apply(state, latent, labels, train=True, mutable=['batch_stats'])[0]

  def discriminator_loss(opinion):
    pair = judged(opinion, real), judged(opinion, images)
    return jnp.mean(gan_loss.discriminator(*pair))

  def generator_loss(params):
    return jnp.mean(gan_loss.generator(judged(opinion, draw(params)), None))

  both = torch.cat([to_theirs(real), to_theirs(images)])
  their_loss = torch_models.discriminator_loss(
    their_judge(both, torch.cat([their_labels] * 2)), real_label
  )
  their_loss.backward()
  expected = torch_models.Discriminator(_SHAPE[-1], width)
  expected.load(jax.grad(discriminator_loss)(opinion))
  gaps["discriminator's gradient"] = _gap_of(expected, their_judge, lambda p: p.grad)
  their_images = theirs.train()(their_latent, their_labels)
  torch_models.generator_loss(their_judge(their_images, their_labels)).backward()
  expected = torch_models.Generator(_SHAPE[-1], latent_dim, width, by_subpixel)
  expected.load(jax.grad(generator_loss)(params))
  gaps["generator's gradient"] = _gap_of(expected, theirs, lambda p: p.grad)
  return gaps


def _images(tensor):
  return tensor.permute(0, 2, 3, 1)


def _gap(one, other):
  return float(np.max(np.abs(np.asarray(one) - np.asarray(other))))


def _gap_of(expected, module, read):
  """Returns the largest difference of values, relative to the largest value."""
  pairs = list(zip(expected.parameters(), module.parameters(), strict=True))
  gaps = [_gap(one.detach(), read(other).detach()) for one, other in pairs]
  largest = max(float(one.detach().abs().max()) for one, _ in pairs)
  return max(gaps) / largest


class Worker:
  """A process of one framework that times runs on request."""

  def __init__(self, kind, *setting):
    command = [sys.executable, '-m', 'benchmarks.vs_torch', *sys.argv[1:]]
    command += [f'--worker={kind}', *setting]
    pipe = subprocess.PIPE
    environment = os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
    self._process = subprocess.Popen(
      command, stdin=pipe, stdout=pipe, text=True, env=environment
    )
    self.first = self.read()

  def read(self):
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    sys.exit('A worker stopped; see its output above.')

  def take(self, arm):
    self._process.stdin.write(arm + '\n')
    self._process.stdin.flush()
    return self.read()['seconds']

  def close(self):
    self._process.stdin.close()
    self._process.wait()


def work(takes, where):
  """Times the arms named on standard input, one per line."""
  print(json.dumps({'arms': list(takes), 'where': where}), flush=True)
  for line in sys.stdin:
    print(json.dumps({'seconds': takes[line.strip()]()}), flush=True)


def summarize(seconds):
  """Returns {variant: {ratio or GAN: row}}; the variants are 'ours' and PyTorch's."""
  rows = {}
  for arm, times in seconds.items():
    variant, _, what = arm.rpartition(' ')
    base = None if what == _GAN else f'{variant} 0'
    row = timing.compare(
      {arm: times} | ({base: seconds[base]} if base else {}), base or arm
    )
    rows.setdefault(variant, {})[what] = row[arm]
  return rows


def compare(batch, precision):
  """Times both frameworks in one setting; returns where, rows and the best by column."""
  setting = f'--batches={batch}', f'--precisions={precision}'
  workers = [Worker('jax', *setting), Worker('torch', *setting)]
  takes = {
    arm: lambda worker=worker, arm=arm: worker.take(arm)
    for worker in workers
    for arm in worker.first['arms']
  }
  seconds = timing.interleave(takes, timing.ROUNDS.value)
  for worker in workers:
    worker.close()
  where = {k: v for worker in workers for k, v in worker.first['where'].items()}
  rows, best = summarize(seconds), {}
  for what in rows['ours']:
    others = [name for name in rows if name != 'ours']
    name = min(others, key=lambda other: rows[other][what]['ms'])
    times = float(np.median(seconds[f'ours {what}'] / seconds[f'{name} {what}']))
    best[what] = {'variant': name, 'ours_to_best': times}
  return where, rows, best


def show(rows, best):
  """Prints the tables of one setting."""
  table = [
    [variant, what, timing.per_step(row), '' if what == _GAN else timing.added(row)]
    for variant, by_ratio in rows.items()
    for what, row in by_ratio.items()
  ]
  timing.print_table(['variant', 'ratio', 'per step', 'added'], table)
  for what, found in best.items():
    print(
      f'{what}: ours takes {found["ours_to_best"]:.2f} times as long as the best of '
      f'PyTorch, {found["variant"]}',
      flush=True,
    )


def main(_):
  if WORKER.value == 'check':
    config = read_config()
    timing.start(config, 1)  # a CPU, as PyTorch: a GPU's products are in TF32
    print(json.dumps(check(config)), flush=True)
    return
  if WORKER.value:
    config = read_config(BATCHES.value[0], PRECISIONS.value[0])
    work(*(jax_takes(config) if WORKER.value == 'jax' else torch_takes(config)))
    return
  base, settings = read_config(), {}
  gaps = Worker('check', '--config.platform=cpu').first
  print(', '.join(f'{what}: {gap:.1e}' for what, gap in gaps.items()) + '\n', flush=True)
  if max(gaps.values()) > 1e-4:
    sys.exit('The two frameworks do not compute the same.')
  for precision in PRECISIONS.value:
    for batch in BATCHES.value or [str(base.classifier.batch_size)]:
      where, rows, best = compare(batch, precision)
      if not settings:
        timing.print_where(where)
      print(f'Batch {batch}, {precision}\n')
      show(rows, best)
      settings[f'{batch}, {precision}'] = {'rows': rows, 'best': best}
      # As they arrive: the machine may be taken away.
      first = next(iter(settings.values()))['rows']
      timing.finish({**where, 'gaps': gaps, 'settings': settings}, draw(first))


def draw(rows):
  """Returns a function that plots step times by ratio."""

  def onto(ax):
    for variant, by_ratio in rows.items():
      points = {what: row['ms'] for what, row in by_ratio.items() if what != _GAN}
      ax.plot(list(map(float, points)), list(points.values()), marker='o', label=variant)
    ax.set_xlabel('synthetic ratio')
    ax.set_ylabel('ms per step')
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)

  return onto


if __name__ == '__main__':
  app.run(main)
