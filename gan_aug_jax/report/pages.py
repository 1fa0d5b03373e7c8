"""Self-contained HTML pages from the templates of this folder."""

import base64
from collections.abc import Mapping
import re
from typing import Any

import jinja2

from gan_aug_jax import config as config_lib
from gan_aug_jax.training.progress import format_count


def render(
  template: str, *, config: Mapping, images: Mapping[str, bytes], **values: Any
) -> str:
  """Fills in a template.

  Args:
    template: its name in `templates/`. Values are escaped; a missing one raises.
    config: as saved in config.json; the page lists all its fields.
    images: {name: PNG bytes}, which the page embeds.

  Raises:
    LookupError: if a value is missing, as where the file that it is from is damaged.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('gan_aug_jax.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['counted'] = format_count
  embedded = {name: base64.b64encode(png).decode() for name, png in images.items()}
  values |= {'images': embedded, 'fields': _fields(config)}
  try:
    page = environment.get_template(template).render(values)
  except jinja2.UndefinedError as error:
    raise LookupError(str(error)) from error
  page = page.encode(errors='backslashreplace').decode()  # paths may be no UTF-8
  return re.sub(r'(?<=\d) (?=%)', '\N{NO-BREAK SPACE}', page)


def _fields(config):
  """(field, value, whether it differs from the default) of a saved config."""
  defaults = config_lib.flatten(config_lib.default())
  fields = config_lib.flatten(config_lib.from_dict(config))
  return [(name, value, value != defaults[name]) for name, value in fields.items()]
