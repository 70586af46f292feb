"""``python -m stellarfit`` is the command ``stellarfit``."""

from stellarfit.cli import main

if __name__ == "__main__":
    main(prog_name="stellarfit")
