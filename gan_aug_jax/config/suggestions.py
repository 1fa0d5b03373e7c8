"""What to say about a name that is no config field: which one was meant."""

from collections.abc import Iterable
import difflib
import re

from gan_aug_jax.config import renamed
from gan_aug_jax.config.fields import FIELDS

# {how a field of ours ends: what others call it, without its group and underscores}
_SYNONYMS = {
  'arch': 'architecture model network',
  'batch_norm': 'bn',
  'batch_size': 'batch batchsize bs',
  'clip_norm': 'gradclip',
  'crop_padding': 'padding',
  'd_steps': 'ncritic',
  'data_dir': 'datapath dir path root',
  'ema_decay': 'ema',
  'eval_every_steps': 'evalevery',
  'every_steps': 'logevery',
  'features': 'channels',
  'flip': 'horizontalflip',
  'hidden': 'hiddensize hiddensizes',
  'image_size': 'imgsize resolution',
  'label_budget': 'labelsperclass',
  'label_smoothing': 'smoothing',
  'latent_dim': 'latentsize nz zdim',
  'learning_rate': 'lr',
  'name': 'dataset',
  'num_epochs': 'epoch epochs nepochs',
  'num_steps': 'iterations iters maxsteps steps',
  'optimizer': 'optim optimiser',
  'platform': 'device',
  'precision': 'amp dtype mixedprecision',
  'ratio': 'syntheticratio',
  'save_every_steps': 'checkpointevery saveevery',
  'schedule': 'lrschedule scheduler',
  'seed': 'randomseed',
  'val_fraction': 'valratio valsplit',
  'warmup_steps': 'warmup',
  'weight_decay': 'wd',
}
_OURS = {word: ours for ours, words in _SYNONYMS.items() for word in words.split()}


def no_such_field(name: str, known: Iterable[str] = tuple(FIELDS)) -> str:
  """The sentence about a name that is no field.

  Args:
    name: dotted, with or without its group.
  """
  if now := renamed.describe(name):
    return now
  close = of_meaning(name, known) or difflib.get_close_matches(name, known, n=1)
  hint = f'did you mean {" or ".join(close)}?' if close else 'docs/config.md lists them.'
  return f'There is no config field {name!r}; {hint}'


def of_meaning(name: str, known: Iterable[str] = tuple(FIELDS)) -> list[str]:
  """Fields that end in the same word or in one that means it, in its group or anywhere.

  Args:
    name, known: see `no_such_field`.
  """
  group, _, last = name.rpartition('.')
  plain = lambda text: re.sub(r'[^a-z0-9]', '', text.lower())
  meant = {plain(last), plain(_OURS.get(plain(last), ''))}
  found = [field for field in known if plain(field.rpartition('.')[2]) in meant]
  return [field for field in found if field.rpartition('.')[0] == group] or found
