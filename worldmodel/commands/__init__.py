"""The commands, one a file: `add_options` says what a command takes, `run` does it. Heavy imports wait for `run`."""
