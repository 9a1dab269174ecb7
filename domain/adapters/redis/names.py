"""The names of our keys. All of them, and all of arq's, are in one slot of a cluster.

Cluster mode with one shard therefore works. Redis hashes only the part of a name between braces. We
choose the name of arq's queue and the ids of its jobs. All names that arq uses contain one of
these, with one exception: each transaction that ends a job also uses the key `arq:abort`, whose
name is fixed. So our tag is `{arq:abort}`. The key `arq:abort` has no braces, so Redis hashes its
whole name, which gives the same slot.
"""

from __future__ import annotations

TAG = "{arq:abort}"  # `arq_queue.require_tested_arq` compares it with arq's name

PREFIX = f"mkwanja:{TAG}:"
