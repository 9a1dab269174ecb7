"""What an operator deploys the service with: images, units, and the program for backups."""
