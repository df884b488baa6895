"""Mistakes of the user, as opposed to faults of the program."""


class UserError(Exception):
    """Something the user can put right: a wrong setting, missing data, a damaged file.

    The message is one sentence that names the setting or file and says what to do.
    Command lines print it without a traceback and end with exit status 2.
    """
