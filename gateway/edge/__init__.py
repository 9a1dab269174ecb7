"""The HTTP layer of both processes: connections, limits, reading requests, answering errors."""
