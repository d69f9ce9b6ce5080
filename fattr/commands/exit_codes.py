"""With which code a command ends."""

EXIT_DONE, EXIT_LIMIT, EXIT_USAGE, EXIT_UNFINISHED = 0, 1, 2, 3
EXIT_SIGNAL = 128  # and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM
