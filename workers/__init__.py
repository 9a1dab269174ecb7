"""The worker process: arq jobs that send payments, and the sweeper. Start at `main`."""
