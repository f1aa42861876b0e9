"""Whether requests are still like the data that a model was made for."""
