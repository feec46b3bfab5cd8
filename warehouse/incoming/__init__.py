"""What becomes of rows before they are written: derived, prepared, checked."""
