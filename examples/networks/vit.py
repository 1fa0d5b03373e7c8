"""A small vision transformer in Flax (Dosovitskiy et al. 2020, arXiv 2010.11929).

--config.classifier.arch=examples.networks.vit:ViT
"""

import flax.linen as nn
import jax.numpy as jnp


class ViT(nn.Module):
  num_classes: int
  patch: int = 4
  width: int = 64
  depth: int = 3
  heads: int = 4
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images):
    size = (self.patch, self.patch)
    x = nn.Conv(self.width, size, size, dtype=self.dtype, name='patches')(images)
    x = x.reshape(len(x), -1, self.width)
    x += self.param('positions', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    norm = lambda: nn.LayerNorm(dtype=self.dtype)
    for _ in range(self.depth):
      x += nn.MultiHeadAttention(self.heads, dtype=self.dtype)(norm()(x))
      y = nn.gelu(nn.Dense(4 * self.width, dtype=self.dtype)(norm()(x)))
      x += nn.Dense(self.width, dtype=self.dtype)(y)
    return nn.Dense(self.num_classes)(norm()(x).mean(1))
