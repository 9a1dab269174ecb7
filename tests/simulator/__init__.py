"""A stand-in for Safaricom's Daraja, written from the contract alone: start with README.md here."""

from tests.simulator.app import Simulator

__all__ = ["Simulator"]
