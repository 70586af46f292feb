"""``python -m emulators`` is the command ``emulators``, so that ``torchrun -m`` can start it."""

from emulators.cli import main

if __name__ == "__main__":
    main(prog_name="emulators")
