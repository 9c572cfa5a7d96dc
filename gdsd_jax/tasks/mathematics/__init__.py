"""Tasks of mathematics: their problems, and one way to find and compare final answers."""
