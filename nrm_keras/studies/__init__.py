"""Studies: a claim, a grid of recipes by seeds, a measurement and a criterion written down before anything runs."""
