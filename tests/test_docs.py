"""The documentation is true: links, commands, fields, code and what it quotes exist.

Commands are parsed and their configs validated, nothing is trained; what commands do is
for the tests of each. Blocks that begin with '# needs' need what CI lacks.
"""

import ast
import functools
import importlib
import pathlib
import re
import runpy
import shlex
import textwrap
from xml.etree import ElementTree

import numpy as np
import pytest

from gan_aug_jax import config as config_lib
from gan_aug_jax.cli import commands, parsing
from gan_aug_jax.config import fields as fields_lib, validation
from gan_aug_jax.experiment import ablation, runs
from gan_aug_jax.generators import external, family, generator_training
from gan_aug_jax.training.workdir import Session
from tests import test_ablation, tiny
from tests.test_imports import FOLDERS

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md']
PAGES += [*sorted(ROOT.glob('docs/**/*.md')), ROOT / 'benchmarks' / 'README.md']
# Of what was run, on which hosts and for how long stands at their head.
RECORDS = {ROOT / 'docs' / 'results.md', ROOT / 'benchmarks' / 'README.md'}
# What CI does not have: a block with one of these has to say so.
LACKING = r'sbatch|srun|gcloud|\[cuda\]|\[tpu\]|platform=[gt]pu|CUDA_VISIBLE|coordinator='
LACKING += (
  r'|configs/(cifar10|mnist|mlp|generators)\.py|huggingface:|benchmarks\.vs_torch'
)
GROUPS = {
  f.partition('.')[0] for f in config_lib.flatten(config_lib.default()) if '.' in f
}
FIELDS = {
  **config_lib.flatten(config_lib.default()),
  **{f'ablation.{name}': value for name, value in config_lib.ablation().items()},
}


def _name(path):
  return str(path.relative_to(ROOT))


def _fences(text):
  """(language, code) of every fenced block, wherever it is indented to."""
  for match in re.finditer(r'^( *)```(\w*)\n(.*?)^\1```', text, re.M | re.S):
    yield match[2], textwrap.dedent(match[3])


def _blocks(path):
  """Every block of code: fenced, or indented by four after an empty line."""
  text = path.read_text()
  yield from (code for language, code in _fences(text) if language != 'python')
  rest = re.sub(r'^( *)```.*?^\1```', '', text, flags=re.M | re.S)
  for match in re.finditer(r'(?<=\n\n)(?: {4,}.*\n|\n(?= {4}))+', rest):
    yield textwrap.dedent(match[0])


def _commands(code):
  """Lists of words of each command of ours in a block, also within quoted ones."""
  lines = re.sub(r'\\\n\s*', ' ', code).splitlines()
  for line in lines:
    try:
      words = shlex.split(re.sub(r'([;&|])', r' \1 ', line), comments=True)
    except ValueError:  # prose
      continue
    for inner in words:
      if ' ' in inner and 'python -m' in inner:
        yield from _commands(inner[inner.index('python -m') :])
    starts = [
      i
      for i, word in enumerate(words)
      if word == 'gan-aug-jax' or (word == 'python' and words[i + 1 : i + 2])
    ]
    for i in starts:
      words_of = words[i:]
      ends = [n for n, word in enumerate(words_of) if word in ('&', '&&', '|', '||', ';')]
      yield words_of[: min(ends, default=None)]


def _all_commands():
  for path in PAGES:
    for code in _blocks(path):
      for words in _commands(code):
        # Variables of a shell stand for numbers here.
        words = [re.sub(r'\$\w+', '0', word) for word in words]
        if '[args]' not in words:
          yield pytest.param(words, id=f'{_name(path)}: {" ".join(words)[:70]}')


COMMANDS = list(_all_commands())


