"""Builds the documentation as a site: sphinx-build -W docs site (extra `docs`)."""

import pathlib
import re

import gan_aug_jax

project, author = 'gan_aug_jax', 'the gan_aug_jax authors'
release = gan_aug_jax.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['_build']
smartquotes = False  # code would change, too
html_theme = 'furo'
html_title = 'gan_aug_jax'
myst_enable_extensions = ['colon_fence', 'html_image']
myst_heading_anchors = 4
suppress_warnings = ['myst.header']  # pages are read on GitHub, too
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
_ROOT = pathlib.Path(__file__).parent.parent


def _name_sources(app, docname, source):
  """Turns links to files outside docs/, which the site does not have, into their paths.

  Raises:
    ValueError: if a file is not there.
  """
  page = pathlib.Path(app.srcdir, docname).parent

  def replace(match):
    text, target = match[1], match[2].partition('#')[0]
    path = (page / target).resolve()
    is_page = path.is_relative_to(app.srcdir) and not path.is_dir()
    if not target or '://' in target or is_page:
      return match[0]
    if not path.exists():
      raise ValueError(f'{docname}: there is no {target}')
    return f'{text} (`{path.relative_to(_ROOT)}`)' if path.name not in text else text

  source[0] = re.sub(r'(?<!!)\[([^\]]+)\]\(([^)\s]+)\)', replace, source[0])


def _require_docstring(app, what, name, obj, options, lines):
  if not any(lines):
    raise ValueError(f'{what} {name} has no docstring')


def setup(app):
  app.connect('source-read', _name_sources)
  app.connect('autodoc-process-docstring', _require_docstring)
