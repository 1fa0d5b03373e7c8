"""The errors that a user can cause and fix, each one sentence long.

The command line prints the sentence and exits with `exit_code`; a library user catches
the class.
"""

import os


class UserError(Exception):
  """Something the user can fix; the message says what is wrong and what to do."""

  exit_code = 3


class ConfigError(UserError, ValueError):
  """A config field, flag or combination that cannot work."""

  exit_code = 2


class DataError(UserError):
  """A dataset that is missing, unreadable or malformed."""


class CheckpointError(UserError):
  """A checkpoint or working directory that is missing, damaged or of another run."""


class NonFiniteError(UserError):
  """A loss or parameter that became NaN or infinite."""


class MachineError(UserError):
  """The machine refused: a full disk, a missing permission, too little memory."""


class WriteError(MachineError, OSError):
  """A file that cannot be written; what was there before is kept."""

  def __str__(self):
    directory, name = os.path.split(os.path.abspath(self.filename))
    return (
      f'{name!r} in {directory!r} cannot be written ({self.strerror}); fix that or '
      'choose another directory, and run the same command again.'
    )


class AblationError(UserError):
  """Some cells of an ablation failed; the others were trained and reported."""
