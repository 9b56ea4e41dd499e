"""The Gradio page, as a file to run: `python app.py` is `gazeqwen app`."""

import sys

from gazeqwen.cli import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
