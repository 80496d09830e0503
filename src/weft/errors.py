"""The exceptions that users are meant to see."""


class UserError(ValueError):
    """Something the user can put right, told in one clear sentence that says what to do.

    The command line prints the sentence without a traceback and exits with code 2; Python callers
    catch it as a ``ValueError``. Broken promises among our own functions are ``assert``s, not this.
    """


class DamagedError(UserError):
    """A file of a run that does not hold what was written there; whoever can make it anew does."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop, and saved
    """Training stopped on request; a checkpoint was written and the message says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class OldKeyWarning(FutureWarning):
    """A recipe has keys by the names that they had in an earlier version."""
