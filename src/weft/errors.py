"""The one exception that users are meant to see."""


class UserError(ValueError):
    """Something the user can put right, told in one clear sentence that says what to do.

    The command line prints the sentence without a traceback and exits with code 2; Python callers
    catch it as a ``ValueError``. Broken promises among our own functions are ``assert``s, not this.
    """
