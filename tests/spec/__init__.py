"""Tests of the running service from outside. Read them to learn the product."""
