"""Measuring programs beside each other. Imports nothing at start-up."""
