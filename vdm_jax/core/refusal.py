"""The errors that are meant for the user's eyes."""


class Refusal(Exception):  # noqa: N818 - it names what happened, not an error in the code
    """Input that cannot be worked with. Its text is one line: what was got, what is allowed.

    Raised before any expensive work. The command line prints it without a traceback and exits 2;
    library callers catch it like any exception.
    """


class Unavailable(Refusal):
    """Something outside that is not there for now: room on a disk, another process of the run.

    The command line exits 75 (EX_TEMPFAIL of sysexits.h): the same command may work later.
    """
