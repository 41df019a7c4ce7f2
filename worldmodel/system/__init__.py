"""Files, YAML and type checks of plain data, presets, names for files, and how the package was installed."""
