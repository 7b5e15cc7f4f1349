"""The one error that is meant for the user's eyes."""


class Refusal(Exception):  # noqa: N818 - it names what happened, not an error in the code
    """Input that cannot be worked with. Its text is one line: what was got, what is allowed.

    Raised before any expensive work. The command line prints it without a traceback and exits 2;
    library callers catch it like any exception.
    """
