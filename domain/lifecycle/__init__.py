"""The life of a payment, one module a step, in order.

`accept`, `submit`, `record_answer` (to a send), `record_callback` (and what answers to our
questions say), `inquire` (asks Daraja, or sends again), `reconcile` (whatever is overdue),
`resolve` (by a person), `announce` (tells subscribers). `former_accounts` has what differs for
payments that another account sent.
"""
