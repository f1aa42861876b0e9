"""What specialization for inference is made of."""
