"""The `arno` command, as its entry point runs it: `python -m tests.acceptance.arno_command …`."""

from arno_producer.cli import main

if __name__ == "__main__":
    main()
