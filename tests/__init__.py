"""Tests, the simulator of Daraja, and the local stack that they stand on."""
