"""``python -m bridge`` and the console script ``herohe-bridge``."""

from bridge.cli import main

if __name__ == "__main__":
    main()
