"""Posteriors: samplers on the fitted star's density, and what tells whether to believe them."""
