"""The commands, one a file: `add_options` says what a command takes, `run` does it. Nothing heavy before `run`."""
