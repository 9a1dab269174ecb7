"""A simulator of Safaricom's Daraja, written only from the contract. Start with README.md here."""

from tests.simulator.app import Simulator

__all__ = ["Simulator"]
