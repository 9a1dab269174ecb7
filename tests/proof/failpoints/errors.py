"""The one error of this package."""


class FailpointError(Exception):
    """The failpoint or the check does not exist, or cannot be used so. The message says why."""
