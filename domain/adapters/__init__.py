"""The only shared input and output. Adapters do not know each other; the processes compose them."""
