"""The one exception that reaches the user as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input: the message is one sentence that says what is wrong, where, and how to fix it."""
