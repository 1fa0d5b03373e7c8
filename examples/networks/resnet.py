"""A pre-activation ResNet in Flax, as in any project.

    python -m gan_aug_jax ablate --workdir=runs/mine \\
        --config=configs/ablations/own_classifier.py \\
        --config.classifier.arch=examples.networks.resnet:ResNet
"""

import flax.linen as nn


class Block(nn.Module):
  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x, train):
    norm = lambda: nn.BatchNorm(use_running_average=not train, momentum=0.9)
    y = nn.relu(norm()(x))
    if x.shape[-1] != self.features or self.stride > 1:
      x = nn.Conv(self.features, (1, 1), self.stride, use_bias=False)(y)
    y = nn.Conv(self.features, (3, 3), self.stride, use_bias=False)(y)
    y = nn.Conv(self.features, (3, 3), use_bias=False)(nn.relu(norm()(y)))
    return x + y


class ResNet(nn.Module):
  num_classes: int
  features: tuple[int, ...] = (16, 32, 64)
  dropout: float = 0.1

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(self.features[0], (3, 3), use_bias=False)(x)
    for stage, features in enumerate(self.features):
      x = Block(features, stride=2 if stage else 1)(x, train)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    x = nn.relu(x).mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes)(x)
