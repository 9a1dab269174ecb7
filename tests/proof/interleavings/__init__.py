"""Many lives of one payment: the pure core against a model of Daraja, in virtual time, in every
order (see README.md).
"""
