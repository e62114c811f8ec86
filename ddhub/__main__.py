"""`python -m ddhub`: the command line as a module, which torchrun starts."""

from ddhub.cli.app import main

if __name__ == "__main__":
    main()
