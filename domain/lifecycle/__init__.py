"""The life of a payment, one module a step: `accept`, `submit`, `record_callback`, `reconcile`; `announce` tells the world."""
