"""Tests of one module at a time. A test takes milliseconds and talks to no server."""
