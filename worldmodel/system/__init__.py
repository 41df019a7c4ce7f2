"""What the library needs of the machine: files, plain data in them, presets, how the package was installed."""
