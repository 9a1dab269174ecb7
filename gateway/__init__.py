"""The two processes that receive HTTP: the ingress for clients, and the receiver for Daraja."""
