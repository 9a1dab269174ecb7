"""A long run under load, while everything is killed, frozen and cut off (`make soak`).

README.md describes it.
"""
