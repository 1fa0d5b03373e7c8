"""What the command line says about itself is what it takes."""

import re
import shlex

import pytest

from gan_aug_jax import cli
from gan_aug_jax.cli import help as help_pages, parsing
from gan_aug_jax.config import reference
from tests.test_docs import check_command, ROOT


@pytest.mark.parametrize('command', help_pages.PAGES)
def test_a_page_is_about_its_command_and_its_examples_would_be_taken(
  command, capsys, monkeypatch
):
  monkeypatch.chdir(ROOT)
  assert cli.main(['gan_aug_jax', command, '--help']) == 0
  page = capsys.readouterr().out
  assert page.startswith(f'{command}: ') and 'Traceback' not in page
  assert all(len(line) <= 90 for line in page.splitlines())
  examples = re.findall(r'python -m gan_aug_jax (.*)', page.replace('\\\n', ''))[1:]
  for example in examples[:2]:
    assert example.startswith(command)
    if command == 'fields':
      assert cli.main(['gan_aug_jax', *shlex.split(example)]) == 0
    else:
      check_command(shlex.split(example))
  if command != 'fields':
    named = set(re.findall(r'^  --([\w-]+)', page, re.M))
    assert named - {'config'} == set(parsing.define(command))


def test_fields_are_found_by_group_and_by_name_and_none_is_left_out(capsys):
  shown = []
  for group in reference.GROUPS:
    assert cli.main(['gan_aug_jax', 'fields', group]) == 0
    shown += re.findall(r'^([\w.]+) = ', capsys.readouterr().out, re.M)
  assert shown == [entry.name for entry in sorted_by_group(reference.GROUPS)]
  assert cli.main(['gan_aug_jax', 'fields', 'mix.ratio']) == 0
  assert capsys.readouterr().out.startswith('mix.ratio = 0.2\n')
  assert cli.main(['gan_aug_jax', 'fields', 'lr']) == 2
  assert 'classifier.learning_rate' in capsys.readouterr().err


def sorted_by_group(groups):
  """All entries, in the order of their groups."""
  order = [*groups]
  return sorted(reference.entries(), key=lambda entry: order.index(entry.group))
