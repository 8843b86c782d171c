"""Starting ranks through Dragon, watching them, and ending everything that was started."""
