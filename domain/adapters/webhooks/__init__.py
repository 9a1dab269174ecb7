"""Sends webhooks over HTTP, and seals the keys that sign them."""
