"""One function per command, between the settings and the rooms."""
