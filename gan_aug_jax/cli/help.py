"""What the command line says about itself: the overview and a page for each command.

Must start fast: it imports no JAX.
"""

import dataclasses
import textwrap

from absl import flags

from gan_aug_jax.config import reference

_PROGRAM = 'python -m gan_aug_jax'


@dataclasses.dataclass(frozen=True)
class Page:
  """The help of a command.

  Attributes:
    summary: what it does, in a line.
    about: what else to know.
    examples: what follows the command's name.
    config: whether it takes a config file; otherwise the workdir has it.
  """

  summary: str
  about: str
  examples: tuple[str, ...]
  config: bool = False


_ALWAYS = ('workdir', 'verbose', 'debug')  # flags of every command
_FIRST = '--config=configs/mnist5k.py --workdir=runs/first'
PAGES = {
  'run': Page(
    'train the generator and every arm, and write the report',
    'Trains the generator, then a classifier for each arm, and evaluates them on the '
    'test split. Ends with a comparison of the arms, results.json and report.html. Run '
    'it again to resume after an interruption; what is finished is kept.',
    (
      _FIRST,
      '--config=configs/mnist5k.py --workdir=runs/half --config.mix.ratio=0.5 '
      '--config.data.label_budget=50',
    ),
    config=True,
  ),
  'train-generator': Page(
    'train the generator only (also: train-gan)',
    'Trains the generator, chooses its best checkpoint, and writes samples. Resumes.',
    (
      _FIRST,
      f'{_FIRST} --config.gan.arch=resnet --config.generator.num_steps=5000',
    ),
    config=True,
  ),
  'train-classifier': Page(
    'train the arms with the generator that is in the workdir',
    'Like run, for a workdir where train-generator is finished. Resumes.',
    (_FIRST, f"{_FIRST} --config.arms=\"('real_only','augmented')\""),
    config=True,
  ),
  'evaluate': Page(
    'evaluate the trained classifiers again',
    'Restores every finished arm and evaluates it on validation and test images.',
    ('--workdir=runs/first', '--workdir=runs/ratio/cells/NAME'),
  ),
  'sample': Page(
    'draw a grid of images from the generator',
    'Writes a PNG with a row of generated images for each class.',
    ('--workdir=runs/first', '--workdir=runs/first --seed=7'),
  ),
  'score': Page(
    'measure the quality of the generator',
    'Compares generated images with real ones that the generator has not seen: Fréchet '
    'and kernel distance, precision and recall, classification accuracy, copies. Writes '
    'score/ in the workdir.',
    ('--workdir=runs/first', '--workdir=runs/ratio/generators/NAME'),
  ),
  'predict': Page(
    'classify your images with a trained classifier',
    'Writes predictions.csv: the class and its probability for each image.',
    (
      '--workdir=runs/first --images=photos',
      '--workdir=runs/first --images=photo.png --arm=augmented --output=photo.csv',
    ),
  ),
  'export': Page(
    'write the generator to files, for use elsewhere',
    'Writes weights (safetensors), the program (StableHLO) and a description (JSON).',
    ('--workdir=runs/first', '--workdir=runs/first --output=generator'),
  ),
  'report': Page(
    'write report.html again',
    'Uses the files of a finished run; trains nothing. For an ablation, use ablate '
    '--collect.',
    ('--workdir=runs/first', '--workdir=runs/ratio/cells/NAME'),
  ),
  'ablate': Page(
    'train every arm of an ablation with every seed, and report',
    'Trains the arms of the config, and their controls, with several seeds, and says '
    'which arms help. Finished cells are kept; several machines can share the work.',
    (
      '--config=configs/ablations/ratio.py --workdir=runs/ratio --dry-run',
      '--config=configs/ablations/ratio.py --workdir=runs/ratio '
      '--config.ablation.seeds="(0,1,2)"',
    ),
    config=True,
  ),
  'fields': Page(
    'list the fields of a config: default, meaning, what is allowed',
    'Without a group it lists the groups; with one, the fields of that group; with a '
    'field, that field.',
    ('mix', 'mix.ratio'),
  ),
}

_END = """\
Exit codes: 0 success, 1 a bug (--debug shows where), 2 wrong usage, 3 a problem with data
or the machine, 75 stopped by a signal with the state saved (run the same command again to
resume)."""


def overview() -> str:
  """The help of the program."""
  commands = ''.join(f'  {name:17} {page.summary}\n' for name, page in PAGES.items())
  return f"""\
gan_aug_jax: does generative augmentation help your classifier, and what does it cost?

usage: {_PROGRAM} COMMAND --workdir=DIR [--config=FILE] [--config.FIELD=VALUE ...]

{commands}
Begin with:

  {_PROGRAM} run {_FIRST}

COMMAND --help explains a command, with examples. A config is a Python file; configs/ has
examples, and `fields` lists what the command line can change in it.

{_END}"""


def page_of(command: str, values: flags.FlagValues) -> str:
  """The help of a command.

  Args:
    command: one of `PAGES`.
    values: its flags; without those of the config.
  """
  page = PAGES[command]
  config = ' --config=FILE' if page.config else ''
  usage = (
    f'{config} --workdir=DIR [FLAGS]' if command != 'fields' else ' [GROUP or FIELD]'
  )
  lines = [f'{command}: {page.summary}', '', f'usage: {_PROGRAM} {command}{usage}', '']
  lines += [textwrap.fill(page.about, 88), '']
  file = "Config file, FILE:VARIANT, or a run's config.json."
  shown = {'config': file} if page.config else {}
  if command != 'fields':
    order = ['workdir', *(name for name in values if name not in _ALWAYS), *_ALWAYS[1:]]
    shown |= {name: _describe_flag(values[name]) for name in order}
    lines += ['Flags:', *(f'  --{name:11} {text}' for name, text in shown.items()), '']
  lines += ['Examples:', *(_example(command, text) for text in page.examples), '']
  if page.config:
    lines += [
      'Any field of the config can be set as --config.FIELD=VALUE, a tuple as',
      """--config.arms="('real_only','augmented')".""",
      f'`{_PROGRAM} fields` lists the groups of fields, `fields mix` lists the',
      'fields of one group, and docs/config.md has them all.',
    ]
  elif command != 'fields':
    lines.append('The config is read from the workdir.')
  return '\n'.join(lines).rstrip()


def _describe_flag(flag):
  has_default = flag.default not in (None, '') and flag.default is not False
  return f'{flag.help} Default: {flag.default}.' if has_default else flag.help


def _example(command, text):
  words = f'{_PROGRAM} {command} {text}'
  return textwrap.fill(
    words,
    88,
    initial_indent='  ',
    subsequent_indent='      ',
    break_long_words=False,
    break_on_hyphens=False,
  ).replace('\n', ' \\\n')


def fields_page(name: str = '') -> str:
  """What the command `fields` prints: a group, a field, or for '' the groups.

  Raises:
    ConfigError: if there is neither a group nor a field of that name.
  """
  entries = reference.find(name)
  if not name:
    lines = [f'  {group:12} {text}' for group, text in reference.GROUPS.items()]
    return '\n'.join(['Groups of fields:', *lines, '', f'{_PROGRAM} fields GROUP'])
  wrap = lambda text: textwrap.fill(
    text, 88, initial_indent='    ', subsequent_indent='    '
  )
  return '\n'.join(
    f'{entry.name} = {entry.default}\n{wrap(" ".join(entry.meaning()))}\n'
    f'{wrap(" ".join(entry.advice()))}\n'
    for entry in entries
  )
