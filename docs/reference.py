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
# {group: the page that explains it}
_PAGES = {
  'run': 'howto/accelerators.md',
  'data': 'howto/own-data.md',
  'generator': 'howto/generators.md',
  'gan': 'howto/generators.md',
  'flow': 'howto/generators.md',
  'mix': 'howto/mixing.md',
  'latents': 'howto/mixing.md',
  'filter': 'howto/mixing.md',
  'targets': 'howto/mixing.md',
  'cache': 'howto/mixing.md',
  'classifier': 'howto/mixing.md',
  'augment': 'howto/mixing.md',
  'score': 'howto/generators.md',
  'distributed': 'howto/accelerators.md',
  'profile': 'howto/accelerators.md',
  'log': 'howto/accelerators.md',
  'ablation': 'howto/ablation.md',
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
    page = pathlib.PurePath(_PAGES[group])
    more = f'See [{page.stem.replace("-", " ")}]({page}).'
    parts.append(f'## {group}\n\n{text[0].upper()}{text[1:]}. {more}\n')
    if group == 'run':
      rows = ''.join(f'- `{arm}`: {text}\n' for arm, text in _arms())
      parts.append(f'The arms:\n\n{rows}')
    parts += [_describe(entry) for entry in every if entry.group == group]
  return '\n'.join(parts)


def _describe(entry):
  text = re.sub(r'(?<![\w`])([<*_])', r'\\\1', ' '.join(entry.sentences()))
  lines = textwrap.fill(f'{text} Default: `{entry.default}`.', 90, break_long_words=False)
  return f'### `{entry.name}`\n\n{lines}\n'


def _arms():
  for name, (synthetic, classical) in fields.ARMS.items():
    kinds = 'real and synthetic images' if synthetic else 'real images'
    yield name, f'{kinds}, classically augmented' if classical else kinds


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
