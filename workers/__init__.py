"""How a payment goes out: arq jobs that submit, and the sweeper beside them. Start at `main`."""
