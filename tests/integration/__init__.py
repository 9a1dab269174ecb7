"""One adapter against the real thing on the other side."""
