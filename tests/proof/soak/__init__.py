"""A long run under load while everything is killed, frozen and taken away (`make soak`).

README.md has the whole.
"""
