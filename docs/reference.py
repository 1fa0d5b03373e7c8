"""Writes docs/config.md, the reference of every config field, from the table of fields.

python docs/reference.py           # writes it
python docs/reference.py --check   # exits with 1 if it is not current
"""

import pathlib
import re
import sys
import textwrap

from gan_aug_jax.config import fields, reference

PAGE = pathlib.Path(__file__).with_name('config.md')
_HEAD = """\
# Config reference

Written by `python docs/reference.py` from
[fields.py](../gan_aug_jax/config/fields.py); do not edit this page. In a terminal,
`python -m gan_aug_jax fields GROUP` prints the same.

A config is a Python file whose `get_config()` starts from `gan_aug_jax.config.default()`
and changes a few fields; [configs/](../configs/) has examples. On the command line, each
field that is not a dict is `--config.FIELD=VALUE`, a tuple is
`--config.arms="('real_only','augmented')"`, and fields of `ablation` are accepted by
`ablate` alone. Everything is checked before anything is computed: a field that is
misspelled, has a value that is not allowed, or contradicts another one is refused in one
sentence. Where no values are listed as allowed, any value of the default's type is.
"""
# {group or field: where it is explained}
_PAGES = {
  'run': 'howto/accelerators.md',
  'arms': 'concepts.md#data-flow',
  'data': 'howto/own-data.md',
  'data.placement': 'howto/own-data.md#sets-larger-than-the-devices-memory',
  'data.on_corrupt': 'howto/own-data.md#images-that-cannot-be-read',
  'data.image_size': 'howto/own-data.md#sizes',
  'data.test_on': 'howto/ablation.md#your-own-ablation',
  'generator': 'howto/generators.md',
  'generator.family': 'howto/own-generator.md',
  'generator.args': 'howto/own-generator.md',
  'generator.allow_foreign': 'howto/own-generator.md#say-what-it-was-trained-on',
  'generator.select': 'howto/generators.md#which-checkpoint-is-frozen',
  'generator.checkpoints': 'howto/generators.md#which-checkpoint-is-frozen',
  'gan': 'howto/generators.md#what-to-adjust',
  'flow': 'howto/generators.md#flow-matching-in-the-gans-place',
  'mix': 'howto/mixing.md',
  'mix.ratio': 'howto/ablation.md',
  'mix.mode': 'concepts.md#how-a-batch-is-composed',
  'mix.source': 'concepts.md#what-a-verdict-means',
  'mix.classes': 'howto/mixing.md#labels-and-classes',
  'mix.draw_ahead_mib': 'howto/accelerators.md',
  'latents': 'howto/mixing.md#choice',
  'filter': 'howto/mixing.md#choice',
  'targets': 'howto/mixing.md#labels-and-classes',
  'cache': 'howto/mixing.md#cost',
  'classifier': 'howto/own-classifier.md',
  'classifier.budget': 'concepts.md#what-is-held-equal',
  'classifier.batch_norm': 'howto/mixing.md#apart-from-synthesis',
  'classifier.logit_adjustment': 'howto/mixing.md#labels-and-classes',
  'augment': 'howto/mixing.md#apart-from-synthesis',
  'augment.transform': 'howto/own-classifier.md',
  'score': 'howto/generators.md#how-good-it-is',
  'distributed': 'howto/accelerators.md#several-processes',
  'profile': 'howto/accelerators.md',
  'log': 'howto/accelerators.md#when-it-is-interrupted',
  'ablation': 'howto/ablation.md#your-own-ablation',
  'ablation.negative_controls': 'concepts.md#what-a-verdict-means',
  'ablation.oracles': 'concepts.md#what-a-verdict-means',
}


def main(argv: list[str]) -> int:
  """Writes the page, or with --check says if it is not current; returns the exit code."""
  current = render()
  if '--check' not in argv:
    PAGE.write_text(current)
    return 0
  if PAGE.exists() and PAGE.read_text() == current:
    return 0
  print(f'{PAGE} is not current; run: python docs/reference.py', file=sys.stderr)
  return 1


def render() -> str:
  """Returns the page: Markdown."""
  parts, every = [_HEAD], reference.entries()
  for group, text in reference.GROUPS.items():
    parts.append(f'## {group}\n\n{text[0].upper()}{text[1:]}.\n')
    if group == 'run':
      rows = ''.join(f'- `{arm}`: {text}\n' for arm, text in _arms())
      parts.append(f'The arms:\n\n{rows}')
    parts += [_describe(entry) for entry in every if entry.group == group]
  return '\n'.join(parts)


def _describe(entry):
  page = _PAGES.get(entry.name, _PAGES[entry.group])
  name = pathlib.PurePath(page.partition('#')[0]).stem.replace('-', ' ')
  meaning, *allowed = entry.meaning()
  paragraphs = (
    _escape(meaning),
    ' '.join([f'Default: `{entry.default}`.', *map(_escape, allowed)]),
    f'{_escape(" ".join(entry.advice()))} More: [{name}]({page}).',
  )
  wrap = lambda text: textwrap.fill(
    text, 90, break_long_words=False, break_on_hyphens=False
  )
  return f'### `{entry.name}`\n\n' + '\n\n'.join(map(wrap, paragraphs)) + '\n'


def _escape(text):
  """Text in which nothing is Markdown."""
  return re.sub(r'(?<![\w`])([<*_])', r'\\\1', text)


def _arms():
  for name, (synthetic, classical) in fields.ARMS.items():
    kinds = 'real and synthetic images' if synthetic else 'real images'
    yield name, f'{kinds}, classically augmented' if classical else kinds


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