def test_commands_are_found():
  found = [' '.join(parameter.values[0]) for parameter in COMMANDS]
  for part in ('--array', '--worker'):  # theirs are quoted, and over several lines
    assert not any(part in command for command in found)
  for part in ('--shard=0/8', 'distributed.auto=True'):
    assert sum(part in command for command in found) >= 2, part
  for module in ('gan_aug_jax', 'benchmarks.', 'docs/reference.py'):
    assert any(module in command for command in found), module


@pytest.mark.parametrize('words', COMMANDS)
def test_command_would_be_taken(words, monkeypatch):
  monkeypatch.chdir(ROOT)
  if words[0] == 'gan-aug-jax':
    words = ['python', '-m', 'gan_aug_jax', *words[1:]]
  if words[1] != '-m':
    assert words[1] in ('-c',) or (ROOT / words[1]).is_file()
  elif words[2] == 'gan_aug_jax':
    check_command(words[3:])
  elif words[2].startswith('benchmarks.'):
    _check_benchmark(words[2], words[3:])
  else:
    assert words[2] in ('venv', 'pip', 'pytest')


def check_command(arguments):
  """Parses and validates a command of the package as it does itself."""
  command, *flags = arguments
  if command.startswith('--'):
    assert command in ('--help', '--version')
    return
  assert command in commands.COMMANDS
  values = parsing.parse(command, ['gan_aug_jax', *flags])
  if command == 'ablate' and not values.collect:
    assert ablation.list_arms(values.config, test_ablation.Costs(1000, 4, 2, 1))
  elif command in parsing.TRAINING:
    validation.validate(
      values.config, trains_generator=command == 'train-generator' or None
    )
    if values.config.generator.checkpoints:  # of steps that are saved
      session = Session(values.config, ROOT, tiny.layout(num_devices=1), quiet=True)
      generator_training.check(session, runs.load_data(values.config))
    module, _, name = values.config.generator.family.partition(':')
    if module.startswith('examples.'):
      assert name in _defined(ROOT / (module.replace('.', '/') + '.py'))


def _check_benchmark(module, arguments):
  """Checks a benchmark's name and flags, without importing it: flags are global."""
  path = ROOT / (module.replace('.', '/') + '.py')
  known = _flags(path) | _flags(ROOT / 'benchmarks' / 'timing.py')
  for argument in arguments:
    name, _, value = argument.lstrip('-').partition('=')
    if name.startswith('config.'):
      assert name.removeprefix('config.') in FIELDS
    elif name:
      assert name in known, f'{module} has no flag {name}'
    if name in ('config', 'ablation') and value:
      assert (ROOT / value.partition(':')[0]).is_file()


@functools.cache
def _flags(path):
  calls = [
    node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
  ]
  return {
    call.args[0].value
    for call in calls
    if isinstance(call.func, ast.Attribute) and call.func.attr.startswith('DEFINE')
  }


@pytest.mark.parametrize('path', sorted(set(PAGES) - RECORDS), ids=_name)
def test_what_ci_lacks_is_marked(path):
  for code in _blocks(path):
    if re.search(LACKING, code) and any(_commands(code)):
      assert code.startswith('# needs '), code


# Links between the pages of docs/ are checked where the site is built.
@pytest.mark.parametrize(
  'path', [path for path in PAGES if not path.is_relative_to(ROOT / 'docs')], ids=_name
)
def test_links_and_pictures_exist(path):
  text = re.sub(r'```.*?```', '', path.read_text(), flags=re.S)
  for target in re.findall(r'(?:\]\(|src=")([^)"\s]+)[)"]', text):
    if re.match(r'\w+:', target):
      continue
    file, _, anchor = target.partition('#')
    linked = (path.parent / file).resolve() if file else path
    assert linked.exists(), target
    if anchor:
      assert anchor in _anchors(linked), target


@functools.cache
def _anchors(path):
  """What the headings of a page are called in links, in GitHub's manner."""
  text = re.sub(r'```.*?```', '', path.read_text(), flags=re.S)
  headings = re.findall(r'^#+ (.+)$', text, re.M)
  plain = [re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings]
  return {heading.replace(' ', '-') for heading in plain}


