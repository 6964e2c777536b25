"""Everything that touches disk; whole artefacts appear at once or not at all."""
