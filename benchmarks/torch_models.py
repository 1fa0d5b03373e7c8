"""The reference networks in PyTorch, with loaders for the parameters of ours.

The CNN, and the generator and discriminator of the DCGAN, with the same layers as in
gan_aug_jax/models. Images are [B, C, 32, 32], contiguous or channels last.
"""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

NUM_CLASSES = 10


class CNN(nn.Module):
  """Three times 3x3 convolution, ReLU and 2x2 max-pooling; a hidden layer; logits."""

  def __init__(self, channels, features=(32, 64, 128), hidden=128):
    super().__init__()
    pairs = itertools.pairwise((channels, *features))
    self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
    self.hidden = nn.Linear(features[-1] * 16, hidden)
    self.classes = nn.Linear(hidden, NUM_CLASSES)

  def forward(self, x):
    for convolution in self.convolutions:
      x = functional.max_pool2d(functional.relu(convolution(x)), 2)
    return self.classes(functional.relu(self.hidden(x.flatten(1))))

  def load(self, params):
    """Loads the parameters of our CNN."""
    for i, convolution in enumerate(self.convolutions):
      _copy(convolution.weight, _kernel(params[f'Conv_{i}']['kernel']))
      _copy(convolution.bias, params[f'bias_{i}'])
    flat = np.asarray(params['Dense_0']['kernel']).reshape(
      4, 4, -1, self.hidden.out_features
    )
    _copy(
      self.hidden.weight, flat.transpose(3, 2, 0, 1).reshape(self.hidden.weight.shape)
    )
    _copy(self.hidden.bias, params['Dense_0']['bias'])
    _copy(self.classes.weight, np.asarray(params['Dense_1']['kernel']).T)
    _copy(self.classes.bias, params['Dense_1']['bias'])


class Generator(nn.Module):
  """DCGAN generator, the one-hot label joined to the latent.

  Its 4 x 4 transposed convolutions are PyTorch's own, or by sub-pixel as ours: the first
  are faster in training, the second in sampling.
  """

  def __init__(self, channels, latent_dim, width, by_subpixel=False):
    super().__init__()
    self.by_subpixel = by_subpixel
    depths = (4 * width, 2 * width, width)
    self.dense = nn.Linear(latent_dim + NUM_CLASSES, 16 * depths[0], bias=False)
    self.norms = nn.ModuleList(nn.BatchNorm2d(depth) for depth in depths)
    outputs = (*depths[1:], channels)
    self.convolutions = nn.ModuleList(
      self._convolution(depth, out, out == channels)
      for depth, out in zip(depths, outputs, strict=True)
    )

  def _convolution(self, depth, out, bias):
    if self.by_subpixel:
      return nn.Conv2d(depth, 4 * out, 2, padding=1, bias=bias)
    return nn.ConvTranspose2d(depth, out, 4, stride=2, padding=1, bias=bias)

  def forward(self, latent, labels):
    one_hot = functional.one_hot(labels, NUM_CLASSES).to(latent.dtype)
    x = self.dense(torch.cat([latent, one_hot], 1)).view(len(latent), -1, 4, 4)
    if self.convolutions[0].weight.is_contiguous(memory_format=torch.channels_last):
      x = x.contiguous(memory_format=torch.channels_last)
    for norm, convolution in zip(self.norms, self.convolutions, strict=True):
      x = convolution(functional.relu(norm(x)))
      if self.by_subpixel:
        x = functional.pixel_shuffle(x, 2)[:, :, 1:-1, 1:-1]
    return torch.tanh(x)

  def load(self, params, stats=None):
    """Loads the parameters and, if given, the running statistics of our generator."""
    dense = np.asarray(params['Dense_0']['kernel'])
    dense = dense.reshape(len(dense), 4, 4, -1).transpose(3, 1, 2, 0)
    _copy(self.dense.weight, dense.reshape(self.dense.weight.shape))
    for i, convolution in enumerate(self.convolutions):
      # Our kernels are [2, 2, in, (row, column, out)]; row and column are in a 2x2 block.
      kernel = np.asarray(params[f'Conv_{i}']['kernel'])
      kernel = kernel.reshape(*kernel.shape[:3], 2, 2, -1)
      bias = np.asarray(params[f'Conv_{i}'].get('bias', [])).reshape(4, -1).T
      if self.by_subpixel:
        kernel, bias = kernel.transpose(5, 3, 4, 2, 0, 1), bias.reshape(-1)
      else:
        kernel, bias = kernel[::-1, ::-1].transpose(2, 5, 0, 3, 1, 4), bias.mean(1)
      _copy(convolution.weight, kernel.reshape(convolution.weight.shape))
      if convolution.bias is not None:
        _copy(convolution.bias, bias)
    for i, norm in enumerate(self.norms):
      _copy(norm.weight, params[f'BatchNorm_{i}']['scale'])
      _copy(norm.bias, params[f'BatchNorm_{i}']['bias'])
      if stats:
        _copy(norm.running_mean, stats[f'BatchNorm_{i}']['mean'])
        _copy(norm.running_var, stats[f'BatchNorm_{i}']['var'])


