"""The settings of the processes. Each process reads its environment once, at start.

`web`, `callbacks` and `worker` have the settings of one process, `common` those of all processes,
and `values` the types of values. No message contains a value, because it might be a secret.
"""
