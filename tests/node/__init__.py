"""Programs of Node that tests run. `package-lock.json` fixes every byte of them."""
