"""`python -m ddhub.cli`: what torchrun starts."""

from ddhub.cli.app import main

if __name__ == "__main__":
    main()
