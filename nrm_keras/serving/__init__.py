"""What makes a trained model a service: export, specialization for inference, drift monitor, server."""
