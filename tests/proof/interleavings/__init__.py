"""Many lives of one payment: the core against a model of Daraja, in virtual time (README.md)."""
