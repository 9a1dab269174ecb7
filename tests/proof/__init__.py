"""The proofs that no payment is lost or made twice: see README.md."""
