"""Real processes that freeze or kill themselves at a named point.

Start at `points`. Tests use `starting`.
"""
