<<<<<<< HEAD
"""Export and serve: a SavedModel that answers as it was trained."""
=======
"""What makes a trained model a service: export, specialization for inference, drift monitor, server."""
>>>>>>> 141a39cf362fd6324bde4d176b130dd3bc02ae75
