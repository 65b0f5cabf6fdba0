"""`python -m gateway …` is the `sluice` command, also where its script is not on the PATH."""

from gateway.cli import main

if __name__ == "__main__":
    main()
