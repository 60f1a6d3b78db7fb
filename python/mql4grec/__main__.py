"""`python -m mql4grec`."""

from mql4grec.cli import main

if __name__ == "__main__":
    main()
