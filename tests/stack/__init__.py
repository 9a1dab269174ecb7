"""Everything a payment needs, on one machine, with nothing installed but Python.

Start at `stack.Stack`.
"""