class Discriminator(nn.Module):
  """4x4 convolutions with stride 2, group normalisation; one-hot labels as channels."""

  def __init__(self, channels, width):
    super().__init__()
    depths = (channels + NUM_CLASSES, width, 2 * width, 4 * width)
    self.convolutions = nn.ModuleList(
      nn.Conv2d(a, b, 4, stride=2, padding=1, bias=not i)
      for i, (a, b) in enumerate(itertools.pairwise(depths))
    )
    self.norms = nn.ModuleList(nn.GroupNorm(8, depth, eps=1e-6) for depth in depths[2:])
    self.dense = nn.Linear(16 * depths[-1], 1)

  def forward(self, x, labels):
    maps = functional.one_hot(labels, NUM_CLASSES).to(x.dtype)[:, :, None, None]
    x = torch.cat([x, maps.expand(-1, -1, *x.shape[2:])], 1)
    if self.convolutions[0].weight.is_contiguous(memory_format=torch.channels_last):
      x = x.contiguous(memory_format=torch.channels_last)
    x = functional.leaky_relu(self.convolutions[0](x), 0.2)
    for convolution, norm in zip(self.convolutions[1:], self.norms, strict=True):
      x = functional.leaky_relu(norm(convolution(x)), 0.2)
    return self.dense(x.flatten(1))[:, 0]

  def load(self, params):
    """Loads the parameters of our discriminator."""
    for i, convolution in enumerate(self.convolutions):
      _copy(convolution.weight, _kernel(params[f'Conv_{i}']['kernel']))
    _copy(self.convolutions[0].bias, params['Conv_0']['bias'])
    for i, norm in enumerate(self.norms):
      _copy(norm.weight, params[f'GroupNorm_{i}']['scale'])
      _copy(norm.bias, params[f'GroupNorm_{i}']['bias'])
    dense = np.asarray(params['Dense_0']['kernel']).reshape(4, 4, -1)
    _copy(self.dense.weight, dense.transpose(2, 0, 1).reshape(1, -1))
    _copy(self.dense.bias, params['Dense_0']['bias'])


def _kernel(kernel):
  """[H, W, in, out] to [out, in, H, W]."""
  return np.asarray(kernel).transpose(3, 2, 0, 1)


def _copy(tensor, values):
  with torch.no_grad():
    tensor.copy_(torch.from_numpy(np.array(values, np.float32)))


def discriminator_loss(logits, real_label):
  """Non-saturating loss with one-sided label smoothing; real logits come first."""
  real, fake = logits.chunk(2)
  targets = torch.full_like(real, real_label)
  return (
    functional.binary_cross_entropy_with_logits(real, targets)
    + functional.softplus(fake).mean()
  )


def generator_loss(logits):
  return functional.softplus(-logits).mean()
