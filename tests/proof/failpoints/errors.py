"""The one error of this package."""


class FailpointError(Exception):
    """What was asked for makes no sense; the message says why."""
