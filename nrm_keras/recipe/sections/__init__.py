"""The sections of a recipe: one frozen pydantic model each, with its defaults, limits and one line for every key."""
