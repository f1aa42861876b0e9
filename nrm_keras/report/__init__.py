"""Run directories -> pages and tables for people. Never imports TensorFlow."""
