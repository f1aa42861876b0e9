"""What the HTTP server is made of."""
