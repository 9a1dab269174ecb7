"""How a payment comes in: the ingress that clients call, and the receiver that Daraja calls.

Two processes.
"""
