"""`python -m fork_trace`."""

from fork_trace.commands.cli import main

if __name__ == "__main__":
    main()
