"""Tests of one module at a time, without servers. Most of them take milliseconds."""
