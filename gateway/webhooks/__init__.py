"""The routes by which backends manage the endpoints that get webhooks."""
