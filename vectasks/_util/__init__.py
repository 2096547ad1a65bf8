"""Small tools that belong to no room: files, extras, numbers, interrupts, closing."""