def _spans(path):
  """Inline code of a page."""
  text = re.sub(r'^( *)```.*?^\1```', '', path.read_text(), flags=re.M | re.S)
  return re.findall(r'`([^`\n]+)`', text)


@pytest.mark.parametrize('path', PAGES, ids=_name)
def test_fields_that_are_named_exist_and_take_the_value(path):
  for span in _spans(path):
    match = re.fullmatch(r'(?:--config\.)?((?:\w+\.)?\w+)(?:=(\S.*))?', span)
    if not match:
      continue
    field, value = match.groups()
    group = field.partition('.')[0]
    if field in FIELDS:
      if value and (rule := getattr(fields_lib.FIELDS.get(field), 'rule', None)):
        assert rule.allows(_literal(value)), f'{span} must be {rule.text}'
    elif '.' in field and group in GROUPS | {'ablation'}:
      rest = field.partition('.')[2]
      assert rest in ('py', 'json', 'safetensors', 'stablehlo') or rest in _defined(
        ROOT / 'gan_aug_jax' / f'{group}.py'
      ), span


def _literal(value):
  try:
    return ast.literal_eval(value.strip('"'))
  except (ValueError, SyntaxError):
    return value


def _defined(path):
  """Names that a Python file defines; none where there is no file."""
  tree = ast.parse(path.read_text() if path.exists() else '')
  return {node.name for node in tree.body if hasattr(node, 'name')}


def _python_blocks():
  for path in PAGES:
    codes = [code for language, code in _fences(path.read_text()) if language == 'python']
    for number, code in enumerate(codes):
      yield pytest.param(path, code, id=f'{_name(path)}-{number}')


@pytest.mark.parametrize(('path', 'code'), list(_python_blocks()))
def test_python_is_code_and_what_can_be_run_runs(path, code, tmp_path, toy, monkeypatch):
  tree = ast.parse(code)
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module.startswith('gan_aug_jax'):
      for alias in node.names:
        _resolve(node.module, alias.name)
    is_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    if is_name and node.value.id == 'gan_aug_jax':
      _resolve('gan_aug_jax', node.attr)
  if path.name == 'extending.md':
    assert any(_squeeze(code) in source for source in _sources()), 'not what is there'
  file = tmp_path / f'snippet_{hash(code) % 10**9}.py'  # none is imported twice
  file.write_text(code)
  if '@gan_aug_jax.generator' in code:
    (name,) = re.findall(r'@gan_aug_jax.generator\ndef (\w+)', code)
    monkeypatch.chdir(tmp_path)
    setting = family.Setting(toy.facts, tiny.layout('jit', 1))
    made = external.build(f'{file.stem}:{name}', setting, (), trusted=True)
    assert made.fit or made.shapes()
  elif 'def get_config' in code:
    config = runpy.run_path(str(file))['get_config']()
    if 'ablation' in config:
      ablation.list_arms(config, test_ablation.Costs(1000, 4, 2, 1))
    else:
      validation.validate(config)


def _resolve(module, name):
  """Imports something that a page imports."""
  if not hasattr(importlib.import_module(module), name):
    importlib.import_module(f'{module}.{name}')


def _squeeze(code):
  return re.sub(r'\s+', ' ', code.strip())


@functools.cache
def _sources():
  return [_squeeze(path.read_text()) for path in (ROOT / 'gan_aug_jax').rglob('*.py')]


def test_config_reference_is_current():
  reference = runpy.run_path(str(ROOT / 'docs' / 'reference.py'))
  assert reference['main'](['--check']) == 0, 'run python docs/reference.py'
  assert set(re.findall(r'^### `([\w.]+)`', reference['render'](), re.M)) >= set(FIELDS)


