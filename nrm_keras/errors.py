"""The error that is the user's to mend: the command line prints its message and no traceback."""


class UserError(Exception):
    """Something outside this package is wrong; the message names the rule, the value received and the next step."""


MISUSE = 2  # the exit status of a command that met one
PROGRAM = "python -m nrm_keras"
