"""Grids of synthetic spectra from a recipe."""
