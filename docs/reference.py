"""Writes docs/config.md, the reference of every config field, from the table of fields.

python docs/reference.py           # writes it
python docs/reference.py --check   # exits with 1 if it is not current
"""

import pathlib
import sys

from gan_aug_jax.config import fields

PAGE = pathlib.Path(__file__).with_name('config.md')
_HEAD = """\
# Config reference

Written by `python docs/reference.py` from
[fields.py](../gan_aug_jax/config/fields.py); do not edit this page.

A config is a Python file whose `get_config()` starts from `gan_aug_jax.config.default()`
and changes a few fields; see [configs/](../configs/). On the command line each field is
`--config.FIELD=VALUE`, a tuple `--config.arms="('real_only','augmented')"`. Everything is
checked before anything is computed: a field that is misspelled, has a value that is not
allowed, or contradicts another one is refused in one sentence. Where "allowed" is empty,
any value of the default's type is.

"Retrained" says what has to be trained again when the field changes: the whole `run`, the
`generator`, the arms that draw synthetic images (`synthesis`), every arm (`classifier`),
a generator that is not finished (`cadence`: it is chosen from its checkpoints), or
`nothing`, because it says where or how a run happens.
"""
_OF_THE_RUN = 'The run'


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
  groups = {}
  for name, field in fields.FIELDS.items():
    group = name.rpartition('.')[0] or _OF_THE_RUN
    allowed = field.rule.text if field.rule else ''
    row = (f'`{name}`', f'`{field.default!r}`', field.doc, allowed, field.affects)
    groups.setdefault(group, []).append(row)
  parts = [_HEAD]
  for group, rows in groups.items():
    head = ('field', 'default', 'meaning', 'allowed', 'retrained')
    parts.append(f'## {group}\n\n{_table(head, rows)}')
    if group == _OF_THE_RUN:
      parts.append(f'The arms:\n\n{_table(("arm", "what it trains on"), _arms())}')
  rows = [
    (f'`ablation.{name}`', f'`{field.default!r}`', field.doc)
    for name, field in fields.ABLATION_FIELDS.items()
  ]
  parts.append(f'## ablation\n\n{_table(("field", "default", "meaning"), rows)}')
  return '\n'.join(parts)


def _arms():
  for name, (synthetic, classical) in fields.ARMS.items():
    kinds = ['real images']
    kinds += ['synthetic images'] if synthetic else []
    kinds += ['with classical augmentation'] if classical else []
    yield f'`{name}`', ', '.join(kinds)


def _table(head, rows):
  escaped = ([cell.replace('|', r'\|') for cell in row] for row in rows)
  lines = [head, ['---'] * len(head), *escaped]
  return ''.join(f'| {" | ".join(line)} |\n'.replace('|  |', '| |') for line in lines)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
