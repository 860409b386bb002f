"""``python -m fastpredict``: the same command as the console script."""

from fastpredict.cli import main

if __name__ == "__main__":
    main(prog_name="python -m fastpredict")
