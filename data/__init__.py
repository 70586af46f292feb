"""What ships: emulators, example spectra and recipes; found through importlib.resources."""
