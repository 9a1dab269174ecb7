"""Authentication of callers: the issuer's keys, and the checks of a token."""
