"""`python -m codir` is `codir`."""

from codir.cli.main import run

if __name__ == "__main__":
    run()