def test_reference_that_is_not_current_is_told(tmp_path, monkeypatch, capsys):
  reference = runpy.run_path(str(ROOT / 'docs' / 'reference.py'))
  page = tmp_path / 'config.md'
  reference['main'].__globals__['PAGE'] = page
  assert reference['main'](['--check']) == 1
  assert 'python docs/reference.py' in capsys.readouterr().err
  assert reference['main']([]) == 0
  assert reference['main'](['--check']) == 0
  page.write_text(page.read_text().replace('gan.arch', 'gan.kind'))
  assert reference['main'](['--check']) == 1


def test_picture_of_imports_is_current():
  imports = runpy.run_path(str(ROOT / 'docs' / 'imports.py'))
  assert imports['main'](['--check']) == 0, 'run python docs/imports.py'
  layers = imports['find_layers'](imports['find_edges']())
  layer_of = {folder: n for n, layer in enumerate(layers) for folder in layer}
  for above, below in imports['find_edges']():
    assert layer_of[above] < layer_of[below]
    assert FOLDERS.index(above) > FOLDERS.index(below)


def test_picture_that_is_out_of_date_is_told(tmp_path, capsys):
  imports = runpy.run_path(str(ROOT / 'docs' / 'imports.py'))
  picture = tmp_path / 'imports.svg'
  imports['main'].__globals__['PICTURE'] = picture
  assert imports['main'](['--check']) == 1
  assert 'python docs/imports.py' in capsys.readouterr().err
  assert imports['main']([]) == 0
  assert imports['main'](['--check']) == 0
  ElementTree.parse(picture)
  text = picture.read_text()
  picture.write_text(text.replace('cli experiment', 'cli models'))
  assert imports['main'](['--check']) == 1
  with pytest.raises(ValueError, match='circle'):
    imports['find_layers']({('data', 'step'): 1, ('step', 'data'): 1})


def test_design_names_every_module_and_tests_that_exist():
  text = (ROOT / 'docs' / 'design.md').read_text()
  table = text[text.index('| folder |') : text.index('What is in each folder')]
  rows = re.findall(r'^\| (`.*?) \|', table, re.M)
  named = [name for row in rows for name in re.findall(r'`(\w+)`', row)]
  assert named == [folder for folder in FOLDERS if folder != '__main__']
  for folder in (path.parent for path in (ROOT / 'gan_aug_jax').glob('*/__init__.py')):
    item = re.search(rf'^- \*\*{folder.name}\*\*\. (.*\n(?:  .*\n)*)', text, re.M)
    modules = {path.stem for path in folder.glob('[!_]*.py')}
    assert set(re.findall(r'`(\w+)`', item[1])) == modules, folder.name
  tests = ''.join(path.read_text() for path in (ROOT / 'tests').glob('test_*.py'))
  for name in re.findall(r'`(test_\w+)…?`', text):
    assert f'def {name}' in tests, name
  for file in re.findall(r'`(?:tests/)?(test_\w+\.py)`', text):
    assert (ROOT / 'tests' / file).exists(), file


def test_every_command_is_shown():
  shown = {tuple(parameter.values[0][1:4]) for parameter in COMMANDS}
  for command in commands.COMMANDS:
    assert ('-m', 'gan_aug_jax', command) in shown, command


@pytest.mark.parametrize('arm', ['real_classical', 'augmented_classical'])
def test_shares_that_logits_are_shifted_by_are_positive(arm):
  script = runpy.run_path(str(ROOT / 'docs' / 'logit_adjustment.py'))
  recipe = config_lib.load_file('configs/recipes/low_data.py').get_config('mnist5k,50')
  recipe.arms = (arm,)
  shares = script['shown_shares'](recipe, np.array([400, 50, 8]))
  assert shares.min() > 0 and shares.sum() == pytest.approx(1)
  is_balanced = shares[2] > shares[1] / 2  # mix.classes='balance' adds rare ones
  assert is_balanced == (arm == 'augmented_classical')
