"""Makes `python -m worldmodel` the same as the command `worldmodel`."""

from worldmodel.cli import main

if __name__ == "__main__":
    main()
