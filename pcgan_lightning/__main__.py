"""`python -m pcgan_lightning` is `pcgan`."""

from pcgan_lightning.cli import main

if __name__ == "__main__":
    main()
