"""Export and serve: a SavedModel that answers as it was trained."""
