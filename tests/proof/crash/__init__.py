"""The proof by crash points: every combination, killed or frozen exactly there.

Start at `table`; README.md has the rest.
"""
