"""Sends events to the endpoints of backends. `deliverer.py` serves endpoints, `sweeper.py` finds
those that wait.
"""
