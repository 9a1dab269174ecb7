"""The program that saves the database and restores it: `python -m workers.backup`."""
