"""Tests, the simulator of Daraja, and the local stack that the tests use."""
