"""Writes docs/config.md, the reference of every config field, from the source.

    python docs/reference.py           # writes it
    python docs/reference.py --check   # exits with 1 if it is out of date

Fields, defaults and explanations are read from gan_aug_jax/config/fields.py and its
comments, allowed values from gan_aug_jax/config/rules.py. Nothing is kept here by hand.
"""

import ast
import io
import pathlib
import sys
import tokenize

from gan_aug_jax import config as config_lib
from gan_aug_jax.config import fields, rules

PAGE = pathlib.Path(__file__).with_name('config.md')
_SOURCE = pathlib.Path(fields.__file__)
_HEAD = """\
# Config reference

Written by `python docs/reference.py` from [fields.py](../gan_aug_jax/config/fields.py)
and [rules.py](../gan_aug_jax/config/rules.py); do not edit this page.

A config is a Python file whose `get_config()` starts from
`gan_aug_jax.config.default()` and changes a few fields; see [configs/](../configs/). On
the command line, set a field with `--config.FIELD=VALUE` and a tuple with
`--config.arms="('real_only','augmented')"`. The config is checked before anything is
computed: misspelled fields, values that are not allowed and fields that cannot go
together are refused with one sentence. An empty cell under "allowed" means any value of
the default's type.
"""
_OF_THE_RUN = 'The run'


def main(argv):
  """Writes the page, or with --check tests if it is current; returns the exit code."""
  current = render()
  if '--check' not in argv:
    PAGE.write_text(current)
    return 0
  if PAGE.exists() and PAGE.read_text() == current:
    return 0
  print(f'{PAGE} is out of date; run: python docs/reference.py', file=sys.stderr)
  return 1


def render():
  """The page: Markdown."""
  source = _SOURCE.read_text()
  comments, groups = _comments(source), {}
  for field, value, line in _fields(ast.parse(source)):
    group, _, _ = field.rpartition('.')
    default = _default(field, value)
    row = (f'`{field}`', f'`{default}`', comments.get(line, ''), _allowed(field))
    groups.setdefault(group or _OF_THE_RUN, []).append(row)
  parts = [_HEAD]
  for group, rows in groups.items():
    parts.append(f'## {group}\n\n{_table(("field", "default", "", "allowed"), rows)}')
    if group == _OF_THE_RUN:
      parts.append(f'The arms:\n\n{_table(("arm", "what it trains on"), _arms())}')
  return '\n'.join(parts)


def _comments(source):
  """{line number: text of the comment at its end}."""
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  return {
    token.start[0]: token.string.lstrip('# ')
    for token in tokens
    if token.type == tokenize.COMMENT
  }


def _fields(tree):
  """(dotted field, AST of its default, line) of `default()`, then of `ablation()`."""
  functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
  prefixes = {'config': ''}
  for node in functions['default'].body:
    if not isinstance(node, ast.Assign):
      continue
    target = node.targets[0]
    if len(node.targets) == 2:  # config.data = data = ConfigDict()
      prefixes[node.targets[1].id] = f'{target.attr}.'
    elif isinstance(target, ast.Attribute):
      yield prefixes[target.value.id] + target.attr, node.value, node.lineno
  (table,) = (
    n for n in ast.walk(functions['ablation']) if isinstance(n, ast.Dict) and n.keys
  )
  for key, value in zip(table.keys, table.values, strict=True):
    yield f'ablation.{key.value}', value, key.lineno


def _default(field, node):
  """A default as written in the source, or its value if that is computed."""
  try:
    ast.literal_eval(node)
    return ast.unparse(node)
  except ValueError:
    return repr(config_lib.flatten(config_lib.default())[field])


def _allowed(field):
  _, description = rules.RULES.get(field, (None, ''))
  return description


def _arms():
  for name, (synthetic, classical) in config_lib.ARMS.items():
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
