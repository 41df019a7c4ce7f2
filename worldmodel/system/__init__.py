"""What the library asks of the machine around it: files, plain data in them, presets, the installation."""
