"""The two ways a run can end badly, as exceptions whose text is one sentence for the user.

`UsageError`: the request itself was wrong (exit code 2). `RunError`: it failed while running (exit code 1).
The command line prints the sentence without a traceback unless `HYDRA_FULL_ERROR=1`.
"""


class UsageError(Exception):
    """The request cannot be carried out as made: unknown key, missing file, unusable data. Exit code 2."""


class RunError(Exception):
    """The run started and could not go on, for instance a loss that is not finite. Exit code 1."""
