"""Real processes, frozen or killed by themselves at a named point.

Start at `points`; tests use `starting`.
"""
