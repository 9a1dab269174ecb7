"""The local stack: everything that a payment needs, on one machine that has only Python.

Start reading at `stack.Stack`.
"""
