"""``python -m gnnscale``: the same as the console script."""

from gnnscale.cli import main

if __name__ == "__main__":
    main()
