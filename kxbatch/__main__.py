"""`python -m kxbatch`: the command line without an installed script."""

from kxbatch.cli import main

if __name__ == "__main__":
    main()
