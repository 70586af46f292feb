"""Other packages that emulate spectra or fit them, measured against ours."""
