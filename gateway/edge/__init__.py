"""What every peer meets before a handler does: how connections are held, which HTTP is taken, and how much at once."""
