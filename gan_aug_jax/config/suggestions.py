"""What to say about a name that is no config field: which one was meant."""

from collections.abc import Iterable
import difflib
import re

from gan_aug_jax.config.fields import FIELDS, renamed

# {what others call a field, without its group and underscores: how ours ends}
_SYNONYMS = {
  'amp': 'precision',
  'architecture': 'arch',
  'batch': 'batch_size',
  'batchsize': 'batch_size',
  'bn': 'batch_norm',
  'bs': 'batch_size',
  'channels': 'features',
  'checkpointevery': 'save_every_steps',
  'dataset': 'name',
  'datapath': 'data_dir',
  'device': 'platform',
  'dir': 'data_dir',
  'dtype': 'precision',
  'ema': 'ema_decay',
  'epoch': 'num_epochs',
  'epochs': 'num_epochs',
  'evalevery': 'eval_every_steps',
  'gradclip': 'clip_norm',
  'hiddensize': 'hidden',
  'hiddensizes': 'hidden',
  'horizontalflip': 'flip',
  'imgsize': 'image_size',
  'iterations': 'num_steps',
  'iters': 'num_steps',
  'labelsperclass': 'label_budget',
  'latentsize': 'latent_dim',
  'logevery': 'every_steps',
  'lr': 'learning_rate',
  'lrschedule': 'schedule',
  'maxsteps': 'num_steps',
  'mixedprecision': 'precision',
  'model': 'arch',
  'ncritic': 'd_steps',
  'network': 'arch',
  'nepochs': 'num_epochs',
  'nz': 'latent_dim',
  'optim': 'optimizer',
  'optimiser': 'optimizer',
  'padding': 'crop_padding',
  'path': 'data_dir',
  'randomseed': 'seed',
  'resolution': 'image_size',
  'root': 'data_dir',
  'saveevery': 'save_every_steps',
  'scheduler': 'schedule',
  'smoothing': 'label_smoothing',
  'steps': 'num_steps',
  'syntheticratio': 'ratio',
  'valratio': 'val_fraction',
  'valsplit': 'val_fraction',
  'warmup': 'warmup_steps',
  'wd': 'weight_decay',
  'zdim': 'latent_dim',
}


def no_such_field(name: str, known: Iterable[str] = tuple(FIELDS)) -> str:
  """The sentence about a name that is no field.

  Args:
    name: dotted, with or without its group.
    known: the fields that there are.
  """
  if now := renamed(name):
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
  meant = {plain(last), plain(_SYNONYMS.get(plain(last), ''))}
  found = [field for field in known if plain(field.rpartition('.')[2]) in meant]
  return [field for field in found if field.rpartition('.')[0] == group] or found
